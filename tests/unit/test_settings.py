"""A wrong setting ends the start with a line that names it, the problem and the remedy, and never shows its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import EX_CONFIG, load

NAMED = {
    "KIZASHI_EVENTS_TOPICS": ["hush.events", '{"a": ', "[]", "[[1]]", '"hush"'],
    "KIZASHI_METRICS_PEERS": [
        "consumer=http://hush:9100/metrics",
        *(f'["consumer=http://c:1/metrics", "{peer}"]' for peer in (
            "http://hush", "a b=http://hush/metrics", "api=http://hush/metrics", "sender=ftp://hush/metrics", "sender=",
            "sender=http://hush:9100", "sender=http:///metrics", "sender=http://[hush/metrics",
        )),
    ],
    "KIZASHI_DATABASE_URL": [
        "", "hush", "mysql://u:hush@db/x", "postgresql+psycopg://u:hush@db/x", "postgresql://u:hush@db:port/x",
    ],
    "KIZASHI_SECRET_KEY": ["", "hush", "hush567890abcde"],
    "KIZASHI_PORT": ["hush"],
    "KIZASHI_SMTP_TLS": ["hush"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NAMED.items() for value in values])
def test_a_wrong_setting_ends_the_start_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        load()
    assert ended.value.code == EX_CONFIG
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "Settings are wrong:"
    assert [line.split(": ")[0].strip() for line in lines] == [name]
    assert "hush" not in lines[0]


def test_a_file_is_checked_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".env").write_text("KIZASHI_EVENTS_TOPICS=kizashi.events\nPOSTGRES_PASSWORD=x\n")
    with pytest.raises(SystemExit):
        load()
    assert "KIZASHI_EVENTS_TOPICS: is not a JSON list" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql", "postgres"])
def test_every_address_of_a_postgres_is_taken_by_our_driver(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIZASHI_DATABASE_URL", f"{scheme}://u:p%40%2F%25@db:6432/x?host=/run/pg")
    assert load().database_url.get_secret_value() == "postgresql+asyncpg://u:p%40%2F%25@db:6432/x?host=%2Frun%2Fpg"


def test_peers_and_keys_of_the_right_form_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIZASHI_METRICS_PEERS", '["consumer=http://c:1/metrics", "sender=https://s/x/metrics"]')
    monkeypatch.setenv("KIZASHI_SECRET_KEY", "0123456789abcdef")
    assert len(load().metrics_peers) == 2
