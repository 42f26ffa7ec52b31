"""Signals of parents: what the accounts below come to (``health/hierarchy.py``). Pure.

They change when a child tells something else, never by time alone. What children said at a past instant is not kept:
unknown there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from health.arrays import Bools, Floats, Texts
from health.catalogue import SIGNALS as CATALOGUE
from health.hierarchy import PARENT, RollUp
from health.signals.view import Definition, View

_USE: Final = frozenset({"account_months", "user_months", "feature_months", "features"})
OF_OWN_USE: Final = frozenset(
    {"days_since_login", "days_since_activity", "business_days_since_login", "business_days_since_activity"}
    | {name for name, signal in CATALOGUE.items() if signal.absence and not _USE.isdisjoint(signal.needs)}
)
"""Signals that only speak of whoever uses the product: unknown of an umbrella."""


def _number(pick: Callable[[RollUp], Any]) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        return view.known(np.asarray(pick(view.rollup), dtype=np.float64)[:, None], view.live)

    return Definition(values=values)


def _mean(view: View, _: str | None) -> Floats:
    return view.known(view.rollup.score[:, None], view.live)


def _mean_is_incomplete(view: View) -> Bools:
    return view.rollup.incomplete[:, None] & view.live


def _worst_child(view: View, _: str | None) -> Texts:
    below = view.rollup
    named = [
        None if worst is None else f"{name} ({worst})" if name else worst
        for worst, name in zip(below.worst_id.tolist(), below.worst_name.tolist(), strict=True)
    ]
    texts = np.repeat(np.array([*named, None], dtype=object)[:-1, None], view.t.shape[1], axis=1)
    texts[~(view.live & view.exists)] = None
    return texts


def _parent(view: View, _: str | None) -> Texts:
    return view.text(PARENT)


def _red(below: RollUp) -> Floats:
    return np.where(below.children > 0, below.red, np.nan)


SIGNALS: Mapping[str, Definition] = {
    "parent_account_id": Definition(values=_parent),
    "children": _number(lambda below: below.children),
    "children_score": Definition(values=_mean, unseen=_mean_is_incomplete),
    "children_red": _number(_red),
    "children_mrr": _number(lambda below: below.mrr),
    "children_mrr_at_risk": _number(lambda below: below.at_risk),
    "worst_child": Definition(values=_worst_child),
    "worst_child_score": _number(lambda below: below.worst_score),
}
