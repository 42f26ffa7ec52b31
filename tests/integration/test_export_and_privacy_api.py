"""What is held on somebody is handed out; erasures are asked for by API and by command; the audit cannot be changed."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import accounts
from service import erasures, export
from tests import canary
from tests.api import api
from tests.commands import kizashi
from tests.integration.test_erasure import (
    ACCOUNT,
    COMPANY,
    MAIL,
    USER,
    apply,
    eraser,
    of_everybody,
    plant,
    to_records,
)


async def _filled(engine: AsyncEngine) -> None:
    await apply(engine, to_records([*of_everybody(ACCOUNT, USER, MAIL), *of_everybody(COMPANY, "u-2", "b@c.example")]))
    await plant(engine, ACCOUNT, USER, MAIL)


async def test_an_export_holds_the_account_and_nobody_else(engine: AsyncEngine) -> None:
    await _filled(engine)
    async with api(engine) as it:
        answer = await it.client.get(f"/api/v1/accounts/{ACCOUNT}/export")
        assert answer.status_code == 200, answer.text
        document = answer.json()
        jsonschema.validate(document, export.schema())
        assert "b@c.example" not in answer.text
        empty = {name for name, rows in document["tables"].items() if not rows}
        assert empty == set()
        assert int(answer.headers["content-length"]) == len(answer.content)
        of_user = (await it.client.get(f"/api/v1/accounts/{ACCOUNT}/export", params={"user_id": USER})).json()
        assert [row["user_id"] for row in of_user["tables"]["users"]] == [USER]
        assert {row["user_id"] for row in of_user["tables"]["record_events"]} == {USER, "other", None}
        assert all(
            row["user_id"] == USER or MAIL in json.dumps(row) or USER in json.dumps(row)
            for row in of_user["tables"]["record_events"]
        )
        assert of_user["tables"]["accounts"] == []
        assert (await it.client.get("/api/v1/accounts/nobody/export")).status_code == 404
        noted = (await it.client.get("/api/v1/audit", params={"action": "export.made"})).json()["items"]
        assert [each["actor"] for each in noted] == ["key:tests", "key:tests"]
        assert ACCOUNT not in json.dumps(noted)


async def test_an_erasure_is_asked_for_and_followed(engine: AsyncEngine) -> None:
    await _filled(engine)
    async with api(engine) as it:
        asked = await it.client.post("/api/v1/erasures", json={"account_id": ACCOUNT})
        again = await it.client.post("/api/v1/erasures", json={"account_id": ACCOUNT})
        assert (asked.status_code, asked.json()["status"]) == (202, "waiting")
        assert again.json()["erasure_id"] == asked.json()["erasure_id"]
        erasure_id = asked.json()["erasure_id"]
        for body in ({}, {"user_id": None}, {"account_id": ""}, {"account": "x"}):
            assert (await it.client.post("/api/v1/erasures", json=body)).status_code == 422
        (waiting,) = await eraser(engine)._waiting()
        await eraser(engine).run(waiting)
        done = (await it.client.get(f"/api/v1/erasures/{erasure_id}")).json()
        assert (done["status"], done["account_id"]) == ("done", None)
        listed = (await it.client.get("/api/v1/erasures", params={"limit": 1})).json()
        assert [each["erasure_id"] for each in listed["items"]] == [erasure_id]
        assert (await it.client.get("/api/v1/erasures/00000000-0000-0000-0000-000000000000")).status_code == 404
        first = (await it.client.get("/api/v1/audit", params={"limit": 1})).json()
        second = (await it.client.get("/api/v1/audit", params={"limit": 1, "cursor": first["next_cursor"]})).json()
        assert [each["items"][0]["action"] for each in (first, second)] == ["erasure.done", "erasure.requested"]
        assert (await it.client.get("/api/v1/audit", params={"subject": "nobody"})).json()["items"] == []
    assert await canary.places(engine, ACCOUNT) == set()


async def test_keys_are_noted(engine: AsyncEngine) -> None:
    async with api(engine) as it:
        made = (await it.client.post("/api/v1/keys", json={"name": "shop", "scopes": ["ingest"]})).json()
        await it.client.delete(f"/api/v1/keys/{made['details']['key_id']}")
        noted = (await it.client.get("/api/v1/audit", params={"actor": "key:tests"})).json()["items"]
        assert [(each["action"], each["subject"]) for each in noted] == [
            ("key.revoked", made["details"]["key_id"]), ("key.created", made["details"]["key_id"]),
        ]  # fmt: skip
        assert made["key"] not in json.dumps(noted)


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_the_audit_is_append_only(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as conn:
        with pytest.raises(DBAPIError, match="append-only"):
            await conn.execute(text(statement))


async def test_forget_and_export_by_command(engine: AsyncEngine, database: str, tmp_path: Path) -> None:
    await _filled(engine)
    environment = {"KIZASHI_DATABASE_URL": database}
    file = tmp_path / "held.json"
    made = kizashi("export", "--account", ACCOUNT, "--output", str(file), environment=environment)
    assert made.exit_code == 0, made.output
    jsonschema.validate(json.loads(file.read_bytes()), export.schema())

    nobody = kizashi("forget", environment=environment)
    assert nobody.exit_code == 2
    tried = kizashi("forget", "--account", ACCOUNT, "--dry-run", environment=environment)
    assert tried.exit_code == 0 and "Nothing was changed" in tried.stderr, tried.output
    assert ACCOUNT.encode() in file.read_bytes() and await canary.places(engine, ACCOUNT)
    done = kizashi("forget", "--account", ACCOUNT, "--yes", environment=environment)
    assert done.exit_code == 0 and "Done" in done.stderr, done.output
    assert await canary.places(engine, ACCOUNT) == set()


async def test_an_evaluation_that_was_under_way_leaves_nothing(engine: AsyncEngine) -> None:
    """It has taken the account from the queue before the erasure, and makes its health row after it."""
    await _filled(engine)
    work = eraser(engine)
    async with engine.begin() as conn:
        asked = await erasures.request(conn, work.named(ACCOUNT, None), by="t", now=work.clock())

    async with engine.connect() as slow, slow.begin():
        await slow.execute(update(accounts).where(accounts.c.account_id == COMPANY).values(version=9))  # has an xid

        async def write(step: str, _: dict[str, int]) -> None:
            await slow.execute(text("INSERT INTO health (account_id) VALUES (:a)"), {"a": ACCOUNT})
            await slow.commit()

        import asyncio

        running: list[asyncio.Task[None]] = []

        def told(step: str, counts: dict[str, int]) -> None:
            if step == "letters":
                running.append(asyncio.create_task(write(step, counts)))

        await work.run(asked.erasure_id, told)
        await asyncio.gather(*running)
    assert await canary.places(engine, ACCOUNT) == set()
