"""Gaps as people change them, by command: noted, ended, marked; audited, and everybody is looked at again."""

from __future__ import annotations

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.tables import stream_offsets
from health.source_bits import source_bit
from health.tables import accounts, sources, touched
from service.tables import audit
from tests.api import NOW, add_accounts, api
from tests.commands import kizashi


def test_a_gap_is_noted_ended_and_marked_by_command(database: str) -> None:
    environment = {"KIZASHI_DATABASE_URL": database}
    assert kizashi("gaps", "open", "--from", "6h", "--reason", "bus down", environment=environment).exit_code == 0
    again = kizashi("gaps", "open", "--from", "5h", "--reason", "bus down", environment=environment)
    assert again.exit_code == 1 and "goes on already" in again.stderr
    listed = kizashi("gaps", "list", "--json", environment=environment)
    (gap,) = msgspec.json.decode(listed.stdout)
    assert (gap["source"], gap["state"], gap["until_at"]) == (None, "open", None)
    number = str(gap["gap_id"])
    assert kizashi("gaps", "mark-refilled", number, environment=environment).exit_code == 1
    assert kizashi("gaps", "close", number, environment=environment).exit_code == 2
    assert kizashi("gaps", "close", number, "--lost", "--until", "1h", environment=environment).exit_code == 0
    assert kizashi("gaps", "mark-refilled", number, environment=environment).exit_code == 0
    assert "refilled" in kizashi("gaps", "list", environment=environment).stdout
    assert kizashi("gaps", "open", "--from", "2h", "--reason", "again", environment=environment).exit_code == 0
    (going_on,) = msgspec.json.decode(
        kizashi("gaps", "list", "--json", "--state", "open", environment=environment).stdout
    )
    other = str(going_on["gap_id"])
    every = kizashi("gaps", "close", other, "--lost", "--retire", environment=environment)
    assert every.exit_code == 1 and "only a single one can be retired" in every.stderr
    unknown = kizashi("gaps", "open", "--from", "1h", "--source", "app", "--reason", "x", environment=environment)
    assert unknown.exit_code == 1 and "no event has ever come" in unknown.stderr


async def test_the_same_over_the_api_with_audit(engine: AsyncEngine) -> None:
    async with api(engine) as service:
        assert (await service.get("/api/v1/gaps")).json() == {"items": []}
        body = {"from_at": "2026-05-01T01:00:00Z", "reason": "bus down"}
        made = await service.post("/api/v1/gaps", json=body)
        assert made.status_code == 201, made.text
        number = made.json()["gap_id"]
        assert (await service.post("/api/v1/gaps", json=body)).status_code == 409
        retiring = await service.post(f"/api/v1/gaps/{number}/close", json={"state": "lost", "retire": True})
        assert retiring.status_code == 409 and "only a single one" in retiring.json()["detail"]
        later = {**body, "until_at": "2027-01-01T00:00:00Z"}
        assert (await service.post("/api/v1/gaps", json=later)).status_code == 409
        assert (await service.post(f"/api/v1/gaps/{number}/mark", json={"state": "lost"})).status_code == 409
        ended = await service.post(f"/api/v1/gaps/{number}/close", json={"state": "lost"})
        assert ended.json()["until_at"] is not None
        marked = await service.post(f"/api/v1/gaps/{number}/mark", json={"state": "refilled"})
        assert marked.json()["state"] == "refilled"
        assert (await service.post("/api/v1/gaps/999/mark", json={"state": "lost"})).status_code == 404
        listed = (await service.get("/api/v1/gaps?state=refilled")).json()["items"]
        assert [gap["gap_id"] for gap in listed] == [number]
    async with engine.connect() as conn:
        noted = (await conn.execute(select(audit.c.action, audit.c.at).order_by(audit.c.audit_id))).all()
        woken = (await conn.execute(select(touched.c.everyone_since))).all()
    gap_actions = [(row.action, row.at) for row in noted if row.action.startswith("gap.")]
    assert gap_actions == [("gap.opened", NOW), ("gap.closed", NOW), ("gap.marked_refilled", NOW)]
    assert len(woken) == 3


async def test_those_that_go_on_come_first(engine: AsyncEngine) -> None:
    async with api(engine) as service:
        old = {"from_at": "2026-04-01T01:00:00Z", "reason": "still going on"}
        new = {"from_at": "2026-04-30T01:00:00Z", "until_at": "2026-04-30T02:00:00Z", "reason": "over"}
        for body in (old, new):
            assert (await service.post("/api/v1/gaps", json=body)).status_code == 201
        listed = (await service.get("/api/v1/gaps")).json()["items"]
        status = (await service.get("/api/v1/status")).json()
    assert [gap["reason"] for gap in listed] == ["still going on", "over"]
    assert [gap["reason"] for gap in status["gaps"]] == ["still going on", "over"]


async def test_an_account_is_incomplete_by_its_own_sources(engine: AsyncEngine) -> None:
    """Also where nobody has evaluated it since, and no longer than that: it is told as it is asked."""
    async with api(engine) as service:
        await add_accounts(engine, {"account_id": "by-app"}, {"account_id": "by-web"})
        async with engine.begin() as conn:
            times = {"first_event_at": NOW, "last_event_at": NOW, "last_live_at": NOW}
            await conn.execute(insert(sources), [{"source": name, **times} for name in ("app", "web")])
            read = {"group_id": "kizashi", "topic": "kizashi.events", "partition": 0, "next_offset": 0}
            await conn.execute(insert(stream_offsets).values(complete_through=NOW, updated_at=NOW, **read))
            for name in ("app", "web"):
                own = update(accounts).where(accounts.c.account_id == f"by-{name}")
                await conn.execute(own.values(sources=source_bit(name)))
        body = {"source": "app", "from_at": "2026-05-01T01:00:00Z", "reason": "down"}
        number = (await service.post("/api/v1/gaps", json=body)).json()["gap_id"]
        listed = {item["account_id"]: item for item in (await service.get("/api/v1/accounts")).json()["items"]}
        detail = (await service.get("/api/v1/accounts/by-app")).json()
        other = (await service.get("/api/v1/accounts/by-web")).json()
        assert (await service.post(f"/api/v1/gaps/{number}/close", json={"state": "lost"})).status_code == 200
        after = (await service.get("/api/v1/accounts/by-app")).json()
    for told in (listed["by-app"], detail):
        assert (told["incomplete_since"], told["incomplete_sources"]) == ("2026-05-01T01:00:00Z", ["app"])
    for told in (listed["by-web"], other, after):
        assert (told["incomplete_since"], told["incomplete_sources"]) == (None, [])
    assert other["held_sources"] == ["app"], "of the service as a whole it is said, too"
