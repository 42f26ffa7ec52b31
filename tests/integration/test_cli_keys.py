"""``kizashi keys``: shown once, listed without secrets, revoked."""

from __future__ import annotations

import re

from tests.commands import kizashi


def test_a_key_is_shown_once_and_can_be_revoked(database: str) -> None:
    environment = {"KIZASHI_DATABASE_URL": database}
    made = kizashi("keys", "create", "shop", "--scope", "ingest", "--scope", "read", "--expires", "90d",
                   environment=environment)  # fmt: skip
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    match = re.fullmatch(r"kz_([0-9a-z]{10})_\S{43}", key)
    assert match is not None
    listed = kizashi("keys", "list", environment=environment).stdout
    assert all(word in listed for word in (match[1], "shop", "ingest read", "live"))
    assert key not in listed
    assert kizashi("keys", "revoke", match[1], environment=environment).exit_code == 0
    assert "revoked" in kizashi("keys", "list", environment=environment).stdout
    assert kizashi("keys", "revoke", "0000000000", environment=environment).exit_code == 1


def test_what_cannot_be_made(database: str) -> None:
    environment = {"KIZASHI_DATABASE_URL": database}
    assert kizashi("keys", "create", "a b", "--scope", "read", environment=environment).exit_code == 2
    assert kizashi("keys", "create", "a", environment=environment).exit_code == 2
    assert kizashi("keys", "create", "a", "--scope", "admin", environment=environment).exit_code == 2
    assert (
        kizashi("keys", "create", "a", "--scope", "read", "--expires", "soon", environment=environment).exit_code == 2
    )


def test_without_a_database_it_says_so_and_shows_no_password() -> None:
    environment = {"KIZASHI_DATABASE_URL": "postgresql+asyncpg://kizashi:hush-hush@127.0.0.1:1/kizashi"}
    failed = kizashi("keys", "list", environment=environment)
    assert failed.exit_code == 1
    assert "cannot be used" in failed.stderr
    assert "hush-hush" not in failed.output
