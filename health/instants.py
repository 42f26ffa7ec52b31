"""Instants as whole microseconds since 1970 (UTC): what the arrays of ``health`` hold instead of datetimes. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zlib import crc32

import numpy as np
import numpy.typing as npt

Instants = npt.NDArray[np.int64]
"""Microseconds since the epoch; ``NEVER`` where there is none."""

NEVER = int(np.iinfo(np.int64).min)
"""No such instant. Numpy's own NaT has the same bits, so a view as datetime64 shows it as NaT."""
ENDLESS = 2**62
"""Later than any instant: the end of what still goes on."""

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(at: datetime) -> int:
    """Raises ValueError for a naive datetime."""
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone; give an aware datetime")
    return (at - _EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    return _EPOCH + us * _MICROSECOND


def as_datetime64(us: Instants) -> npt.NDArray[np.datetime64]:
    return us.view("datetime64[us]")


def spread(account_id: str) -> timedelta:
    """Where in the hour after midnight an account's day-border work falls: below one hour, the same on every
    machine."""
    return timedelta(microseconds=(crc32(account_id.encode()) * HOUR) >> 32)


def spread_us(account_ids: tuple[str, ...]) -> Instants:
    hashes = np.fromiter(map(crc32, map(str.encode, account_ids)), np.uint64, len(account_ids))
    return (hashes * HOUR >> np.uint64(32)).astype(np.int64)
