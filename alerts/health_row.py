"""Writes what an evaluation found to the ``health`` rows and the day's score, a batch in one statement."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import lineage
from alerts.holding import Holding
from health import driver
from health.arrays import Floats
from health.instants import DAY, NEVER
from health.score_lines import Line

if TYPE_CHECKING:
    from alerts.observing import Batch

# How each column is sent, and what is made of it where it is sent as something else. Decimal numbers as text: a float
# made numeric keeps 15 digits. JSON as bytes: much of it is no ASCII, which costs as str and back.
_SENT: Final = {
    "account_id": "text",
    "name": "text",
    "plan": "text",
    "owner": "text",
    "segment": "text",
    "status": "text",
    "mrr": "text",
    "currency": "text",
    "renewal_on": "int",
    "score": "float8",
    "band": "text",
    "mrr_at_risk": "text",
    "open_alerts": "int",
    "last_seen_at": "timestamptz",
    "last_login_at": "timestamptz",
    "signals": "bytea",
    "contributions": "bytea",
    "scorecard": "text",
    "parent_id": "text",
    "parent_problem": "text",
    "as_child": "bytea",
    "rollup": "bytea",
    "facts_version": "bigint",
    "holding": "bytea",
    "imported_until": "timestamptz",
    "due_at": "timestamptz",
}
_MADE: Final = {"mrr": "r.mrr::numeric", "mrr_at_risk": "r.mrr_at_risk::numeric",
                "renewal_on": "DATE 'epoch' + r.renewal_on"}  # fmt: skip


def _made(name: str, type_: str) -> str:
    return _MADE.get(name, f"convert_from(r.{name}, 'UTF8')::jsonb" if type_ == "bytea" else f"r.{name}")


_LISTS: Final = ", ".join(f"unnest(${n}::{type_}[]) AS {name}" for n, (name, type_) in enumerate(_SENT.items(), 5))
_SET: Final = ", ".join(f"{name} = {_made(name, type_)}" for name, type_ in _SENT.items() if name != "account_id")
# ``unnest`` among the columns: in FROM, all rows would be kept on the way. So is what ``written`` returns: few lines. A
# score that is today's already is not even locked.
_WRITE: Final = f"""
WITH written AS (
  UPDATE health h SET {_SET}, evaluated_at = $1::timestamptz, incomplete_since = $2::timestamptz, round = $3::bigint,
    problem = NULL, waiting_since = NULL
  FROM (SELECT {_LISTS}) r WHERE h.account_id = r.account_id COLLATE "C"
  RETURNING h.account_id, h.score, h.band, h.scorecard, CASE WHEN h.scorecard IS NOT NULL AND NOT EXISTS (
    SELECT FROM score_history t WHERE t.account_id = h.account_id AND t.day = $4::date
      AND t.score IS NOT DISTINCT FROM h.score AND t.band IS NOT DISTINCT FROM h.band AND t.scorecard = h.scorecard
  ) THEN h.contributions END AS contributions
)
INSERT INTO score_history AS s (account_id, day, score, band, scorecard, contributions)
SELECT account_id, $4::date, score, band, scorecard, contributions FROM written WHERE contributions IS NOT NULL
ON CONFLICT (account_id, day) DO UPDATE
SET score = excluded.score, band = excluded.band, scorecard = excluded.scorecard, contributions = excluded.contributions
WHERE s.score IS DISTINCT FROM excluded.score OR s.band IS DISTINCT FROM excluded.band
   OR s.scorecard IS DISTINCT FROM excluded.scorecard
"""  # noqa: S608 - made of the names above

_TEXTS: Final = ("name", "plan", "owner", "segment", "currency")
_encoder: Final = msgspec.json.Encoder()


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
    columns = _columns(batch, at_risk, due_at, open_alerts, kin, holding)
    await driver.execute(
        conn,
        _WRITE,
        batch.now,
        batch.context.observed.held_since(batch.now),
        batch.context.round,
        batch.now.date(),
        *(_unless_empty(columns[name]) for name in _SENT),
    )
    await lineage.tell_parents(conn, batch, kin)


def _columns(
    batch: Batch,
    at_risk: Floats,
    due_at: Sequence[datetime | None],
    open_alerts: Mapping[str, int],
    kin: lineage.Told,
    holding: Sequence[Mapping[str, Holding]],
) -> dict[str, Sequence[Any]]:
    """The values of every account, column by column, as they are sent."""
    facts, scores, rows = batch.facts, batch.scores, batch.rows
    return {
        "account_id": facts.account_ids,
        **{name: facts.texts[name].tolist() for name in _TEXTS},
        "status": [status or "active" for status in facts.texts["status"].tolist()],
        "mrr": _decimals(facts.numbers["mrr"]),
        "renewal_on": [None if at == NEVER else at // DAY for at in facts.renewal_at.tolist()],
        "score": [value if isfinite(value) else None for value in scores.score.tolist()],
        "band": scores.band,
        "mrr_at_risk": _decimals(at_risk),
        "open_alerts": [max(0, open_alerts.get(account_id, 0)) for account_id in facts.account_ids],
        "last_seen_at": [row.last_activity_at for row in rows],
        "last_login_at": [row.last_login_at for row in rows],
        "signals": _signals(batch),
        "contributions": _contributions(batch),
        "scorecard": scores.scorecard,
        "parent_id": kin.parent_id,
        "parent_problem": kin.parent_problem,
        "as_child": _json(kin.as_child),
        "rollup": _json(kin.rollup),
        "facts_version": [row.version for row in rows],
        "holding": _json([waiting or None for waiting in holding]),
        "imported_until": [row.imported_until for row in rows],
        "due_at": due_at,
    }


def _unless_empty(column: Sequence[Any]) -> Sequence[Any]:
    """Arrays that end early are filled up with NULL: many columns are of few accounts, in most batches of nobody."""
    return () if column.count(None) == len(column) else column


def _decimals(values: Floats) -> list[str | None]:
    return [repr(value) if isfinite(value) else None for value in values.tolist()]


def _json(values: Sequence[Any]) -> list[bytes | None]:
    return [None if value is None else _encoder.encode(value) for value in values]


def _signals(batch: Batch) -> list[bytes]:
    """NaN becomes null."""
    columns = batch.table.columns
    names, shape = _shape(tuple(columns))
    values = zip(*(columns[name][:, -1].tolist() for name in names), strict=True)
    return [_encoder.encode(shape(*row)) for row in values]


@lru_cache(maxsize=8)
def _shape(names: tuple[str, ...]) -> tuple[list[str], Callable[..., Any]]:
    """The names in the order in which ``jsonb`` keeps them, and what makes of their values something that is encoded
    with them for keys: a struct, which is faster than a dict, but refuses keys that JSON must escape."""
    ordered = sorted(names, key=lambda name: (len(name.encode()), name.encode()))
    if any(json.dumps(name, ensure_ascii=False) != f'"{name}"' for name in ordered):
        return ordered, lambda *values: dict(zip(ordered, values, strict=True))
    fields = {f"f{n}": name for n, name in enumerate(ordered)}
    return ordered, msgspec.defstruct("Signals", [(field, Any) for field in fields], rename=fields, gc=False)


def _contributions(batch: Batch) -> list[bytes]:
    return [b"[%b]" % b",".join(map(_written, lines)) for lines in batch.scores.contributions]


def _written(line: Mapping[str, Any]) -> bytes:
    return line.written() if isinstance(line, Line) else _encoder.encode(line)
