"""What goals are measured by: a signal, and the value that it is to reach. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from health.catalogue import GOAL_SIGNALS, SCORE_SIGNALS, SignalRef, check
from health.custom import CustomSignal

_TARGET: Final = re.compile(r"\s*(>=|<=|≥|≤)?\s*([+-]?\d+(?:\.\d+)?)\s*(%)?\s*")
_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class Target:
    """The signal is to rise to ``value``, or to fall to it if ``at_most``."""

    value: float
    at_most: bool


def target_of(text: str | None) -> Target | None:
    """``80``, ``>= 80``, ``<= 2``, ``80 %`` (0.8); None for what is no such thing."""
    match = _TARGET.fullmatch(text or "")
    if match is None:
        return None
    sign, number, percent = match.groups()
    return Target(float(number) / (_PERCENT if percent else 1), sign in {"<=", "≤"})


def comparable(name: str | None, custom: Mapping[str, CustomSignal]) -> SignalRef | None:
    """The signal a goal names, if a goal can be measured by it: a number of the catalogue or of configuration, but
    neither the score nor what comes of goals. None for what is no such signal: senders may name what they like."""
    try:
        ref = SignalRef.parse(name or "")
        signal = custom[ref.name].signal if ref.name in custom else check(ref)
    except ValueError:
        return None
    if signal.type not in {"number", "boolean"} or ref.name in GOAL_SIGNALS | SCORE_SIGNALS:
        return None
    return ref if ref.name not in custom or ref.argument is None else None
