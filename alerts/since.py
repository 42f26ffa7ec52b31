"""Since when a rule has held, by event time: pure, from the facts now known, never from when we happened to look.

The condition is evaluated on a grid of past midnights (day counts are exact there), walked back to where it last did
not hold, and then at the instants within that stretch at which one of its signals may have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from alerts.rules import Rule
from alerts.rules.expression import Compiled
from health import signals
from health.catalogue import OF_CHILDREN, SCORE_SIGNALS
from health.columns import Facts
from health.gaps import Observed
from health.instants import from_us

Datetimes = npt.NDArray[np.datetime64]

GRID_DAYS = (*range(90), *range(90, 735, 7))
"""The midnights, in days back, at which the start of an episode is looked for: daily, as far as there are day
counts, then weekly. One that began two years ago is dated to there."""


_MADE_BY_CARDS: Final = SCORE_SIGNALS | OF_CHILDREN


def scored(rule: Rule) -> bool:
    """Whether it speaks of what scorecards make, its own or those of the accounts below; that has no past that facts
    alone could tell."""
    return _of_scores(rule.when)


def graded(rule: Rule) -> bool:
    """Whether its condition or its severity does."""
    return scored(rule) or any(_of_scores(level.when) for level in rule.levels if level.when is not None)


def _of_scores(condition: Compiled) -> bool:
    return any(ref.name in _MADE_BY_CARDS for ref in condition.refs)


def began(
    rule: Rule,
    facts: Facts,
    index: Sequence[int],
    seen_false_at: Sequence[datetime | None],
    observed: Observed,
    now: datetime,
) -> list[datetime]:
    """Since when ``rule``, which holds now for the accounts at ``index``, has held. For rules without scored signals.

    ``seen_false_at``: when an evaluation last saw that it did not hold, which the midnights alone may step over.
    """
    some = facts.take(np.array(index, dtype=np.int64))
    instants = np.array([_naive(now), *_midnights(now)], dtype="datetime64[us]")
    grid = np.broadcast_to(instants, (len(index), len(instants)))
    held = _holds(rule, some, grid, observed)
    never = np.datetime64(0, "us")
    false_at = np.array([never if at is None else _naive(at) for at in seen_false_at], dtype="datetime64[us]")
    held &= grid > false_at[:, None]
    held[:, 0] = True
    stop = np.where(held.all(axis=1), len(instants) - 1, np.argmin(held, axis=1))
    return _refine(rule, some, np.maximum(instants[stop], false_at), instants[stop - 1], observed)


def _midnights(now: datetime) -> list[datetime]:
    last = _naive(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return [last - timedelta(days=days) for days in GRID_DAYS]


def _naive(at: datetime) -> datetime:
    """numpy's datetime64 is UTC without saying so."""
    return at.astimezone(UTC).replace(tzinfo=None)


def _refine(rule: Rule, facts: Facts, before: Datetimes, after: Datetimes, observed: Observed) -> list[datetime]:
    """Per account the first instant in (before, after] from which on the rule holds; it does at ``after``."""
    start, end = from_us(int(before.min().astype(np.int64))), from_us(int(after.max().astype(np.int64)))
    steps = signals.steps(facts, rule.when.refs, start, end, observed)
    inside = (steps > before[:, None]) & (steps <= after[:, None])
    at = np.where(inside, steps, np.datetime64("NaT"))
    quiet = ~inside | _holds(rule, facts, at, observed)
    found = []
    for place in range(len(facts)):
        last_false = np.flatnonzero(~quiet[place])
        begin = 0 if not len(last_false) else int(last_false[-1]) + 1
        candidates = at[place, begin:][inside[place, begin:]]
        instant = candidates[0] if len(candidates) else after[place]
        found.append(from_us(int(instant.astype(np.int64))))
    return found


def disproved(
    rule: Rule, facts: Facts, index: Sequence[int], opened_at: Sequence[datetime], observed: Observed
) -> list[bool]:
    """Whether the facts now known show that ``rule`` did not hold for these accounts when their episodes were
    opened.
    """
    some = facts.take(np.array(index, dtype=np.int64))
    at = np.array([[_naive(instant)] for instant in opened_at], dtype="datetime64[us]")
    return [bool(value == 0.0) for value in _evaluate(rule, some, at, observed)[:, 0]]


def _evaluate(rule: Rule, facts: Facts, at: Datetimes, observed: Observed) -> npt.NDArray[np.float64]:
    return rule.when.evaluate(signals.compute(facts, at, rule.when.refs, observed).columns)


def _holds(rule: Rule, facts: Facts, at: Datetimes, observed: Observed) -> npt.NDArray[np.bool_]:
    held: npt.NDArray[np.bool_] = _evaluate(rule, facts, at, observed) == 1.0
    return held


def of_scored(
    last_event_at: datetime | None,
    evaluated_at: datetime | None,
    last_step: datetime | None,
    now: datetime,
    *,
    comparable: bool,
) -> datetime:
    """Since when a condition over the score has held: it was not there when the account was last evaluated.

    Whatever changed after that made it true: the newest event, or a signal's step by time alone. Not ``comparable``:
    more of an import has come since, or the rule or the scorecard is another one now. Then it may have been so all
    along, and counts from the earliest of what is known.
    """
    if evaluated_at is None or not comparable:
        return min(at for at in (last_event_at, evaluated_at, now) if at is not None)
    causes = [at for at in (last_event_at, last_step) if at is not None and evaluated_at < at <= now]
    return max(causes, default=now)
