"""Gaps as people change them, by command: noted, ended, marked; audited, and everybody is looked at again."""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import touched
from service.tables import audit
from tests.api import NOW, api
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
