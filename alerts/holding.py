"""Rules that hold and wait for the end of their ``for``, where facts cannot tell since when: those over the score.

When one was first seen to hold is kept in the account's health row, until it is seen not to hold or its episode opens.
What is unknown meanwhile changes nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from alerts import since
from alerts.episodes import Observation
from alerts.rules import Rule


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """``version``: of the rule. ``live_from``: what began before it is pre-existing, as it was when first seen."""

    version: str
    since: datetime
    live_from: datetime | None = None


def read(value: Any) -> Mapping[str, Holding]:
    """By rule, from the health row."""
    return msgspec.convert(value, dict[str, Holding]) if value else {}


def known(holding: Mapping[str, Holding], rule: Rule) -> Holding | None:
    """Of a rule that is still the same one."""
    found = holding.get(rule.id)
    return found if found is not None and found.version == rule.version else None


def unknown_now(
    before: Sequence[Mapping[str, Holding]], rules: Sequence[Rule], verdicts: npt.NDArray[np.float64]
) -> list[dict[str, Holding]]:
    """Per account what stays as it was, since whether it goes on is unknown. ``verdicts``: (rules, accounts)."""
    return [
        {
            rule.id: found
            for number, rule in enumerate(rules if holding else ())
            if (found := known(holding, rule)) is not None and np.isnan(verdicts[number, place])
        }
        for place, holding in enumerate(before)
    ]


def begun(rule: Rule, seen: Observation, for_: timedelta, now: datetime) -> Holding | None:
    """What to keep of a rule without an open episode; None where facts will tell it again, or it is no longer
    waited for."""
    if not seen.holds or seen.since is None or seen.since + for_ <= now or not since.scored(rule):
        return None
    return Holding(version=rule.version, since=seen.since, live_from=seen.live_from)
