"""Writes what an evaluation found to the ``health`` rows and the day's score, a batch in two statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import lineage
from alerts.holding import Holding
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
    "holding": "jsonb",
    "imported_until": "timestamptz",
    "waiting_since": "timestamptz",
    "evaluated_at": "timestamptz",
    "due_at": "timestamptz",
}

_TYPES = ", ".join(f"{name} {type_}" for name, type_ in _COLUMNS.items())

# One statement: the rows are parsed once. A score that is today's already is not even locked.
_WRITE = text(
    f"""
WITH r AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(account_id text, {_TYPES})
), written AS (
  UPDATE health h SET {", ".join(f"{name} = r.{name}" for name in _COLUMNS)}
  FROM r WHERE h.account_id = r.account_id COLLATE "C"
)
INSERT INTO score_history AS s (account_id, day, score, band, scorecard, contributions)
SELECT r.account_id, CAST(:day AS date), r.score, r.band, r.scorecard, r.contributions
FROM r WHERE r.scorecard IS NOT NULL AND NOT EXISTS (
  SELECT FROM score_history t WHERE t.account_id = r.account_id COLLATE "C" AND t.day = CAST(:day AS date)
    AND t.score IS NOT DISTINCT FROM r.score AND t.band IS NOT DISTINCT FROM r.band AND t.scorecard = r.scorecard
)
ON CONFLICT (account_id, day) DO UPDATE
SET score = excluded.score, band = excluded.band, scorecard = excluded.scorecard, contributions = excluded.contributions
WHERE s.score IS DISTINCT FROM excluded.score OR s.band IS DISTINCT FROM excluded.band
   OR s.scorecard IS DISTINCT FROM excluded.scorecard
"""  # noqa: S608 - made of the names above
)

_TEXTS = ("name", "plan", "owner", "segment", "currency")
_encode = msgspec.json.Encoder().encode


async def write_health(
    conn: AsyncConnection,
    batch: Batch,
    due_at: Sequence[datetime | None],
    open_alerts: Mapping[str, int],
    holding: Sequence[Mapping[str, Holding]],
) -> None:
    """Every column of the lists, and the last score of the day; what parents are told."""
    at_risk = batch.facts.numbers["mrr"] * batch.scores.at_risk
    kin = lineage.columns(batch, at_risk)
    columns = _columns(batch, at_risk, due_at, open_alerts, kin)
    columns["holding"] = [waiting or None for waiting in holding]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    await conn.execute(_WRITE, {"rows": _encode(rows).decode(), "day": batch.now.date()})
    await lineage.tell_parents(conn, batch, kin)


def _columns(
    batch: Batch,
    at_risk: Floats,
    due_at: Sequence[datetime | None],
    open_alerts: Mapping[str, int],
    kin: Sequence[Mapping[str, Any]],
) -> dict[str, Sequence[Any]]:
    """The values of every account, column by column; NaN becomes null in the JSON."""
    facts, scores, rows, size = batch.facts, batch.scores, batch.rows, len(batch.facts)
    same = {
        "incomplete_since": batch.context.observed.held_since(batch.now), "problem": None, "waiting_since": None,
        "round": batch.context.round, "evaluated_at": batch.now,
    }  # fmt: skip
    return {
        "account_id": facts.account_ids,
        **{name: facts.texts[name].tolist() for name in _TEXTS},
        "status": [status or "active" for status in facts.texts["status"].tolist()],
        "mrr": facts.numbers["mrr"].tolist(),
        "renewal_on": [None if at == NEVER else from_us(at).date() for at in facts.renewal_at.tolist()],
        "score": scores.score.tolist(),
        "band": scores.band,
        "mrr_at_risk": at_risk.tolist(),
        "open_alerts": [max(0, open_alerts.get(account_id, 0)) for account_id in facts.account_ids],
        "last_seen_at": [row.last_activity_at for row in rows],
        "last_login_at": [row.last_login_at for row in rows],
        "signals": _signals(batch),
        "contributions": _contributions(batch),
        "scorecard": scores.scorecard,
        "facts_version": [row.version for row in rows],
        "imported_until": [row.imported_until for row in rows],
        "due_at": due_at,
        **{name: [each[name] for each in kin] for name in ("parent_id", "parent_problem", "as_child", "rollup")},
        **{name: [value] * size for name, value in same.items()},
    }


def _signals(batch: Batch) -> list[dict[str, Any]]:
    columns = batch.table.columns
    values = zip(*(column[:, -1].tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def _contributions(batch: Batch) -> list[list[msgspec.Raw]]:
    """Most lines stand in many accounts, and are encoded once."""
    encoded: dict[int, msgspec.Raw] = {}
    for lines in batch.scores.contributions:
        for line in lines:
            if id(line) not in encoded:
                encoded[id(line)] = msgspec.Raw(_encode(line))
    return [[encoded[id(line)] for line in lines] for lines in batch.scores.contributions]
