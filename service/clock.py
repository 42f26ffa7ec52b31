"""The one place that reads the wall clock. Everything else takes ``now``, or a ``Clock`` handed to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives an aware UTC instant."""


def utc_now() -> datetime:
    return datetime.now(UTC)
