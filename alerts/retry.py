"""What to do after an attempt: pure, with the reason that the delivery log shows."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from alerts.channels.base import SendResult

RETRY_DELAYS: tuple[timedelta, ...] = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""Wait before the 1st, 2nd, … attempt: the schedule of Standard Webhooks, about three days in all."""
GIVE_UP_AFTER = timedelta(hours=60)
"""A message is dead only when the schedule is used up *and* it is this old: a burst of "429 Too Many Requests" uses up
attempts in minutes, and a sender that was down for a week has not tried yet. Any jittered schedule takes longer."""
JITTER = 0.1
"""Delays vary by this share, so that what failed together does not come back together."""
MAX_RETRY_AFTER = timedelta(hours=1)
"""A receiver may not silence itself for longer by one answer."""
DISABLED_FOR = timedelta(days=1)
"""After 410 Gone the target rests; then one message asks again."""

Status = Literal["sent", "pending", "dead"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The delivery's next status and why; ``retry_at`` when pending, ``hold_until`` when the whole target must rest."""

    status: Status
    reason: str
    retry_at: datetime | None = None
    hold_until: datetime | None = None
    hold_reason: str = ""


def decide_retry(
    attempt: int, result: SendResult, now: datetime, *, created_at: datetime, rng: random.Random
) -> Decision:
    """``attempt`` (1 = first) ended with ``result`` at ``now``: sent, try again when, or dead."""
    if result.outcome == "sent":
        return Decision(status="sent", reason=result.detail)
    if result.outcome == "permanent":
        hold = now + DISABLED_FOR if result.disabled else None
        return Decision(status="dead", reason=result.detail, hold_until=hold, hold_reason=result.detail)
    if attempt >= len(RETRY_DELAYS) and now - created_at >= GIVE_UP_AFTER:
        return Decision(status="dead", reason=f"given up after {attempt} attempts: {result.detail}")
    if result.retry_after is not None:
        until = now + min(max(result.retry_after, timedelta(seconds=1)), MAX_RETRY_AFTER)
        reason = f"{result.detail}; it asks for a pause of {result.retry_after.total_seconds():g} s"
        return Decision(status="pending", reason=reason, retry_at=until, hold_until=until, hold_reason=reason)
    delay = RETRY_DELAYS[min(attempt, len(RETRY_DELAYS) - 1)] * rng.uniform(1 - JITTER, 1 + JITTER)
    return Decision(status="pending", reason=result.detail, retry_at=now + delay)
