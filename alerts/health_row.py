"""Writes what an evaluation found to the ``health`` rows and the day's score, a batch in two statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import lineage
from health.arrays import Floats
from health.instants import NEVER, from_us

if TYPE_CHECKING:
    from alerts.observing import Batch

_COLUMNS = {
    "name": "text",
    "plan": "text",
    "owner": "text",
    "segment": "text",
    "status": "text",
    "mrr": "numeric",
    "currency": "text",
    "renewal_on": "date",
    "score": "float8",
    "band": "text",
    "mrr_at_risk": "numeric",
    "open_alerts": "int",
    "last_seen_at": "timestamptz",
    "last_login_at": "timestamptz",
    "signals": "jsonb",
    "contributions": "jsonb",
    "scorecard": "text",
    "incomplete_since": "timestamptz",
    "problem": "text",
    "parent_id": "text",
    "parent_problem": "text",
    "as_child": "jsonb",
    "rollup": "jsonb",
    "facts_version": "bigint",
    "round": "bigint",
    "imported_until": "timestamptz",
    "waiting_since": "timestamptz",
    "evaluated_at": "timestamptz",
    "due_at": "timestamptz",
}

_TYPES = ", ".join(f"{name} {type_}" for name, type_ in _COLUMNS.items())
_RECORDS = f"jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(account_id text, {_TYPES})"

_UPDATE = text(
    f"""
UPDATE health h SET {", ".join(f"{name} = r.{name}" for name in _COLUMNS)}
FROM {_RECORDS} WHERE h.account_id = r.account_id COLLATE "C"
"""  # noqa: S608 - made of the names above
)

_SCORES = text(
    f"""
INSERT INTO score_history AS s (account_id, day, score, band, scorecard, contributions)
SELECT r.account_id, CAST(:day AS date), r.score, r.band, r.scorecard, r.contributions
FROM {_RECORDS} WHERE r.scorecard IS NOT NULL
ON CONFLICT (account_id, day) DO UPDATE
SET score = excluded.score, band = excluded.band, scorecard = excluded.scorecard, contributions = excluded.contributions
WHERE s.score IS DISTINCT FROM excluded.score OR s.band IS DISTINCT FROM excluded.band
   OR s.scorecard IS DISTINCT FROM excluded.scorecard
"""  # noqa: S608 - made of the names above
)


async def write_health(
    conn: AsyncConnection, batch: Batch, due_at: Sequence[datetime | None], open_alerts: Mapping[str, int]
) -> None:
    """Every column of the lists, and the last score of the day; what parents are told."""
    at_risk = batch.facts.numbers["mrr"] * batch.scores.at_risk
    kin = lineage.columns(batch, at_risk)
    rows = [_row(batch, place, at_risk, due_at[place], open_alerts) | kin[place] for place in range(len(batch.facts))]
    encoded = msgspec.json.encode(rows).decode()
    await conn.execute(_UPDATE, {"rows": encoded})
    await conn.execute(_SCORES, {"rows": encoded, "day": batch.now.date()})
    await lineage.tell_parents(conn, batch, kin)


def _row(
    batch: Batch, place: int, at_risk: Floats, due_at: datetime | None, open_alerts: Mapping[str, int]
) -> dict[str, Any]:
    facts, scores, account = batch.facts, batch.scores, batch.rows[place]
    account_id = facts.account_ids[place]
    mrr = _number(facts.numbers["mrr"][place])
    score, band = _number(scores.score[place]), scores.band[place]
    renewal = int(facts.renewal_at[place])
    texts = {name: facts.texts[name][place] for name in ("name", "plan", "owner", "segment", "status", "currency")}
    return {
        "account_id": account_id,
        **texts,
        "status": texts["status"] or "active",
        "mrr": mrr,
        "renewal_on": None if renewal == NEVER else from_us(renewal).date(),
        "score": score,
        "band": band,
        "mrr_at_risk": _number(at_risk[place]),
        "open_alerts": max(0, open_alerts.get(account_id, 0)),
        "last_seen_at": account.last_activity_at,
        "last_login_at": account.last_login_at,
        "signals": batch.signals_of(place),
        "contributions": scores.contributions[place],
        "scorecard": scores.scorecard[place],
        "incomplete_since": batch.context.observed.held_since(batch.now),
        "problem": None,
        "facts_version": account.version,
        "round": batch.context.round,
        "imported_until": account.imported_until,
        "waiting_since": None,
        "evaluated_at": batch.now,
        "due_at": due_at,
    }


def _number(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
