"""The outbox: messages wait here, written in the evaluator's transaction, until a sender leases, sends and marks them.

Promises kept here: one message per (transition, channel, target), with an id that never changes; at most one message in
flight per target; within an episode and target, in the order of its transitions; a result counts only for the attempt
that holds the lease. Statuses: pending → leased → sent | pending (again) | dead; pending → cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID, uuid5

import msgspec
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.channels.base import SendResult
from alerts.render.view import CLOSING, AlertView, from_json, to_json
from alerts.retry import Decision
from alerts.store import parts, recordset
from alerts.tables import channel_holds, deliveries, delivery_attempts

LEASE = timedelta(seconds=60)
"""Longer than any channel's time-out; after it another sender takes the message."""
MAX_DETAIL = 500
NAMESPACE = UUID("0f5e3f0a-6a0c-5b5e-9a3d-6b697a617368")
CLAIM_LOCK = 0x6B697A617368
"""Advisory lock that makes senders claim one after the other: two claims at once would each miss the other's lease and
put two messages to one target in flight. Held for one short transaction."""


@dataclass(frozen=True, kw_only=True)
class NewDelivery:
    """One message to be. ``target`` is a name, no secret: ``team``, ``person:<id>``, ``webhook``, an e-mail address."""

    transition_id: int
    view: AlertView
    channel: str
    target: str
    recipient: str | None = None
    language: str
    created_at: datetime
    oldest_event_at: datetime | None = None

    @property
    def delivery_id(self) -> UUID:
        """The same for every repetition of the same message."""
        return uuid5(NAMESPACE, f"{self.transition_id}\0{self.channel}\0{self.target}")


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A message leased to us for one attempt. ``view`` is None when what is stored cannot be read."""

    delivery_id: UUID
    attempt: int
    channel: str
    target: str
    language: str
    view: AlertView | None
    created_at: datetime
    oldest_event_at: datetime | None
    leased_until: datetime


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one delivery of an episode has told its reader so far."""

    delivery_id: UUID
    channel: str
    target: str
    transition_id: int
    kind: str
    status: str
    perhaps_heard: bool
    """An attempt ended without a clear refusal."""


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """A waiting message that is not to be sent; ``after``: only if these could be cancelled too."""

    delivery_id: UUID
    reason: str
    after: tuple[UUID, ...] = ()


_DELIVERY = {
    "delivery_id": "uuid",
    "transition_id": "bigint",
    "episode_id": "uuid",
    "account_id": "text",
    "channel": "text",
    "target": "text",
    "recipient": "text",
    "language": "text",
    "message": "jsonb",
    "next_attempt_at": "timestamptz",
    "created_at": "timestamptz",
    "oldest_event_at": "timestamptz",
}
_ENQUEUE = text(f"""
INSERT INTO deliveries ({", ".join(_DELIVERY)}) SELECT {", ".join(_DELIVERY)}
FROM {recordset({"place": "int", **_DELIVERY})} ORDER BY place
ON CONFLICT DO NOTHING RETURNING delivery_id
""")  # noqa: S608 - made of the names above


async def enqueue(conn: AsyncConnection, rows: Sequence[NewDelivery]) -> int:
    """Puts messages into the outbox within the caller's transaction; returns how many were new.

    A message that is there already is left as it is. A closing message whose opening was never sent takes that along:
    both are cancelled, since nobody was told.
    """
    added = 0
    for part in parts([{"place": place, **_row(new)} for place, new in enumerate(rows)]):
        added += len((await conn.execute(_ENQUEUE, {"rows": part})).all())
    closing = {new.view.episode_id: new.created_at for new in rows if new.view.kind in CLOSING}
    if closing:
        await _cancel_unsaid(conn, list(closing), max(closing.values()))
    return added


def _row(new: NewDelivery) -> dict[str, Any]:
    return {
        "delivery_id": new.delivery_id,
        "transition_id": new.transition_id,
        "episode_id": new.view.episode_id,
        "account_id": new.view.account_id,
        "channel": new.channel,
        "target": new.target,
        "recipient": new.recipient,
        "language": new.language,
        "message": to_json(new.view),
        "next_attempt_at": new.created_at,
        "created_at": new.created_at,
        "oldest_event_at": new.oldest_event_at,
    }


CLAIM = text("""
WITH due AS (
    SELECT d.delivery_id,
           row_number() OVER (PARTITION BY d.channel, d.target ORDER BY d.transition_id, d.delivery_id) AS place,
           d.transition_id
    FROM deliveries d
    WHERE d.status IN ('pending', 'leased') AND d.next_attempt_at <= :now
      AND NOT EXISTS (
          SELECT FROM channel_holds h WHERE h.channel = d.channel AND h.target = d.target AND h.until > :now)
      AND NOT EXISTS (
          SELECT FROM deliveries f
          WHERE f.status = 'leased' AND f.next_attempt_at > :now AND f.channel = d.channel AND f.target = d.target)
      AND NOT EXISTS (
          SELECT FROM deliveries e
          WHERE e.episode_id = d.episode_id AND e.channel = d.channel AND e.target = d.target
            AND e.transition_id < d.transition_id AND e.status IN ('pending', 'leased'))
), mine AS (
    SELECT d.delivery_id, d.attempt FROM deliveries d
    WHERE d.delivery_id IN (SELECT delivery_id FROM due WHERE place = 1 ORDER BY transition_id LIMIT :limit)
    FOR UPDATE SKIP LOCKED
), abandoned AS (
    UPDATE delivery_attempts a
    SET outcome = 'abandoned', finished_at = :now, detail = 'the sender did not report back before its lease ended'
    FROM mine m WHERE a.delivery_id = m.delivery_id AND a.attempt = m.attempt AND a.outcome = 'started'
), leased AS (
    UPDATE deliveries d
    SET status = 'leased', attempt = d.attempt + 1, leased_until = :until, next_attempt_at = :until
    FROM mine m WHERE d.delivery_id = m.delivery_id
    RETURNING d.*
), started AS (
    INSERT INTO delivery_attempts (delivery_id, attempt, started_at, outcome)
    SELECT delivery_id, attempt, :now, 'started' FROM leased
)
SELECT * FROM leased ORDER BY transition_id
""").columns(*deliveries.c)


async def claim(conn: AsyncConnection, now: datetime, limit: int, lease: timedelta = LEASE) -> list[Claimed]:
    """Leases up to ``limit`` due messages, at most one per target, and notes that their attempts have started.

    Commit before sending: until then nobody else sees the lease. A lease that ran out is taken over as a new attempt.
    """
    await conn.execute(select(func.pg_advisory_xact_lock(CLAIM_LOCK)))
    rows = await conn.execute(CLAIM, {"now": now, "until": now + lease, "limit": limit})
    return [_claimed(row) for row in rows.mappings()]


def _claimed(row: Any) -> Claimed:
    try:
        view = from_json(row["message"])
    except msgspec.MsgspecError:
        view = None
    return Claimed(
        delivery_id=row["delivery_id"],
        attempt=row["attempt"],
        channel=row["channel"],
        target=row["target"],
        language=row["language"],
        view=view,
        created_at=row["created_at"],
        oldest_event_at=row["oldest_event_at"],
        leased_until=row["leased_until"],
    )


async def finish(
    conn: AsyncConnection, claimed: Claimed, result: SendResult, decision: Decision, now: datetime
) -> bool:
    """Records what came of an attempt. False, and nothing changed, when the lease has passed to another attempt."""
    changed = await conn.execute(
        update(deliveries)
        .where(
            deliveries.c.delivery_id == claimed.delivery_id,
            deliveries.c.attempt == claimed.attempt,
            deliveries.c.status == "leased",
        )
        .values(
            status=decision.status,
            leased_until=None,
            next_attempt_at=decision.retry_at or now,
            sent_at=now if decision.status == "sent" else None,
        )
        .returning(deliveries.c.episode_id)
    )
    episode_id = changed.scalar_one_or_none()
    if episode_id is None:
        return False
    await conn.execute(
        update(delivery_attempts)
        .where(delivery_attempts.c.delivery_id == claimed.delivery_id, delivery_attempts.c.attempt == claimed.attempt)
        .values(
            finished_at=now,
            outcome=result.outcome,
            status_code=result.status_code,
            detail=decision.reason[:MAX_DETAIL],
            retry_at=decision.retry_at,
        )
    )
    if decision.hold_until is not None:
        await hold(conn, claimed.channel, claimed.target, decision.hold_until, decision.hold_reason)
    if decision.status != "sent":
        await _cancel_unsaid(conn, [episode_id], now)
    return True


async def hold(conn: AsyncConnection, channel: str, target: str, until: datetime, reason: str) -> None:
    """Nothing goes to this target before ``until``. A longer hold that is there already stays."""
    new = insert(channel_holds).values(channel=channel, target=target, until=until, reason=reason[:MAX_DETAIL])
    await conn.execute(
        new.on_conflict_do_update(
            index_elements=["channel", "target"],
            set_={"until": new.excluded.until, "reason": new.excluded.reason},
            where=channel_holds.c.until < new.excluded.until,
        )
    )


def unsaid(rows: Iterable[Said]) -> list[Cancellation]:
    """Which waiting messages of an episode have lost their point, and why.

    Per channel and target, in the order of the transitions: a message that waits, was surely not heard, and is followed
    by a closing one; then the closing one itself when none of what it would take back was heard.
    """
    found: list[Cancellation] = []
    ordered = sorted(rows, key=lambda row: (row.channel, row.target, row.transition_id))
    for _, group in groupby(ordered, key=lambda row: (row.channel, row.target)):
        before: list[Said] = []
        for row in group:
            if row.kind not in CLOSING:
                before.append(row)
                continue
            waiting = [earlier for earlier in before if earlier.status == "pending" and not earlier.perhaps_heard]
            reason = f"the episode was {row.kind} before this was sent"
            found += [Cancellation(delivery_id=earlier.delivery_id, reason=reason) for earlier in waiting]
            heard = any(earlier.perhaps_heard for earlier in before)
            if before and not heard and row.status == "pending" and not row.perhaps_heard:
                reason = "nobody was told that it opened: nothing to take back"
                after = tuple(earlier.delivery_id for earlier in waiting)
                found.append(Cancellation(delivery_id=row.delivery_id, reason=reason, after=after))
            before = []
    return found


async def cancel_waiting(conn: AsyncConnection, episode_ids: Sequence[UUID], now: datetime) -> None:
    """When episodes end without a word: what still waits to be said of them, and surely was not heard, is not said."""
    if not episode_ids:
        return
    reason = "the episode was over before this was sent"
    waiting = [
        Cancellation(delivery_id=said.delivery_id, reason=reason)
        for said in await _read_said(conn, episode_ids)
        if said.status == "pending" and not said.perhaps_heard and said.kind not in CLOSING
    ]
    await _cancel(conn, waiting, now)


async def _cancel_unsaid(conn: AsyncConnection, episode_ids: Sequence[UUID], now: datetime) -> None:
    found = unsaid(await _read_said(conn, episode_ids))
    cancelled = await _cancel(conn, [each for each in found if not each.after], now)
    # A sender may have leased the opening since we looked: then its closing must follow it.
    await _cancel(conn, [each for each in found if each.after and cancelled.issuperset(each.after)], now)


async def _read_said(conn: AsyncConnection, episode_ids: Sequence[UUID]) -> list[Said]:
    d, a = deliveries.c, delivery_attempts.c
    unclear = (
        select(a.delivery_id)
        .where(
            a.delivery_id == d.delivery_id,
            a.outcome.in_(["sent", "started", "abandoned"])
            | ((a.outcome == "retry") & (a.status_code.is_(None) | (a.status_code >= 500))),
        )
        .exists()
    )
    rows = await conn.execute(
        select(
            d.delivery_id, d.channel, d.target, d.transition_id, d.message["kind"].astext.label("kind"), d.status,
            (d.status.in_(["leased", "sent"]) | ((d.status != "cancelled") & unclear)).label("perhaps_heard"),
        ).where(d.episode_id.in_(episode_ids))
    )  # fmt: skip
    return [Said(**row) for row in rows.mappings()]


_CANCEL = text("""
WITH r AS MATERIALIZED (
    SELECT d.delivery_id, w.reason
    FROM unnest(CAST(:ids AS uuid[]), CAST(:reasons AS text[])) AS w(delivery_id, reason)
    JOIN deliveries d ON d.delivery_id = w.delivery_id AND d.status = 'pending'
    ORDER BY d.channel, d.target, d.transition_id FOR UPDATE OF d
), cancelled AS (
    UPDATE deliveries d SET status = 'cancelled', attempt = d.attempt + 1
    FROM r WHERE d.delivery_id = r.delivery_id AND d.status = 'pending'
    RETURNING d.delivery_id, d.attempt, r.reason
)
INSERT INTO delivery_attempts (delivery_id, attempt, started_at, finished_at, outcome, detail)
SELECT delivery_id, attempt, CAST(:now AS timestamptz), CAST(:now AS timestamptz), 'abandoned', reason FROM cancelled
RETURNING delivery_id
""").columns(delivery_attempts.c.delivery_id)


async def _cancel(conn: AsyncConnection, cancellations: Sequence[Cancellation], now: datetime) -> set[UUID]:
    """Returns which could be cancelled: those that were still waiting."""
    if not cancellations:
        return set()
    values = {
        "ids": [each.delivery_id for each in cancellations],
        "reasons": [each.reason for each in cancellations],
        "now": now,
    }
    return set(await conn.scalars(_CANCEL, values))
