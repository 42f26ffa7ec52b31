"""When signals change by time alone: ``steps`` over a past span, ``next_change`` from now on. Pure.

Signals are step functions of time, so that any expression over them can only change at one of their steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import numpy as np
import numpy.typing as npt

from health.arrays import Bools, Ints
from health.catalogue import SCORE_COURSE, SignalRef
from health.columns import Facts
from health.gaps import Observed
from health.instants import DAY, ENDLESS, NEVER, SECOND, Instants, as_datetime64, spread_us, to_us
from health.signals.table import defined
from health.signals.view import WINDOW_TOLERANCE_US, Definition, LivelyWithin, Pairs, started

RETRY_US = SECOND
"""How soon to look again for a step that lies in the last moments, which are not confirmed as observed yet."""
HELD_RETRY_US = 60 * SECOND
LONG_HELD_RETRY_US = DAY
LONG_HELD_AFTER_US = 600 * SECOND
"""After a hold this long, the guard has everybody looked at again (``health/observed.py``): no need to try all the
time."""
HELD_AFTER_US = 120 * SECOND
"""The position is held, rather than a moment behind, when it is older than this."""


def steps(
    facts: Facts, refs: Iterable[SignalRef], start: datetime, end: datetime, observed: Observed
) -> npt.NDArray[np.datetime64]:
    """The instants in (start, end] at which a signal of ``refs`` may change, per account: (A, K), ascending, NaT last.

    A superset: at some of them nothing changes. Between two of them every signal stays as it is, or is unknown within
    a day of which only the sum is known.
    """
    first, last = to_us(start), to_us(end)
    found: list[Pairs] = []
    zoned = False
    accounts = np.arange(len(facts))
    refs = dict.fromkeys(refs)
    if _of_goals(facts, refs):
        refs |= dict.fromkeys(_measures(facts))
    for ref, definition in _timed(facts, refs):
        if definition is None or (definition.borders is not None and not definition.zoned):
            found.append(_each(accounts, _borders(first, last)))
        elif definition.zoned:
            zoned = True
        if definition is None:
            continue
        if definition.origins is not None:
            for origin in definition.origins(facts, ref.argument):
                found += [
                    (accounts, origin),
                    _crossings(origin, first, last, observed if definition.observed else None),
                ]
        if definition.instants is not None:
            found += definition.instants(facts, ref.argument)
        if definition.window_days is not None:
            found.append(_each(accounts, np.array([observed.through_us + WINDOW_TOLERANCE_US + 1])))
    if zoned:
        found += facts.places.midnights(first, last)
    if observed.has_gaps:
        found += [_each(accounts, observed.edges_us), _each(accounts, observed.edges_us + 1)]
    return as_datetime64(_table(len(facts), found, first, last))


def next_change(
    facts: Facts, now: datetime, refs: Iterable[SignalRef], observed: Observed, *, spread_borders: bool = True
) -> npt.NDArray[np.datetime64]:
    """When each account should be looked at again if nothing more happens: (A,), NaT for never.

    Never later than the first instant after ``now`` at which a signal differs, while what is observed keeps up with
    time and no new gap opens; except that work of day borders is put off by ``spread`` (less than an hour) unless
    ``spread_borders`` is false. A crossing that has come but is not confirmed as observed is tried again in a
    second, in a minute while the position is held, or in a day once that has lasted. Within a gap that goes on: the
    earliest crossing if it ended at once.
    """
    now_us = to_us(now)
    border = np.full(len(facts), now_us - now_us % DAY + DAY, dtype=np.int64)
    own_border = facts.places.next_midnight(now_us)
    if spread_borders:
        work = spread_us(facts.account_ids)
        border, own_border = border + work, own_border + work
    refs = dict.fromkeys(refs)
    soonest = _soonest(facts, now_us, refs, observed, border, own_border)
    if _of_goals(facts, refs):
        has_goals = np.zeros(len(facts), dtype=np.bool_)
        has_goals[facts.goals.account[np.isfinite(facts.goals.target)]] = True
        measures = [ref for ref in _measures(facts) if ref not in refs]
        at = _soonest(facts, now_us, measures, observed, border, own_border)
        np.minimum(soonest, np.where(has_goals, at, ENDLESS), out=soonest)
    for at in facts.announced.values():  # whatever the rules name: lists and owners change, too
        soonest = np.minimum(soonest, np.where(at > now_us, at, ENDLESS))
    return as_datetime64(np.where(soonest >= ENDLESS, NEVER, soonest))


def _soonest(
    facts: Facts, now: int, refs: Iterable[SignalRef], observed: Observed, border: Instants, own_border: Instants
) -> Instants:
    """When one of the signals may change next, ENDLESS for never. (A,). By kind of step, over all signals at once."""
    timed = list(_timed(facts, refs))
    known = [(definition, ref.argument) for ref, definition in timed if definition is not None]
    soonest = border.copy() if len(known) < len(timed) else np.full(len(facts), ENDLESS, dtype=np.int64)
    for zoned, days in ((False, border), (True, own_border)):
        asked = dict.fromkeys(each.borders for each, _ in known if each.borders is not None and each.zoned is zoned)
        np.minimum(soonest, np.where(_crossing(facts, observed, asked), days, ENDLESS), out=soonest)
    for is_observed, counted in ((True, observed), (False, None)):
        starting = [each for each in known if each[0].origins is not None and each[0].observed is is_observed]
        in_force = [
            next(iter(each.origins(facts, argument))) for each, argument in starting if each.origins is not None
        ]
        if in_force:
            np.minimum(soonest, _next_crossing(np.stack(in_force), now, counted).min(axis=0), out=soonest)
    for instants, argument in dict.fromkeys((each.instants, argument) for each, argument in known):
        for account, at in instants(facts, argument) if instants is not None else ():
            ahead = (at > now).nonzero()[0]  # few: most of what is known lies behind
            np.minimum.at(soonest, account[ahead], at[ahead])
    return soonest


def _crossing(facts: Facts, observed: Observed, asked: Iterable[Callable[[Facts, Observed], Bools]]) -> Bools:
    """Which accounts a border may change, by one signal or another. (A,)"""
    found = np.zeros(len(facts), dtype=np.bool_)
    lively = max((borders for borders in asked if isinstance(borders, LivelyWithin)), default=None)
    others = (borders for borders in asked if not isinstance(borders, LivelyWithin))
    enough = sorted(others, key=lambda borders: borders is not started)  # which leaves nobody out
    if lively is not None:
        enough.append(lively)  # last, since it looks at every day
    for borders in enough:
        found |= borders(facts, observed)
        if found.all():
            break
    return found


def _of_goals(facts: Facts, refs: Iterable[SignalRef]) -> bool:
    return any(definition is not None and definition.of_goals for _, definition in _timed(facts, refs))


def _measures(facts: Facts) -> list[SignalRef]:
    """The signals by which goals of these accounts are measured."""
    return [SignalRef.parse(name) for name in dict.fromkeys(facts.goals.signal.tolist()) if name is not None]


def _timed(facts: Facts, refs: Iterable[SignalRef]) -> Iterator[tuple[SignalRef, Definition | None]]:
    """The signals with their definition; None for changes of the score, which have a step at every day border."""
    for ref in dict.fromkeys(refs):
        _, definition = defined(ref, facts.custom)
        if definition is not None or ref.name in SCORE_COURSE:
            yield ref, definition


def _crossings(origin: Instants, first: int, last: int, observed: Observed | None) -> Pairs:
    """Where whole days since ``origin`` (A,) step up within (first, last]; plain time without ``observed``."""
    exists = origin != NEVER
    begin = np.where(exists, origin, 0)
    position = begin - (observed.unobserved_before(begin) if observed else 0)
    first_position = first - (int(observed.unobserved_before(np.array([first]))[0]) if observed else 0)
    passed = np.maximum(first_position - position, 0) // DAY
    ahead = np.arange(max(0, (last - first) // DAY) + 2, dtype=np.int64)
    target = (position[:, None] + (passed[:, None] + ahead) * DAY).astype(np.int64)
    at = np.array(observed.instant_of(target) if observed else target)
    at[~exists] = NEVER
    return np.repeat(np.arange(len(origin)), len(ahead)), at.ravel()


def _next_crossing(origin: Instants, now: int, observed: Observed | None) -> Instants:
    """When the whole days since ``origin`` next step up, ENDLESS where there is no origin. (A,)."""
    exists = origin != NEVER
    begin = np.where(exists, origin, 0)
    if observed is None:
        crossing = np.where(begin > now, begin, begin + ((now - begin) // DAY + 1) * DAY)
        return np.where(exists, crossing, ENDLESS)
    if observed.through is None:
        return np.where(exists, now + LONG_HELD_AFTER_US, ENDLESS)
    seen_until = min(now, observed.through_us)
    position = begin - observed.unobserved_before(begin)
    seen = np.maximum(seen_until - observed.unobserved_before(np.array([seen_until])) - position, 0)
    crossing = observed.instant_of(position + (seen // DAY + 1) * DAY)
    if observed.ongoing_from_us is not None and observed.ongoing_from_us <= now:
        crossing = np.minimum(crossing, now + DAY - seen % DAY)
    behind = now - observed.through_us
    retry = now + RETRY_US
    if behind > HELD_AFTER_US:
        retry = now + (HELD_RETRY_US if behind <= LONG_HELD_AFTER_US else LONG_HELD_RETRY_US)
    crossing = np.where(crossing <= now, retry, crossing)
    crossing = np.where(begin > now, np.minimum(begin, crossing), crossing)
    return np.where(exists, crossing, ENDLESS)


def _borders(first: int, last: int) -> Instants:
    return np.arange(first - first % DAY + DAY, last + 1, DAY, dtype=np.int64)


def _each(accounts: Ints, at: Instants) -> Pairs:
    return np.repeat(accounts, len(at)), np.tile(at, len(accounts))


def _table(size: int, found: list[Pairs], first: int, last: int) -> Instants:
    """Pairs as rows of distinct ascending instants within (first, last], filled with NEVER at the end."""
    account = np.concatenate([np.empty(0, dtype=np.int64), *(pair[0] for pair in found)])
    at = np.concatenate([np.empty(0, dtype=np.int64), *(pair[1] for pair in found)])
    inside = (at > first) & (at <= last)
    account, at = account[inside], at[inside]
    order = np.lexsort((at, account))
    account, at = account[order], at[order]
    fresh = np.ones(len(at), dtype=np.bool_)
    fresh[1:] = (account[1:] != account[:-1]) | (at[1:] != at[:-1])
    account, at = account[fresh], at[fresh]
    counts = np.bincount(account, minlength=size)
    place = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.full((size, int(counts.max(initial=0))), NEVER, dtype=np.int64)
    rows[account, place] = at
    return rows
