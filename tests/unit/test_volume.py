"""The volume guard: an outage is noticed, a quiet night is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from health.volume import (
    HISTORY_HOURS,
    WEEK_HOURS,
    HourCounts,
    as_of,
    first_hour,
    judge_delivery,
    judge_refill,
    judge_volume,
)

NOW = datetime(2025, 6, 18, 14, 30, tzinfo=UTC)  # a Wednesday


def office_hours(per_hour: float) -> HourCounts:
    """A company that works from 8 to 18 on weekdays."""
    begin = first_hour(NOW)
    hours = [begin + timedelta(hours=n) for n in range(HISTORY_HOURS)]
    seen = np.array([per_hour if hour.weekday() < 5 and 8 <= hour.hour < 18 else 0.0 for hour in hours])
    seen[-1] *= 0.5
    return HourCounts(seen=seen, usable=np.ones(HISTORY_HOURS, dtype=np.bool_))


def until(counts: HourCounts, now: datetime) -> HourCounts:
    """The same, as if it were ``now``."""
    later = int((now.replace(minute=0) - NOW.replace(minute=0)) / timedelta(hours=1))
    return HourCounts(seen=np.roll(counts.seen, -later), usable=np.roll(counts.usable, -later))


def test_an_ordinary_hour_is_not_held() -> None:
    verdict = judge_volume(office_hours(100), NOW)
    assert (verdict.held, verdict.judged, verdict.window_hours) == (False, True, 1)


def test_an_outage_of_two_hours_is_held_and_says_why() -> None:
    counts = office_hours(100)
    counts.seen[-2:] = 0
    verdict = judge_volume(counts, NOW)
    assert verdict.held
    assert verdict.reason == "0 events in the last 1 hours, where 150 are usual"


def test_a_trickle_below_a_tenth_is_held_and_a_weak_hour_is_not() -> None:
    counts = office_hours(100)
    counts.seen[-2:] = [9, 5]
    assert judge_volume(counts, NOW).held
    counts.seen[-2:] = [10, 6]
    assert not judge_volume(counts, NOW).held


def test_a_quiet_night_is_what_is_usual() -> None:
    night = NOW.replace(hour=3)
    assert not judge_volume(until(office_hours(100), night), night).held


def test_a_small_source_is_judged_over_a_longer_time_or_not_at_all() -> None:
    small = office_hours(5)
    small.seen[-2:] = 0
    verdict = judge_volume(small, NOW)
    assert not verdict.held
    assert verdict.window_hours == 6
    tiny = judge_volume(office_hours(0.5), NOW)
    assert not tiny.judged
    assert "events are expected" in tiny.reason


def test_a_new_source_is_not_judged() -> None:
    counts = office_hours(100)
    counts.usable[: -WEEK_HOURS - 100] = False
    counts.seen[-30:] = 0
    verdict = judge_volume(counts, NOW)
    assert (verdict.held, verdict.judged) == (False, False)
    assert verdict.reason == "fewer than two past weeks are known"


def test_an_outage_of_weeks_does_not_become_usual() -> None:
    counts = office_hours(100)
    counts.seen[-3 * WEEK_HOURS :] = 0
    counts.usable[-3 * WEEK_HOURS :] = False
    assert judge_volume(counts, NOW).held


def test_a_holiday_last_week_does_not_lower_what_is_expected() -> None:
    counts = office_hours(100)
    counts.seen[-WEEK_HOURS - 24 : -WEEK_HOURS] = 0
    counts.seen[-2:] = 0
    assert judge_volume(counts, NOW).held


def test_a_gap_is_refilled_when_its_events_have_come() -> None:
    counts = office_hours(100)
    from_at, until_at = NOW - timedelta(hours=6), NOW - timedelta(hours=1)
    assert judge_refill(counts, NOW, from_at, until_at) == (True, "400 events lie in the gap, where 400 are usual")
    counts.seen[-7:-1] *= 0.4
    assert judge_refill(counts, NOW, from_at, until_at)[0] is False


def test_a_gap_of_minutes_is_judged_by_the_hours_that_it_touches() -> None:
    counts = office_hours(100)
    minutes_ago = NOW - timedelta(minutes=20)
    assert judge_refill(counts, NOW, minutes_ago, NOW) == (True, "50 events lie in the gap, where 50 are usual")
    counts.seen[-1] = 20
    assert not judge_refill(counts, NOW, minutes_ago, NOW)[0]
    counts.usable[:] = False
    assert judge_refill(counts, NOW, minutes_ago, NOW) == (False, "what is usual for that time is not known")


def test_a_source_of_a_few_events_a_day_is_judged_by_the_week() -> None:
    tiny = office_hours(1)  # 50 a week
    assert not judge_volume(tiny, NOW).held
    tiny.seen[-6 * 24 :] = 0
    assert judge_volume(tiny, NOW).held


def test_a_delivery_is_overdue_when_it_is_late_by_a_quarter() -> None:
    day = timedelta(days=1)
    assert not judge_delivery(NOW - day, day, NOW).held
    assert not judge_delivery(NOW - 1.25 * day, day, NOW).held
    late = judge_delivery(NOW - 1.3 * day, day, NOW)
    assert (late.held, late.reason) == (True, "nothing was delivered for 31 hours, where 24 are agreed")


def test_hours_are_judged_as_they_were() -> None:
    counts = office_hours(100)
    counts.seen[-5:-3] = 0  # 10:00 to 12:00; it is 14:30
    noon = NOW.replace(hour=12, minute=0)
    assert judge_volume(as_of(counts, 2), noon).held
    assert not judge_volume(counts, NOW).held
