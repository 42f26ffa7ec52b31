"""Lets a stopped partition go on, as a person decided: where it stands, or elsewhere in the log that is there now.

What is skipped by that is never silent: the time since the partition was last complete becomes a gap, so that nobody
is called silent for it. The consumer that holds the partition looks every second whether it was released.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from consumers.broker import Partition
from consumers.offsets import Log, Offsets, Stored, decide

From = Literal["here", "start"] | int
"""Where to go on: where the partition stands, at the start of the log that is there now, or at an offset of it."""

REMEDY: Final = "bring the right log back, or begin at the start of this one, or at an offset of it"


class CannotRelease(Exception):
    """Says why, and what can be done instead."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``anew``: the position is set and a gap noted. ``reason``: that of the stop which this release is for."""

    next_offset: int
    anew: bool
    reason: str


def plan(stored: Stored | None, log: Log | None, start_from: From) -> Plan:
    """What releasing the partition amounts to. Pure. Raises CannotRelease."""
    if stored is None:
        raise CannotRelease("there is no such partition of this consumer group")
    if stored.stopped_reason is None:
        raise CannotRelease("the partition is not stopped")
    if log is None:
        raise CannotRelease("the broker does not answer, or has no such partition: nothing is known of its log")
    stands_at = stored.position.next_offset
    if start_from == "here":
        opening = decide(replace(stored, stopped_reason=None), log)
        if opening.action == "stop":
            raise CannotRelease(f"it cannot go on where it stands: {opening.reason}: {REMEDY}")
        return Plan(next_offset=stands_at, anew=False, reason=stored.stopped_reason)
    offset = log.start if start_from == "start" else start_from
    if not log.start <= offset <= log.end:
        raise CannotRelease(f"the log holds offsets from {log.start} and ends at {log.end}, not {offset}")
    return Plan(next_offset=offset, anew=True, reason=stored.stopped_reason)


async def carry_out(offsets: Offsets, place: Partition, stored: Stored, log: Log, chosen: Plan, now: datetime) -> None:
    """Raises CannotRelease when the partition has changed since the plan was made."""
    if chosen.anew:
        why = f"{place[0]}[{place[1]}] was released to go on at {chosen.next_offset} ({chosen.reason})"
        begun = {place: (stored, replace(log, start=chosen.next_offset))}
        await offsets.start_anew(begun, now, why=why)
        after = await offsets.read(place)
        done = after is not None and after.stopped_reason is None and after.position.epoch == stored.position.epoch + 1
    else:
        done = await offsets.release(stored.position, chosen.reason, now)
    if not done:
        raise CannotRelease("the partition has changed meanwhile: look again")
