"""``kizashi migrate``: schema and topics; a server that is away is one line, not a traceback."""

from __future__ import annotations

from embedded.broker import EmbeddedBroker
from tests.commands import kizashi

AWAY = "127.0.0.1:1"


def test_it_can_be_repeated(empty_database: str, broker: EmbeddedBroker, topic: str) -> None:
    environment = {
        "KIZASHI_DATABASE_URL": empty_database, "KIZASHI_KAFKA_BOOTSTRAP": broker.bootstrap,
        "KIZASHI_EVENTS_TOPICS": f'["{topic}"]',
    }  # fmt: skip
    for _ in range(2):
        done = kizashi("migrate", environment=environment)
        assert done.exit_code == 0, done.output
        assert f"Topics ready: {topic}." in done.stderr.replace("\n", "")


def test_without_a_database_it_says_so_in_a_line() -> None:
    failed = kizashi("migrate", environment={"KIZASHI_DATABASE_URL": f"postgresql://kizashi:hush@{AWAY}/kizashi"})
    assert failed.exit_code == 1
    (line,) = failed.stderr.splitlines()
    assert "127.0.0.1:1/kizashi cannot be used: ConnectionRefusedError" in line
    assert "hush" not in failed.output
    assert isinstance(failed.exception, SystemExit), "a traceback reached the user"


def test_without_a_broker_the_schema_stands_and_a_line_says_what_is_missing(empty_database: str) -> None:
    environment = {"KIZASHI_DATABASE_URL": empty_database, "KIZASHI_KAFKA_BOOTSTRAP": AWAY}
    failed = kizashi("migrate", environment=environment)
    assert failed.exit_code == 1
    *_, migrated, line = failed.stderr.splitlines()
    assert migrated == "The database is at the newest schema."
    assert line.startswith("The topics could not be made: ")
    assert isinstance(failed.exception, SystemExit)
