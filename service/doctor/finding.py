"""What a check found, in words for whoever runs the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. ``remedy`` is what to do about it; never does any text hold a secret."""

    check: str
    state: State
    what: str
    remedy: str | None = None


def ok(check: str, what: str) -> Finding:
    return Finding(check=check, state="ok", what=what)


def warning(check: str, what: str, remedy: str) -> Finding:
    return Finding(check=check, state="warning", what=what, remedy=remedy)


def fault(check: str, what: str, remedy: str) -> Finding:
    return Finding(check=check, state="fault", what=what, remedy=remedy)
