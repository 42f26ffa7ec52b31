"""Erasures: asked for by API or command, worked off step by step, gone on from after a crash.

A step and the note that it is done are one transaction, and every step may be done again; so a crash at any point costs
a repetition at most. While it runs the row holds the ids; when it is done only the fingerprint stays.

1. ``facts``: tombstones, the epochs of all partitions, and the facts, in one transaction. From here on nothing that had
   arrived before comes back.
2. ``alerts``: health, episodes, messages.
3. ``letters``: dead letters, waiting events, users' accounts.
4. ``settle``: once all transactions that were open at step 2 have ended, what an evaluation under way wrote since.
5. ``seen``: what recognises the account's events.
6. ``archive``: its files are rewritten.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec
import structlog
from sqlalchemy import Table, and_, exists, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import erasure as alerts_erasure
from consumers.archive.files import REPLAY_LOCK, Archive
from consumers.erasure import archive as archive_erasure
from consumers.erasure import facts, letters, tombstones
from consumers.erasure.facts import Counts
from consumers.erasure.subjects import Subject
from consumers.pseudonyms import Pseudonyms
from consumers.replay.shadow import drop_left_over
from consumers.store import raw_connection
from consumers.tables import tombstone_salt
from health.tables import accounts
from service import audit
from service.archive import archive_of
from service.clock import Clock, utc_now
from service.db import make_engine
from service.queries import MAX_LIMIT, cursors
from service.secrets import pseudonyms_of
from service.settings import Settings
from service.tables import erasures

log = structlog.get_logger("kizashi.erasures")

LEASE: Final = timedelta(minutes=15)
PATIENCE: Final = 60
"""Attempts at a lock that somebody holds, of two seconds each."""
SETTLE_SECONDS: Final = 90.0
POLL_SECONDS: Final = 5.0
PATIENT_SECONDS: Final = 300.0
TRANSIENT: Final = ("40001", "40P01", "55P03")

Told = Callable[[str, Counts], None]
"""Told of each step that is done."""


class ErasureView(msgspec.Struct, frozen=True, kw_only=True):
    """How far an erasure has come. The ids are shown while it runs, never after."""

    erasure_id: UUID
    kind: str  # account | user
    fingerprint: str
    account_id: str | None
    user_id: str | None
    status: str  # waiting | running | done
    step: str | None
    counts: dict[str, int]
    requested_by: str
    requested_at: datetime
    erased_at: datetime | None
    finished_at: datetime | None
    problem: str | None


class ErasurePage(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[ErasureView, ...]
    next_cursor: str | None


class Busy(Exception):
    """Another process is at work on it."""


@dataclass(frozen=True, kw_only=True)
class Eraser:
    """Works erasures off. ``engine``: with time for whole tables; ``archive``: None where there is none."""

    engine: AsyncEngine
    pseudonyms: Pseudonyms | None
    archive: Archive | None
    clock: Clock
    settle_seconds: float = SETTLE_SECONDS

    def named(self, account_id: str | None, user_id: str | None) -> Subject:
        """The subject, with the pseudonym that stands for the user where ids are or were hashed."""
        pseudonym = None if self.pseudonyms is None or user_id is None else self.pseudonyms.of(user_id)
        return Subject(account_id=account_id, user_id=user_id, pseudonym=pseudonym)

    async def preview(self, subject: Subject) -> Counts:
        """What would be erased, as rows per table; nothing is changed."""
        async with self.engine.connect() as conn:
            subject = await facts.find(conn, subject)
            counts = (await facts.erase(conn, subject, self.clock(), change=False)).counts
            counts |= await self._alerts(conn, await self._with_parents(conn, subject), change=False)
            counts |= await letters.erase(conn, subject, change=False)
        if self.archive is not None:
            counts |= await archive_erasure.count(self.archive, subject)
        return counts

    async def run(self, erasure_id: UUID, told: Told | None = None) -> ErasureView:
        """To its end. Raises Busy, and whatever kept a step from being done; then the row says so, and it can be gone
        on with."""
        work = await self._lease(erasure_id)
        try:
            for name, step in self._steps():
                if work.step is None or _ORDER.index(work.step) < _ORDER.index(name):
                    work = await step(work)
                    if told is not None:
                        told(name, work.counts)
        except BaseException as error:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._give_up(erasure_id, type(error).__name__))
            raise
        return await self._finish(work)

    def _steps(self) -> list[tuple[str, Callable[[_Work], Awaitable[_Work]]]]:
        ways = {
            "facts": self._erase_facts,
            "alerts": self._erase_alerts,
            "letters": self._erase_letters,
            "settle": self._settle,
            "seen": self._erase_seen,
            "archive": self._erase_archive,
        }
        return [(name, ways[name]) for name in _ORDER]

    async def _lease(self, erasure_id: UUID) -> _Work:
        now, e = self.clock(), erasures.c
        free = or_(e.leased_until.is_(None), e.leased_until < now)
        async with self.engine.begin() as conn:
            row = (
                await conn.execute(
                    update(erasures)
                    .where(e.erasure_id == erasure_id, e.status != "done", free)
                    .values(status="running", leased_until=now + LEASE, problem=None)
                    .returning(erasures)
                )
            ).one_or_none()
        if row is None:
            raise Busy
        scope = row.scope or {}
        subject = self.named(row.account_id, row.user_id)
        found = subject.found(tuple(scope.get("accounts", ())), tuple(scope.get("mails", ())))
        found = replace(found, above=tuple(scope.get("above", ())), title=scope.get("title"))
        return _Work(
            erasure_id=erasure_id, subject=found, fingerprint=row.fingerprint, by=row.requested_by, step=row.step,
            counts=dict(row.counts), hashes=scope.get("hashes", {}),
        )  # fmt: skip

    async def _give_up(self, erasure_id: UUID, problem: str) -> None:
        async with self.engine.begin() as conn:
            unfinished = and_(erasures.c.erasure_id == erasure_id, erasures.c.status != "done")
            await conn.execute(
                update(erasures).where(unfinished).values(status="waiting", leased_until=None, problem=problem)
            )

    async def _erase_facts(self, work: _Work) -> _Work:
        async with self.engine.connect() as conn:
            subject = await facts.find(conn, work.subject)

        async def act(conn: AsyncConnection) -> _Work:
            erased_at = await facts.fence(conn, subject, salt=await _salt(conn), by=work.by, clock=self.clock)
            erased = await facts.erase(conn, subject, erased_at)
            hashes = {day.isoformat(): [f"{each:x}" for each in sorted(found)] for day, found in erased.hashes.items()}
            related = await self._with_parents(conn, subject)
            done = replace(work, subject=related, hashes=hashes).after("facts", erased.counts)
            await self._note(conn, done, erased_at=erased_at)
            return done

        return await self._patiently(act)

    async def _erase_elsewhere(self, work: _Work) -> _Work:
        """Accounts in which a batch has brought the user between the search and the fence: before the next step, so
        that a crash in between leaves none."""
        if work.subject.user_id is None or work.subject.account_id is not None:
            return work
        async with self.engine.connect() as conn:
            again = await facts.find(conn, work.subject)
        late = replace(again, accounts=tuple(sorted(set(again.accounts) - set(work.subject.accounts))))
        if not late.accounts:
            return work

        async def act(conn: AsyncConnection) -> _Work:
            erased = await facts.erase(conn, late, self.clock())
            done = replace(work, subject=again).after("facts", erased.counts)
            await self._note(conn, done)
            return done

        return await self._patiently(act)

    async def _erase_alerts(self, work: _Work) -> _Work:
        work = await self._erase_elsewhere(work)

        async def act(conn: AsyncConnection) -> _Work:
            subject = await self._with_parents(conn, work.subject)
            done = replace(work, subject=subject).after("alerts", await self._alerts(conn, subject))
            await self._note(conn, done)
            return done

        return await self._patiently(act)

    async def _with_parents(self, conn: AsyncConnection, subject: Subject) -> Subject:
        """Before the health rows are gone or evaluated anew, which say who is above and by what name the account was
        told of."""
        places = [str(subject.account_id)] if subject.user_id is None else list(subject.accounts)
        above = await alerts_erasure.above(conn, places)
        title = await alerts_erasure.title(conn, places[0]) if subject.user_id is None else None
        return replace(subject, above=tuple(sorted({*subject.above, *above})), title=title or subject.title)

    async def _alerts(self, conn: AsyncConnection, subject: Subject, *, change: bool = True) -> Counts:
        """``subject`` as ``_with_parents`` makes it."""
        places = [str(subject.account_id)] if subject.user_id is None else list(subject.accounts)
        if change:
            await alerts_erasure.lock(conn, [*places, *subject.above])

        async def clean(conn: AsyncConnection, table: Table, column: str, where: Any) -> int:
            return await facts.clean_column(conn, table, column, subject, where=where, change=change)

        if subject.user_id is not None:
            return await alerts_erasure.clean_user(conn, {*places, *subject.above}, clean)
        counts = await alerts_erasure.erase_account(conn, places[0], change=change)
        told = await alerts_erasure.clean_above(conn, subject.above, clean, self.clock() if change else None)
        return {name: counts.get(name, 0) + told.get(name, 0) for name in {*counts, *told}}

    async def _erase_letters(self, work: _Work) -> _Work:
        async def act(conn: AsyncConnection) -> _Work:
            done = work.after("letters", await letters.erase(conn, work.subject))
            await self._note(conn, done)
            return done

        return await self._patiently(act)

    async def _settle(self, work: _Work) -> _Work:
        await self._others_have_ended()
        await self._drop_shadows()

        async def act(conn: AsyncConnection) -> _Work:
            counts: Counts = {}
            known = exists().where(accounts.c.account_id == work.subject.account_id).select()
            if work.subject.user_id is not None or not await conn.scalar(known):
                counts = await self._alerts(conn, work.subject)
            late = await letters.erase_late(conn, work.subject, await _erased_at(conn, work.erasure_id))
            counts = {name: counts.get(name, 0) + late.get(name, 0) for name in {*counts, *late}}
            done = work.after("settle", counts)
            await self._note(conn, done)
            return done

        return await self._patiently(act)

    async def _drop_shadows(self) -> None:
        """What a killed replay left; one that runs drops its own when it ends, and swaps nothing: the epochs moved."""
        async with raw_connection(self.engine) as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", REPLAY_LOCK):
                return
            try:
                await drop_left_over(self.engine)
            finally:
                await connection.execute("SELECT pg_advisory_unlock($1)", REPLAY_LOCK)

    async def _others_have_ended(self) -> None:
        """Waits for the transactions that are open now: an evaluation among them may have read what is erased."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settle_seconds
        async with self.engine.connect() as conn:
            await conn.execution_options(isolation_level="AUTOCOMMIT")
            until = await conn.scalar(text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))
            oldest = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
            while int(await conn.scalar(oldest) or 0) < int(until or 0):
                if loop.time() > deadline:
                    log.warning("a transaction is open for long; what it writes of the erased is not awaited")
                    return
                await asyncio.sleep(0.1)

    async def _erase_seen(self, work: _Work) -> _Work:
        hashes = {date.fromisoformat(day): {int(each, 16) for each in found} for day, found in work.hashes.items()}
        if work.subject.user_id is None and self.archive is not None:
            for day, found in (await archive_erasure.hashes(self.archive, str(work.subject.account_id))).items():
                hashes.setdefault(day, set()).update(found)

        async def act(conn: AsyncConnection) -> _Work:
            seen = {day: frozenset(found) for day, found in hashes.items()}
            done = work.after("seen", await letters.erase_seen(conn, seen))
            await self._note(conn, done)
            return done

        return await self._patiently(act)

    async def _erase_archive(self, work: _Work) -> _Work:
        counts: Counts = {}
        if self.archive is not None:
            async with raw_connection(self.engine) as connection:
                erased = await tombstones.read(connection)
            counts = await archive_erasure.erase(self.archive, work.subject, erased, self.clock())
        done = work.after("archive", counts)
        async with self.engine.begin() as conn:
            await self._note(conn, done)
        return done

    async def _note(self, conn: AsyncConnection, work: _Work, erased_at: datetime | None = None) -> None:
        subject = work.subject
        scope = {
            "accounts": list(subject.accounts), "mails": list(subject.mails), "above": list(subject.above),
            "title": subject.title, "hashes": work.hashes,
        }  # fmt: skip
        values: dict[str, Any] = {
            "step": work.step, "counts": work.counts, "scope": scope, "leased_until": self.clock() + LEASE,
        }  # fmt: skip
        if erased_at is not None:
            values["erased_at"] = erased_at
        await conn.execute(update(erasures).where(erasures.c.erasure_id == work.erasure_id).values(values))

    async def _finish(self, work: _Work) -> ErasureView:
        now = self.clock()
        async with self.engine.begin() as conn:
            row = await conn.execute(
                update(erasures)
                .where(erasures.c.erasure_id == work.erasure_id)
                .values(status="done", finished_at=now, account_id=None, user_id=None, scope=None, leased_until=None)
                .returning(erasures)
            )
            detail = {"erasure_id": str(work.erasure_id), "counts": work.counts}
            await audit.note(
                conn, actor=work.by, action="erasure.done", subject=work.fingerprint, detail=detail, now=now
            )
            return _view(row.one())

    async def _patiently(self, act: Callable[[AsyncConnection], Awaitable[_Work]]) -> _Work:
        """In a transaction; again as a whole when somebody holds a lock for long."""
        for attempt in range(PATIENCE):
            try:
                async with self.engine.begin() as conn:
                    return await act(conn)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in TRANSIENT or attempt == PATIENCE - 1:
                    raise
                await asyncio.sleep(0.2)
        raise AssertionError("unreachable")

    async def watch(self, stop: asyncio.Event) -> None:
        """Works off whatever waits, until ``stop``. One that fails is tried again later."""
        while not stop.is_set():
            try:
                waiting = await self._waiting()
            except Exception as error:  # noqa: BLE001 - its sender must go on
                log.warning("erasures are looked for again", problem=type(error).__name__)
                waiting = []
            for erasure_id in waiting:
                if not stop.is_set():
                    await self._attempt(erasure_id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)

    async def _attempt(self, erasure_id: UUID) -> None:
        """One that fails keeps no other from being done."""
        try:
            await self.run(erasure_id)
        except Busy:
            pass
        except Exception as error:  # noqa: BLE001 - its sender must go on, and the row says that it failed
            log.warning("an erasure is not done yet; it is tried again", problem=type(error).__name__)

    async def _waiting(self) -> list[UUID]:
        e = erasures.c
        free = or_(e.leased_until.is_(None), e.leased_until < self.clock())
        async with self.engine.connect() as conn:
            waiting = select(e.erasure_id).where(e.status != "done", free).order_by(e.requested_at)
            return list((await conn.scalars(waiting)).all())


_ORDER: Final = ("facts", "alerts", "letters", "settle", "seen", "archive")


@dataclass(frozen=True, kw_only=True)
class _Work:
    """An erasure that is being worked on. ``hashes``: hexadecimal, by day."""

    erasure_id: UUID
    subject: Subject
    fingerprint: str
    by: str
    step: str | None
    counts: Counts
    hashes: Mapping[str, list[str]]

    def after(self, step: str, counts: Counts) -> _Work:
        sums = {name: self.counts.get(name, 0) + counts.get(name, 0) for name in {*self.counts, *counts}}
        return replace(self, step=step, counts=dict(sorted(sums.items())))


def make_patient_engine(settings: Settings, name: str) -> AsyncEngine:
    """For statements that read whole tables."""
    return make_engine(
        settings.database_url.get_secret_value(),
        pool_size=3,
        timeout_seconds=max(PATIENT_SECONDS, settings.database_timeout_seconds),
        application_name=f"kizashi-{name}",
    )


def eraser(settings: Settings, engine: AsyncEngine) -> Eraser:
    """As the settings have it; ``engine`` from ``make_patient_engine``."""
    archive = archive_of(settings, engine)
    return Eraser(engine=engine, pseudonyms=pseudonyms_of(settings, always=True), archive=archive, clock=utc_now)


async def request(conn: AsyncConnection, subject: Subject, *, by: str, now: datetime) -> ErasureView:
    """Asks for an erasure; one of the same subject that is not done yet is the answer instead."""
    fingerprint = subject.fingerprint(await _salt(conn))
    unfinished = select(erasures).where(erasures.c.fingerprint == fingerprint, erasures.c.status != "done")
    row = (await conn.execute(unfinished.with_for_update())).one_or_none()
    if row is not None:
        return _view(row)
    values = {
        "erasure_id": uuid4(), "kind": subject.kind, "fingerprint": fingerprint, "account_id": subject.account_id,
        "user_id": subject.user_id, "status": "waiting", "requested_by": by, "requested_at": now,
    }  # fmt: skip
    new = insert(erasures).values(values).on_conflict_do_nothing().returning(erasures)
    made = (await conn.execute(new)).one_or_none()
    if made is None:  # somebody else asked at the same time
        return _view((await conn.execute(unfinished)).one())
    detail = {"erasure_id": str(made.erasure_id)}
    await audit.note(conn, actor=by, action="erasure.requested", subject=fingerprint, detail=detail, now=now)
    return _view(made)


async def note_export(conn: AsyncConnection, subject: Subject, *, by: str, count: int, now: datetime) -> None:
    """In the audit: somebody was given what is held on the subject."""
    fingerprint = subject.fingerprint(await _salt(conn))
    await audit.note(conn, actor=by, action="export.made", subject=fingerprint, detail={"rows": count}, now=now)


async def one(conn: AsyncConnection, erasure_id: UUID) -> ErasureView | None:
    row = (await conn.execute(select(erasures).where(erasures.c.erasure_id == erasure_id))).one_or_none()
    return None if row is None else _view(row)


async def listed(conn: AsyncConnection, cursor: str | None, limit: int) -> ErasurePage:
    """Newest first. Raises BadCursorError."""
    limit, e = min(limit, MAX_LIMIT), erasures.c
    query = select(erasures).order_by(e.requested_at.desc(), e.erasure_id).limit(limit + 1)
    if cursor is not None:
        at, last = cursors.decode(cursor, "erasures", datetime)
        try:
            last_id = UUID(last)
        except ValueError:
            raise cursors.BadCursorError(cursors.BAD_CURSOR) from None
        query = query.where(or_(e.requested_at < at, and_(e.requested_at == at, e.erasure_id > last_id)))
    rows = (await conn.execute(query)).all()
    page = rows[:limit]
    following = (
        cursors.encode("erasures", page[-1].requested_at, str(page[-1].erasure_id)) if len(rows) > limit else None
    )
    return ErasurePage(items=tuple(map(_view, page)), next_cursor=following)


async def _erased_at(conn: AsyncConnection, erasure_id: UUID) -> datetime:
    at: datetime = (
        await conn.execute(select(erasures.c.erased_at).where(erasures.c.erasure_id == erasure_id))
    ).scalar_one()
    return at


async def _salt(conn: AsyncConnection) -> bytes:
    return bytes((await conn.execute(select(tombstone_salt.c.salt))).scalar_one())


def _view(row: Any) -> ErasureView:
    return ErasureView(**{name: getattr(row, name) for name in ErasureView.__struct_fields__})
