"""``compute``: the signals of a batch of accounts at some instants, as columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from health.arrays import Bools
from health.catalogue import Signal, SignalRef, check
from health.columns import Facts
from health.custom import CustomSignal
from health.gaps import Observed
from health.instants import Instants, to_us
from health.signals import activity, adoption, champion, commercial, goals, hierarchy, onboarding, rhythm, support
from health.signals.custom import definition as of_configuration
from health.signals.view import Definition, View

DEFINITIONS: Mapping[str, Definition] = {
    **activity.SIGNALS,
    **adoption.SIGNALS,
    **champion.SIGNALS,
    **commercial.SIGNALS,
    **support.SIGNALS,
    **onboarding.SIGNALS,
    **goals.SIGNALS,
    **rhythm.SIGNALS,
    **hierarchy.SIGNALS,
}
"""Every signal of the catalogue but those of the score."""


@dataclass(frozen=True, kw_only=True)
class SignalTable:
    """Signals by ``str(ref)``, each (A, T): float64 with NaN for unknown, object with None for texts.

    ``incomplete`` (A, T) per signal tells an unknown that comes from time not observed; only signals over windows of
    days, and those counting observed time, have an entry. ``at`` is (A, T) in µs.
    """

    account_ids: tuple[str, ...]
    at: Instants
    columns: dict[str, npt.NDArray[Any]]
    incomplete: dict[str, Bools]

    def row(self, account: int, instant: int = -1, names: Iterable[str] | None = None) -> dict[str, Any]:
        """The signals of one account as plain values, None for unknown; the instant defaults to the last,
        ``names`` to all."""
        wanted = self.columns if names is None else names
        return {name: _plain(self.columns[name][account, instant]) for name in wanted}


def compute(
    facts: Facts, at: Sequence[datetime] | npt.NDArray[np.datetime64], refs: Iterable[SignalRef], observed: Observed
) -> SignalTable:
    """The signals ``refs`` at the instants ``at``: T datetimes for all accounts, or (A, T) datetime64[us], NaT for
    none.

    From ``facts.now`` on, values are what they will be if nothing more happens; before it, what they were as far as the
    facts tell, else unknown. Signals of the score come out unknown: the evaluator fills them in. Raises ValueError for
    a signal that the catalogue does not know.
    """
    view = View(facts, _instants(facts, at), observed)
    columns: dict[str, npt.NDArray[Any]] = {}
    incomplete: dict[str, Bools] = {}
    found: dict[str, tuple[npt.NDArray[Any], Bools | None]] = {}

    def other(name: str) -> tuple[npt.NDArray[Any], Bools]:
        if name not in found:
            found[name] = _one(view, SignalRef.parse(name))
        values, unseen = found[name]
        return values, view.nowhere if unseen is None else unseen

    view.other = other
    for ref in dict.fromkeys(refs):
        name = str(ref)
        if name not in found:
            found[name] = _one(view, ref)
        columns[name], unseen = found[name]
        if unseen is not None:
            incomplete[name] = unseen
    del view.other  # they hold each other: the facts would stay in memory until the cycle collector comes
    return SignalTable(account_ids=facts.account_ids, at=view.t, columns=columns, incomplete=incomplete)


def _one(view: View, ref: SignalRef) -> tuple[npt.NDArray[Any], Bools | None]:
    """The values of a signal and, where that can be, whether they are unknown for want of observation; both (A, T)."""
    signal, definition = defined(ref, view.facts.custom)
    values, unseen = _computed(view, ref, signal, definition)
    declared = view.facts.custom.get(ref.name)
    of_use = ref.name in hierarchy.OF_OWN_USE if declared is None else declared.by_day and signal.absence
    if of_use and view.has_umbrellas:
        unknown: Any = None if signal.type == "text" else np.nan
        values = np.where(view.umbrella[:, None], unknown, values)
        unseen = None if unseen is None else unseen & ~view.umbrella[:, None]
    return values, unseen


def _computed(
    view: View, ref: SignalRef, signal: Signal, definition: Definition | None
) -> tuple[npt.NDArray[Any], Bools | None]:
    if definition is None:
        text = signal.type == "text"
        return np.full(view.t.shape, None if text else np.nan, dtype=object if text else np.float64), None
    values = definition.values(view, ref.argument)
    length = definition.window(view.facts)
    if length is not None:
        unseen = view.incomplete(length)
        for days, before in definition.earlier:
            unseen = unseen | view.incomplete(days, before=before)
        if not unseen.any():
            return values, unseen
        unknown: Any = None if signal.type == "text" else np.nan
        return np.where(unseen, unknown, values), unseen
    if definition.unseen is not None:
        return values, definition.unseen(view)
    if not signal.absence:
        return values, None
    return values, view.nowhere if view.observed.through is not None else ~view.nowhere


def defined(ref: SignalRef, custom: Mapping[str, CustomSignal]) -> tuple[Signal, Definition | None]:
    """The signal and how it is computed; None for those of the score. Raises ValueError for an unknown or misused
    one."""
    declared = custom.get(ref.name)
    if declared is not None:
        return declared.signal, of_configuration(declared)
    signal = check(ref)
    return signal, DEFINITIONS.get(ref.name)


def _instants(facts: Facts, at: Sequence[datetime] | npt.NDArray[np.datetime64]) -> Instants:
    if isinstance(at, np.ndarray):
        return at.astype("datetime64[us]").view(np.int64)
    row = np.array([to_us(instant) for instant in at], dtype=np.int64)
    return np.broadcast_to(row, (len(facts), len(row)))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if np.isnan(value) else float(value)
    return value
