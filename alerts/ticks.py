"""When something that is done every so often is to be done again. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta


def is_time(last: datetime | None, every: timedelta, now: datetime) -> bool:
    """Whether ``every`` has passed since ``last``; also when the clock was set back before it, which would otherwise
    stop the work until the clock has caught up."""
    return last is None or not last <= now < last + every
