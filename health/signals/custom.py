"""Signals of configuration, computed from the events that were chosen for them (``columns.Chosen``). Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from health.arrays import Bools, Floats, Ints, Texts
from health.columns import Chosen, Facts
from health.custom import CustomSignal
from health.instants import DAY, Instants
from health.signals.view import Definition, LivelyWithin, Pairs, View, latest


def definition(custom: CustomSignal) -> Definition:
    """How the signal is computed; the facts must have been read for it."""
    spec, name = custom.spec, custom.spec.name
    if spec.measure == "attribute":
        return Definition(values=lambda view, _: _attribute(view, custom))
    if spec.days is None:
        return Definition(values=lambda view, _: _last(view, custom), instants=lambda facts, _: _times(facts, name, 0))
    days = spec.days
    if custom.by_day:
        return Definition(values=lambda view, _: _by_day(view, custom, days), borders=_moving(name, days),
                          window_days=days)  # fmt: skip
    return Definition(
        values=lambda view, _: _by_event(view, custom, days),
        instants=lambda facts, _: _times(facts, name, 0, days),
        borders=LivelyWithin(days + 1),
        window_days=days + 1,  # times 24 hours begin within the day before the days
    )


def _moving(name: str, days: int) -> Any:
    def borders(facts: Facts, observed: Any) -> Bools:
        busy = LivelyWithin(days)(facts, observed)
        chosen = facts.chosen[name]
        busy[chosen.account[chosen.at >= facts.today_us - (days + 1) * DAY]] = True
        return busy

    return borders


def _times(facts: Facts, name: str, *days: int) -> list[Pairs]:
    chosen = facts.chosen[name]
    return [(chosen.account, chosen.at + n * DAY) for n in days]


def _attribute(view: View, custom: CustomSignal) -> npt.NDArray[Any]:
    return _last_by(view, custom, np.zeros(view.t.shape, dtype=np.int64))


def _last(view: View, custom: CustomSignal) -> npt.NDArray[Any]:
    """Of the latest event, whatever it says: one that leaves the field out makes it unknown."""
    return _last_by(view, custom, view.t)


def _last_by(view: View, custom: CustomSignal, by: Instants) -> npt.NDArray[Any]:
    chosen = view.facts.chosen[custom.spec.name]
    place = latest(view, chosen, chosen.at, np.ones(len(chosen.at), dtype=np.bool_), by)
    return _at_place(view, custom, place, view.exists)


def _at_place(view: View, custom: CustomSignal, place: Ints, known: Bools) -> npt.NDArray[Any]:
    """What the events at ``place`` (A, T) say, -1 for none."""
    chosen = view.facts.chosen[custom.spec.name]
    if custom.spec.type == "number":
        return view.known(np.append(chosen.number, np.nan)[place], known)
    texts = np.full(len(chosen.text) + 1, None, dtype=object)
    texts[:-1] = chosen.text
    found: Texts = texts[place]
    found[~(known & view.exists)] = None
    return found


def _by_day(view: View, custom: CustomSignal, days: int) -> Floats:
    chosen = view.facts.chosen[custom.spec.name]
    age = (view.day_us[chosen.account] - chosen.at[:, None]) // DAY
    within = view.day + 1 >= days
    low, high = (_measure(view, custom, chosen, (age >= least) & (age < days)) for least in (1, 0))
    return view.settle(np.where(within, low, np.nan), np.where(within, high, np.nan))


def _by_event(view: View, custom: CustomSignal, days: int) -> npt.NDArray[Any]:
    chosen = view.facts.chosen[custom.spec.name]
    age = view.rows_t(chosen) - chosen.at[:, None]
    inside = (age >= 0) & (age < days * DAY)
    reached = view.t - days * DAY >= view.facts.first_day_us
    if custom.spec.measure != "last":
        return view.known(_measure(view, custom, chosen, inside), reached)
    place = np.full(view.t.shape, -1, dtype=np.int64)
    np.maximum.at(place, chosen.account, np.where(inside, np.arange(len(chosen.at))[:, None], -1))
    return _at_place(view, custom, place, reached)


def _measure(view: View, custom: CustomSignal, chosen: Chosen, inside: Bools) -> Floats:
    if custom.spec.measure == "distinct":
        return _distinct(view, chosen, inside)
    each = np.ones(len(chosen.at)) if custom.spec.measure == "count" and not custom.by_day else chosen.number
    total = np.zeros(view.t.shape)
    np.add.at(total, chosen.account, np.where(inside, np.nan_to_num(each)[:, None], 0))
    return total


def _distinct(view: View, chosen: Chosen, inside: Bools) -> Floats:
    """How many different texts. (A, T)."""
    codes: dict[str, int] = {}
    code = np.array(
        [-1 if text is None else codes.setdefault(text, len(codes)) for text in chosen.text], dtype=np.int64
    )
    found = np.zeros(view.t.shape)
    for column in range(view.t.shape[1]):
        rows = inside[:, column] & (code >= 0)
        pairs = np.unique(np.stack([chosen.account[rows], code[rows]]), axis=1)
        found[:, column] = np.bincount(pairs[0], minlength=len(found))
    return found
