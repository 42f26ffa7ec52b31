"""Reads what ``health/explaining.py`` decides on: the facts of now or of a past day, what was recorded, what came
later. Read-only: nothing is locked or written.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.doors import by_sources
from consumers import progress
from health import custom, explaining, fleet, observed, overrides, past
from health import facts as reading
from health.columns import Facts
from health.explaining import Explained, Late, Scored
from health.gaps import Observed
from health.instants import DAY, NEVER, to_us
from health.rhythm import SHIPPED, Fleet
from health.scorecard_file import Card
from health.scorecards import CardInForce, Override, Scorecards
from health.tables import fleets, health, score_history
from service.cards import InForce
from service.queries import Stream

FIRST_DAY: Final = date(1970, 1, 1)
LATE_LOOK_DAYS: Final = 100
"""How far before the day a late arrival or a gap still counts as a cause: as far as most signals look."""


class DayToCome(ValueError):
    """Of the future nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """``at``: the last moment of a past UTC day, or now."""

    day: date
    at: datetime
    past: bool

    @classmethod
    def of(cls, day: date | None, now: datetime) -> Moment:
        """Raises DayToCome."""
        today = now.astimezone(UTC).date()
        if day is None or day == today:
            return cls(day=today, at=now, past=False)
        if day > today:
            raise DayToCome(f"{day} is still to come: give a day up to {today}")
        end = datetime.combine(day + timedelta(days=1), time(), UTC) - timedelta(microseconds=1)
        return cls(day=day, at=end, past=True)


@dataclass(frozen=True, kw_only=True)
class Background:
    """What is the same for all accounts at a moment. ``fleet_day``: None for what ships."""

    moment: Moment
    observed: Observed
    fleet: Fleet
    fleet_day: date | None


@dataclass(frozen=True, kw_only=True)
class Known:
    """Some accounts at a moment; in the order of ``facts.account_ids``."""

    facts: Facts
    observed: Observed
    bands: list[str | None]
    overrides: Sequence[Override | None]


async def background(conn: AsyncConnection, moment: Moment, *, stream: Stream) -> Background:
    through = (await progress.read(conn, stream.group, stream.topics)).complete_through
    at = moment.at
    seen = await observed.read(conn, None if through is None else min(through, at), at)
    row = (await conn.execute(_fleet_of(moment.day - timedelta(days=1)))).one_or_none()
    return Background(
        moment=moment,
        observed=seen,
        fleet=SHIPPED if row is None else fleet.of_json(row.payload),
        fleet_day=None if row is None else row.day,
    )


def _fleet_of(day: date) -> Any:
    """The newest that knows no later day, else the oldest."""
    later = fleets.c.day > day
    distance = func.abs(fleets.c.day - day)
    return select(fleets.c.day, fleets.c.payload).order_by(later, distance).limit(1)


async def known(
    conn: AsyncConnection, account_ids: Sequence[str], around: Background, cards: Sequence[Scorecards], custom: Any
) -> list[Known]:
    """The accounts in groups for which the same was observed."""
    refs = {ref for some in cards for ref in some.refs}
    return [
        await _known(conn, some, replace(around, observed=seen), refs, custom)
        for seen, some in await by_sources(conn, account_ids, around.observed)
    ]


async def _known(conn: AsyncConnection, ids: list[str], around: Background, refs: Any, custom: Any) -> Known:
    moment = around.moment
    if moment.past:
        facts = await past.read(conn, ids, at=moment.at, refs=refs, fleet=around.fleet, custom=custom)
        standing = await overrides.read_past(conn, ids, moment.at)
        query = (
            select(score_history.c.account_id, score_history.c.band)
            .ext(distinct_on(score_history.c.account_id))
            .where(score_history.c.account_id.in_(ids), score_history.c.day <= moment.day)
            .order_by(score_history.c.account_id, score_history.c.day.desc())
        )
    else:
        facts = await reading.read(conn, ids, now=moment.at, refs=refs, fleet=around.fleet, custom=custom)
        standing = await overrides.read(conn, ids, moment.at)
        query = select(health.c.account_id, health.c.band).where(health.c.account_id.in_(ids))
    bands = {row.account_id: row.band for row in await conn.execute(query)}
    return Known(
        facts=facts, observed=around.observed, bands=[bands.get(account_id) for account_id in ids], overrides=standing
    )


async def explain(
    conn: AsyncConnection,
    account_id: str,
    moment: Moment,
    in_force: InForce,
    *,
    other: Scorecards | None = None,
    stream: Stream,
) -> Explained | None:
    """The score of an account at a moment under the cards in force, or under ``other``; None for an unknown account."""
    row = (await conn.execute(_ACCOUNT, {"account_id": account_id})).one()
    if not row.known:
        return None
    cards = in_force.cards if other is None else other
    around = await background(conn, moment, stream=stream)
    (found,) = await known(conn, [account_id], around, [cards], in_force.custom)
    then = await _recorded(conn, account_id, moment.day)
    card = None
    now = (await _scored(found, cards)) if _begun(found.facts) else explaining.nothing(cards.cards[-1].name)
    if then is not None and then.scorecard != now.scorecard:
        card = await _by_card(conn, account_id, around, then.scorecard)
    told = await _differences(conn, account_id, moment, now, then, other_card=other is not None)
    unknown = await _not_known(conn, account_id, around, found.facts, row.first_event_at)
    number = float(found.facts.numbers["mrr"][0])
    return Explained(
        account_id=account_id,
        day=moment.day,
        at=moment.at,
        **{name: found.facts.texts[name][0] for name in ("name", "plan", "status", "currency")},
        mrr=None if math.isnan(number) else number,
        now=now,
        recorded=then,
        by_recorded_card=card,
        lines=explaining.line_changes(then.contributions, now.contributions) if then is not None and told else [],
        differences=told,
        not_known=unknown,
    )


_ACCOUNT: Final = text("""
SELECT a.first_event_at, a.account_id IS NOT NULL OR h.account_id IS NOT NULL AS known
FROM (SELECT CAST(:account_id AS text) COLLATE "C" AS account_id) w
LEFT JOIN accounts a USING (account_id) LEFT JOIN health h USING (account_id)
""")


def _begun(facts: Facts) -> bool:
    return bool(facts.start[0] != NEVER)


async def _scored(found: Known, cards: Scorecards) -> Scored:
    (scores,) = await asyncio.to_thread(
        explaining.score_each, [cards], found.facts, found.observed, found.bands, found.overrides
    )
    return explaining.scored(scores, 0)


async def _recorded(conn: AsyncConnection, account_id: str, day: date) -> Scored | None:
    query = select(score_history).where(score_history.c.account_id == account_id, score_history.c.day == day)
    row = (await conn.execute(query)).one_or_none()
    return None if row is None else explaining.recorded(row)


_KEPT_CARD: Final = text("""
SELECT content #> ARRAY['scorecards', :name] AS card, content->'signals' AS signals FROM rulebooks
WHERE content #> ARRAY['scorecards', :name] IS NOT NULL ORDER BY loaded_at DESC LIMIT 1
""")


async def _by_card(conn: AsyncConnection, account_id: str, around: Background, name: str) -> Scored | None:
    """Under the card of that name@version alone, as it was kept with its rulebook."""
    kept = (await conn.execute(_KEPT_CARD, {"name": name})).one_or_none()
    if kept is None:
        return None
    card = Card.model_validate({**kept.card, "match": None})
    declared = custom.kept(kept.signals or [])
    cards = Scorecards([CardInForce(card, name.rpartition("@")[2], declared)])
    (found,) = await known(conn, [account_id], around, [cards], declared)
    return await _scored(found, cards) if _begun(found.facts) else None


_LATE: Final = text("""
SELECT
  (SELECT coalesce(sum(events), 0)::bigint FROM late_arrivals WHERE account_id = :account_id
    AND event_day BETWEEN CAST(:since AS date) AND CAST(:day AS date) AND arrival_day > CAST(:day AS date)) AS events,
  (SELECT count(*) FROM record_events WHERE account_id = :account_id
    AND at <= CAST(:at AS timestamptz) AND known_at > CAST(:at AS timestamptz)) AS records,
  (SELECT count(*) FROM account_history WHERE account_id = :account_id
    AND valid_from <= CAST(:at AS timestamptz) AND known_at > CAST(:at AS timestamptz)) AS attributes,
  (SELECT coalesce(imported_until > CAST(:at AS timestamptz), false) FROM accounts WHERE account_id = :account_id)
    AS imported,
  (SELECT count(*) FROM gaps WHERE from_at <= CAST(:at AS timestamptz)
    AND coalesce(until_at, 'infinity') >= CAST(:since AS date)
    AND (noticed_at > CAST(:at AS timestamptz) OR closed_at > CAST(:at AS timestamptz))) AS gaps
""")


async def _differences(
    conn: AsyncConnection, account_id: str, moment: Moment, now: Scored, then: Scored | None, *, other_card: bool
) -> list[explaining.Told]:
    since = max(moment.day - timedelta(days=LATE_LOOK_DAYS), FIRST_DAY)
    values = {"account_id": account_id, "day": moment.day, "at": moment.at, "since": since}
    row = (await conn.execute(_LATE, values)).one()
    late = Late(
        events=row.events, records=row.records, attributes=row.attributes, imported=bool(row.imported), gaps=row.gaps
    )
    return explaining.differences(now, then, late, other_card=other_card)


async def _not_known(
    conn: AsyncConnection, account_id: str, around: Background, facts: Facts, first: datetime | None
) -> list[explaining.Told]:
    if not _begun(facts):
        return explaining.not_begun(first)
    if not around.moment.past:
        return []
    undated = await past.undated(conn, account_id, to_us(around.moment.at))
    return explaining.not_known(
        undated=undated,
        fleet_day=around.fleet_day,
        wanted_day=around.moment.day - timedelta(days=1),
        hours=_hours_matter(facts, around.observed),
        children=len(facts.children.account) > 0,
    )


def _hours_matter(facts: Facts, seen: Observed) -> bool:
    """Whether time was not observed since a last activity of which only the day is kept: then days are not whole."""
    last = [int(at[0]) for at in (facts.last_login_at, facts.last_activity_at) if at[0] != NEVER]
    of_a_day = [at for at in last if (at + 1) % DAY == 0]
    return any(seen.first_span_touching(at - DAY, facts.now_us) for at in of_a_day)
