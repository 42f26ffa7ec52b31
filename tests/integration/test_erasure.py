"""Of an erased account or user nothing is left in any column of any table, nor in the archive, and nothing comes
back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from obstore.store import LocalStore
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.tables import deliveries, delivery_attempts, episodes, transitions
from consumers.applier import Applier, Limits
from consumers.archive.files import Archive
from consumers.archive.layout import Row, described, frame_of_rows, split, to_parquet
from consumers.broker import Record
from consumers.events import decode
from consumers.records import LostPartition, Position
from consumers.tables import dead_letters, stream_offsets, tombstones, user_accounts, waiting_events
from health.tables import (
    FACT_TABLES,
    accounts,
    health,
    record_events,
    records,
    score_history,
    score_overrides,
    sweeps,
    touched,
    users,
)
from service import erasures
from service.audit import AuditFilter, entries
from service.erasures import Eraser
from service.queries import MAX_LIMIT
from tests import canary

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TOPIC, GROUP = "events", "g"
ACCOUNT = "canary-account-7f3a"
USER, MAIL = "canary-user-91c2", "Canary.Mail@example.org"
COMPANY = "acme"


def event(number: int, kind: str, **fields: Any) -> dict[str, Any]:
    at = NOW - timedelta(days=3) + timedelta(minutes=number)
    return {"kind": kind, "event_id": f"e{number}", "account_id": COMPANY, "timestamp": at.isoformat(), **fields}


def of_everybody(account_id: str, user_id: str, mail: str) -> list[dict[str, Any]]:
    """Every kind of event, by the user and about the user."""
    common: list[tuple[str, dict[str, Any]]] = [
        ("login", {"user_id": user_id}),
        ("usage", {"user_id": user_id, "feature": "export", "quantity": 2.5}),
        ("identify", {"user_id": user_id, "traits": {"email": mail, "name": "C. A. Nary"}}),
        ("group", {"traits": {"plan": "pro", "champion": mail, "admin": user_id, "owner": "mina", "segment": mail}}),
        ("ticket", {"user_id": "other", "ticket_id": "t1", "status": "open", "subject": "Export is slow"}),
        ("ticket", {"user_id": user_id, "ticket_id": "t1", "status": "pending", "subject": "My own words"}),
        ("ticket", {"user_id": "other", "ticket_id": "t2", "status": "open", "subject": f"{mail} cannot log in"}),
        ("survey", {"user_id": user_id, "survey_id": "s1", "survey": "nps", "score": 3, "comment": "My own words"}),
        ("contact", {"user_id": user_id, "contact_id": "c1", "contact": "call", "by": "mina", "note": "My own words"}),
        ("session", {"user_id": user_id, "session_id": "w1", "session": "webinar", "title": "Tips"}),
        ("custom", {"user_id": user_id, "name": "invited", "properties": {"whom": "My own words"}}),
        ("custom", {"user_id": "other", "name": "shared", "properties": {"with": [{"mail": mail}], mail: 1}}),
        ("payment", {"payment_id": "p1", "status": "failed", "amount": 10}),
        ("milestone", {"milestone": "first-report", "user_id": user_id}),
        ("goal", {"goal_id": "g1", "status": "set", "name": f"Asked for by {user_id}"}),
        ("subscription", {"change": "started", "mrr": 100, "plan": "pro"}),
    ]
    return [event(number, kind, **{"account_id": account_id, **fields}) for number, (kind, fields) in enumerate(common)]


def to_records(events: Sequence[dict[str, Any]], *, first: int = 0, arrived: datetime = NOW - 2 * HOUR) -> list[Record]:
    return [
        Record(topic=TOPIC, partition=0, offset=first + number, timestamp_ms=int(arrived.timestamp() * 1000),
               key=each["account_id"].encode(), value=msgspec.json.encode(each), headers=())
        for number, each in enumerate(events)
    ]  # fmt: skip


async def apply(engine: AsyncEngine, lot: list[Record], *, anew: bool = False) -> None:
    """As a consumer that has just opened the partition; ``anew``: from its beginning, beyond the dedup window."""
    async with engine.begin() as conn:
        if anew:
            await conn.execute(text("TRUNCATE dedup_batches"))
            await conn.execute(update(stream_offsets).values(next_offset=0, last_offset=None))
        else:
            row = {"group_id": GROUP, "topic": TOPIC, "partition": 0, "next_offset": 0, "updated_at": NOW}
            await conn.execute(insert(stream_offsets).values(row))
        stored = (await conn.execute(select(stream_offsets))).one()
    position = Position(topic=TOPIC, partition=0, next_offset=stored.next_offset, epoch=stored.epoch)
    place = (TOPIC, 0)
    applier = Applier(engine, GROUP, Limits())
    await applier.apply({place: lot}, {place: position}, now=NOW + HOUR, catching_up=False)


async def plant(engine: AsyncEngine, account_id: str, user_id: str, mail: str) -> None:
    """What other parts of the service may have stored of them."""
    named = {"en": f"{mail} and {user_id} are quiet", "list": [{"who": mail}]}
    async with engine.begin() as conn:
        await conn.execute(
            insert(health).values(account_id=account_id, name=f"Shop of {mail}", owner=mail, signals=named,
                                  contributions=[named], problem=f"about {user_id}", as_child=named, rollup=named)
        )  # fmt: skip
        await conn.execute(
            insert(score_history).values(account_id=account_id, day=NOW.date(), scorecard="c", contributions=[named])
        )
        await conn.execute(
            insert(score_overrides).values(
                account_id=account_id, score=20, reason=f"{mail} told us", author="board:mina", created_at=NOW,
                expires_at=NOW + HOUR,
            )
        )  # fmt: skip
        episode_id, delivery_id = uuid4(), uuid4()
        await conn.execute(
            insert(episodes).values(
                episode_id=episode_id, rule_id="r", account_id=account_id, state="open", severity="info", since=NOW,
                opened_at=NOW, rule_version="v", reason=named, signals=named, contributions=[named], updated_at=NOW,
                owner=mail,
            )
        )  # fmt: skip
        opened = insert(transitions).values(
            episode_id=episode_id, kind="opened", at=NOW, reason=f"see {mail}", actor="kizashi", data=named
        )
        transition_id = await conn.scalar(opened.returning(transitions.c.transition_id))
        await conn.execute(
            insert(deliveries).values(
                delivery_id=delivery_id, transition_id=transition_id, episode_id=episode_id, account_id=account_id,
                channel="email", target="team", language="en", message={"account_id": account_id, **named},
                next_attempt_at=NOW, created_at=NOW,
            )
        )  # fmt: skip
        await conn.execute(
            insert(delivery_attempts).values(
                delivery_id=delivery_id, attempt=1, started_at=NOW, outcome="retry", detail=f"refused for {mail}"
            )
        )
        await conn.execute(insert(touched).values(account_ids=[account_id, "zzz"], created_at=NOW))
        await conn.execute(insert(touched).values(everyone_since=NOW, after_account_id=account_id, created_at=NOW))
        await conn.execute(delete(sweeps))
        await conn.execute(
            insert(sweeps).values(one=True, after_account_id=account_id, swept_at=NOW, circle_began_at=NOW)
        )
        await conn.execute(
            insert(user_accounts).values(
                user_id=user_id, account_id=account_id, bound_at=NOW, event_id="b", updated_at=NOW
            )
        )
        waiting = event(90, "login", account_id="", user_id=user_id, received_at=NOW.isoformat())
        await conn.execute(
            insert(waiting_events).values(
                user_id=user_id, source="s", event_id="e90", account_id=account_id, event=msgspec.json.encode(waiting),
                created_at=NOW,
            )
        )  # fmt: skip
        both = {"account_id": account_id, "user_id": user_id, "email": mail}
        letter = {"topic": TOPIC, "partition": 0, "reason": "bad_value", "created_at": NOW}
        texts = [
            json.dumps({**event(91, "login"), **both}).replace("@", "\\u0040").encode(),
            f'{{"half": "{account_id} {user_id} {mail}'.encode(),
        ]
        for number, value in enumerate(texts):
            await conn.execute(
                insert(dead_letters).values(
                    record_offset=1000 + number, key=account_id.encode(), value=value, headers=[["by", user_id]],
                    errors=[{"problem": f"{mail} {account_id}"}], sent_value=value, note=f"{user_id} of {account_id}",
                    **letter,
                )
            )  # fmt: skip
        await conn.execute(
            insert(dead_letters).values(record_offset=1009, key=b"bystander", value=b"{}", errors=[], **letter)
        )


async def archived(engine: AsyncEngine, folder: Path, lot: Sequence[Record]) -> Archive:
    """The records as the archive keeps them."""
    archive = Archive(engine, LocalStore(folder, mkdir=True))
    rows = []
    for record in lot:
        assert record.value is not None
        it = decode(record.value)
        rows.append(
            Row(account_id=it.account_id, user_id=it.user_id, event_id=it.event_id, source=it.source, kind=it.kind,
                timestamp=it.timestamp, arrived_at=datetime.fromtimestamp(record.timestamp_ms / 1000, UTC),
                topic=record.topic, partition=record.partition, offset=record.offset, import_id=None, import_row=None,
                event=record.value)
        )  # fmt: skip
    made = []
    for slot, frame in split(frame_of_rows(rows)):
        raw, path = to_parquet(frame), slot.new_path()
        await archive.put(path, raw)
        made.append(described(path, slot, frame, len(raw), NOW))
    assert await archive.replace([], made, NOW)
    return archive


def eraser(engine: AsyncEngine, archive: Archive | None = None) -> Eraser:
    return Eraser(engine=engine, pseudonyms=None, archive=archive, clock=lambda: NOW)


async def forget(work: Eraser, account_id: str | None, user_id: str | None) -> erasures.ErasureView:
    async with work.engine.begin() as conn:
        asked = await erasures.request(conn, work.named(account_id, user_id), by="key:tests", now=NOW)
    return await work.run(asked.erasure_id)


async def facts(engine: AsyncEngine) -> dict[str, list[Any]]:
    """Every fact, apart from what tells batches apart."""
    found = {}
    async with engine.connect() as conn:
        for table in FACT_TABLES:
            kept = [column for column in table.c if column.name not in {"version", "changed_at"}]
            found[table.name] = sorted(map(repr, await conn.execute(select(*kept))))
    return found


async def test_no_table_keeps_anything_of_an_erased_account(engine: AsyncEngine, tmp_path: Path) -> None:
    other = [{**each, "account_id": COMPANY} for each in of_everybody(COMPANY, "u-2", "b@example.org")]
    lot = to_records([*of_everybody(ACCOUNT, USER, MAIL), *other])
    await apply(engine, lot)
    await plant(engine, ACCOUNT, USER, MAIL)
    async with engine.begin() as conn:  # as a replay that was killed leaves it
        await conn.execute(text("CREATE SCHEMA kizashi_replay_killed"))
        await conn.execute(text("CREATE TABLE kizashi_replay_killed.rebuilt AS SELECT account_id AS id FROM accounts"))
    archive = await archived(engine, tmp_path, lot)
    before = await canary.places(engine, ACCOUNT)
    assert "rebuilt.id" in before
    asked = {"erasures.account_id"}
    by_name = {
        each for each in await canary.columns(engine, "text", "ARRAY") if each.split(".")[1].startswith("account_id")
    }
    assert by_name - asked <= before, "every table with accounts is planted: a new one must be erased from, too"
    assert canary.files(tmp_path, ACCOUNT)
    neighbours = {name: [row for row in rows if ACCOUNT not in row] for name, rows in (await facts(engine)).items()}

    done = await forget(eraser(engine, archive), ACCOUNT, None)

    assert await canary.places(engine, ACCOUNT, USER, MAIL) == set()
    assert canary.files(tmp_path, ACCOUNT) == []
    assert canary.files(tmp_path, COMPANY)
    assert await facts(engine) == neighbours, "nobody else's facts have changed"
    assert done.counts["dead_letters"] == 2
    assert done.counts["dedup_batches"] == 1
    async with engine.connect() as conn:
        left = (await conn.execute(text("SELECT sum(length(hashes)) FROM dedup_batches"))).scalar_one()
    assert left == 8 * len(other)

    await apply(engine, lot, anew=True)
    # Of the account nothing comes back, not even as a record that cannot be read.
    bad = msgspec.structs.replace(lot[0], offset=len(lot), value=b"{")
    async with engine.begin() as conn:
        await conn.execute(update(stream_offsets).values(next_offset=0))
    await apply(engine, [*lot, bad], anew=True)
    assert await canary.places(engine, ACCOUNT) == set()
    async with engine.connect() as conn:
        assert (await conn.scalars(select(accounts.c.account_id))).all() == [COMPANY]


HOLDS_NO_USER = {
    # what it holds instead
    "rulebooks.content": "rules",
    "health.holding": "rules and times",
    "watch.places": "countries and time zones, each with a share of the accounts",
    "fleets.payload": "numbers of all accounts together, names of features",
    "imports.files": "names of files",
    "api_keys.hash": "a hash",
    "audit.detail": "counts",
    "erasures.counts": "counts",
    "erasures.scope": "only while it runs",
    "tombstones.scope": "a hash",
    "tombstones.subject": "a hash",
    "tombstone_salt.salt": "random",
    "dedup_batches.hashes": "hashes of event ids",
    "dead_letters.key": "the account",
}


async def test_no_table_keeps_anything_of_an_erased_user_and_the_company_keeps_its_counts(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    lot = to_records(of_everybody(COMPANY, USER, MAIL))
    await apply(engine, lot)
    await plant(engine, COMPANY, USER, MAIL)
    archive = await archived(engine, tmp_path, lot)
    before = await canary.places(engine, USER, MAIL)
    documents = await canary.columns(engine, "jsonb", "json", "bytea")
    assert documents - before - HOLDS_NO_USER.keys() == set(), "what can hold a user is planted, or said not to"
    assert canary.files(tmp_path, USER)
    async with engine.connect() as conn:
        counted = (await conn.execute(select(accounts.c.events, accounts.c.logins))).one()

    await forget(eraser(engine, archive), None, USER)

    assert await canary.places(engine, USER, MAIL, "own words") == set()
    for needle in (USER, MAIL, MAIL.lower(), "own words"):
        assert canary.files(tmp_path, needle) == [], needle
    async with engine.connect() as conn:
        assert (await conn.execute(select(accounts.c.events, accounts.c.logins))).one() == counted
        assert (await conn.scalars(select(users.c.user_id))).all() == []
        ticket = (await conn.execute(select(records.c.fields).where(records.c.record_id == "t1"))).scalar_one()
        assert ticket["subject"]["v"] == "Export is slow", "the words of somebody else stand again"
        assert ticket["status"]["v"] == "pending"
        assert set((await conn.scalars(select(record_events.c.user_id))).all()) == {None, "other"}
    erased = await facts(engine)

    async with engine.begin() as conn:
        for table in FACT_TABLES:
            await conn.execute(table.delete())
    await apply(engine, lot, anew=True)
    again = await facts(engine)
    # The dropped identify was an event of its source.
    assert again.pop("source_hours") != erased.pop("source_hours")
    assert again == erased, "from Kafka again, the same facts come as the erasure has left"
    assert await canary.places(engine, USER, MAIL, "own words") == set()


async def test_what_arrives_after_an_erasure_counts_as_new(engine: AsyncEngine) -> None:
    first = of_everybody(ACCOUNT, USER, MAIL)
    await apply(engine, to_records(first))
    await forget(eraser(engine), ACCOUNT, None)
    later = to_records([{**first[0], "event_id": "new"}], first=len(first), arrived=NOW + timedelta(minutes=1))
    await apply(engine, [*to_records(first), *later], anew=True)
    async with engine.connect() as conn:
        row = (await conn.execute(select(accounts.c.account_id, accounts.c.events))).one()
    assert tuple(row) == (ACCOUNT, 1)


async def test_the_audit_knows_of_it_by_a_fingerprint_only(engine: AsyncEngine) -> None:
    done = await forget(eraser(engine), ACCOUNT, USER)
    async with engine.connect() as conn:
        noted = (await entries(conn, AuditFilter(), None, MAX_LIMIT)).items
        assert await conn.scalar(select(tombstones.c.requested_by)) == "key:tests"
    assert [(each.action, each.subject) for each in noted] == [
        ("erasure.done", done.fingerprint), ("erasure.requested", done.fingerprint),
    ]  # fmt: skip
    assert (done.account_id, done.user_id, done.status) == (None, None, "done")
    assert await canary.places(engine, ACCOUNT, USER) == set()


async def test_a_batch_in_flight_cannot_undo_an_erasure(engine: AsyncEngine) -> None:
    lot = to_records(of_everybody(ACCOUNT, USER, MAIL))
    await apply(engine, lot[:1])
    async with engine.connect() as conn:
        stored = (await conn.execute(select(stream_offsets))).one()
    position = Position(topic=TOPIC, partition=0, next_offset=stored.next_offset, epoch=stored.epoch)
    place, applier = (TOPIC, 0), Applier(engine, GROUP, Limits())
    held = await applier.prepare({place: lot}, {place: position}, now=NOW, catching_up=False)
    assert held is not None

    await forget(eraser(engine), ACCOUNT, None)

    with pytest.raises(LostPartition):
        await applier.store(held)
    assert await canary.places(engine, ACCOUNT) == set()
    async with engine.connect() as conn:
        opened = (await conn.execute(select(stream_offsets))).one()
    position = Position(topic=TOPIC, partition=0, next_offset=opened.next_offset, epoch=opened.epoch)
    applied = await applier.apply({place: lot}, {place: position}, now=NOW, catching_up=False)
    assert applied is not None and applied.positions[place].next_offset == len(lot)
    assert await canary.places(engine, ACCOUNT) == set()


@pytest.mark.parametrize("step", ["facts", "alerts", "letters", "settle", "seen", "archive"])
async def test_an_erasure_that_crashed_is_gone_on_with(engine: AsyncEngine, tmp_path: Path, step: str) -> None:
    lot = to_records(of_everybody(ACCOUNT, USER, MAIL))
    await apply(engine, lot)
    await plant(engine, ACCOUNT, USER, MAIL)
    work = eraser(engine, await archived(engine, tmp_path, lot))

    def crash(done: str, _: dict[str, int]) -> None:
        if done == step:
            raise OSError("the power went")

    async with engine.begin() as conn:
        asked = await erasures.request(conn, work.named(ACCOUNT, None), by="key:tests", now=NOW)
    with pytest.raises(OSError, match="power"):
        await work.run(asked.erasure_id, crash)
    async with engine.begin() as conn:
        again = await erasures.request(conn, work.named(ACCOUNT, None), by="key:tests", now=NOW)
    assert (again.erasure_id, again.step, again.problem) == (asked.erasure_id, step, "OSError")
    done = await work.run(asked.erasure_id)
    assert done.counts["dedup_batches"] == 1 and done.counts["archived events"] == len(lot)
    assert await canary.places(engine, ACCOUNT, USER, MAIL) == set()
    assert canary.files(tmp_path, ACCOUNT) == []


async def test_an_account_that_a_batch_adds_before_the_fence_is_cleaned_though_we_crash(engine: AsyncEngine) -> None:
    await apply(engine, to_records(of_everybody(COMPANY, USER, MAIL)))
    work = eraser(engine)
    async with engine.begin() as conn:
        asked = await erasures.request(conn, work.named(None, USER), by="key:tests", now=NOW)

    def crash(_step: str, _counts: dict[str, int]) -> None:
        raise OSError("the power went")

    with pytest.raises(OSError, match="power"):
        await work.run(asked.erasure_id, crash)
    async with engine.begin() as conn:
        await conn.execute(insert(accounts).values(account_id="second", changed_at=NOW, first_event_at=NOW))
        await conn.execute(insert(users).values(account_id="second", user_id=USER, fields={}, first_identified_at=NOW))
    done = await work.run(asked.erasure_id)
    assert done.status == "done"
    assert await canary.places(engine, USER, MAIL) == set()


async def test_an_erasure_that_fails_again_and_again_keeps_no_other_waiting(engine: AsyncEngine) -> None:
    lot = to_records([*of_everybody(ACCOUNT, USER, MAIL), event(50, "login", account_id="other", user_id="u")])
    await apply(engine, lot)
    work = eraser(engine)
    async with engine.begin() as conn:
        broken = await erasures.request(conn, work.named("other", None), by="key:tests", now=NOW - HOUR)
        fine = await erasures.request(conn, work.named(ACCOUNT, None), by="key:tests", now=NOW)

    class Failing(Eraser):
        async def run(self, erasure_id: UUID, told: erasures.Told | None = None) -> erasures.ErasureView:
            if erasure_id == broken.erasure_id:
                raise OSError("the archive is away")
            return await super().run(erasure_id, told)

    stop = asyncio.Event()
    watching = asyncio.create_task(Failing(engine=engine, pseudonyms=None, archive=None, clock=lambda: NOW).watch(stop))
    try:
        async with asyncio.timeout(30):
            while True:
                async with engine.connect() as conn:
                    found = await erasures.one(conn, fine.erasure_id)
                if found is not None and found.status == "done":
                    break
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await watching
    assert await canary.places(engine, ACCOUNT) == set()


async def test_a_preview_counts_and_changes_nothing(engine: AsyncEngine, tmp_path: Path) -> None:
    lot = to_records(of_everybody(COMPANY, USER, MAIL))
    await apply(engine, lot)
    await plant(engine, COMPANY, USER, MAIL)
    work = eraser(engine, await archived(engine, tmp_path, lot))
    before, stood = await facts(engine), await canary.places(engine, USER, MAIL, COMPANY)
    of_user = await work.preview(work.named(None, USER))
    of_account = await work.preview(work.named(COMPANY, None))
    assert await facts(engine) == before and await canary.places(engine, USER, MAIL, COMPANY) == stood
    assert (of_user["users"], of_user["user_months"], of_user["dead_letters"], of_user["episodes"]) == (1, 1, 2, 4)
    assert (of_account["accounts"], of_account["deliveries"], of_account["archived events"]) == (1, 1, len(lot))
