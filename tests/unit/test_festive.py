"""Public holidays: whose they are, and what is usual on them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from health.festive import Share, shares, stand_ins
from health.volume import HISTORY_HOURS, HourCounts, first_hour, judge_volume

HOLIDAY = datetime(2026, 4, 29, 3, 30, tzinfo=UTC)  # Shōwa Day, a Wednesday, past noon in Tokyo
JAPAN: Share = ("JP", "Asia/Tokyo", 1.0)


def company(now: datetime, *where: Share, sundays: float = 0.0, per_hour: float = 100.0) -> HourCounts:
    """From 9 to 18 on weekdays in Tokyo; nothing since today began there."""
    begin = first_hour(now)
    hours = [begin + timedelta(hours=9 + n) for n in range(HISTORY_HOURS)]  # in Tokyo
    seen = [(per_hour if hour.weekday() < 5 else sundays) * (9 <= hour.hour < 18) for hour in hours]
    today = (now + timedelta(hours=9)).date()
    return HourCounts(
        seen=np.array([0.0 if hour.date() == today else count for hour, count in zip(hours, seen, strict=True)]),
        usable=np.ones(HISTORY_HOURS, dtype=np.bool_),
        festive=stand_ins(where, begin, HISTORY_HOURS),
    )


def test_a_holiday_of_all_is_no_outage() -> None:
    assert judge_volume(company(HOLIDAY), HOLIDAY).held, "as if nothing were known of where they are"
    assert not judge_volume(company(HOLIDAY, JAPAN), HOLIDAY).held


def test_a_holiday_of_some_is_what_the_others_make_of_it() -> None:
    third = judge_volume(company(HOLIDAY, ("JP", "Asia/Tokyo", 1 / 3)), HOLIDAY)
    assert third.held and third.expected == judge_volume(company(HOLIDAY), HOLIDAY).expected * 2 / 3


def test_who_is_as_busy_on_sundays_is_missed_on_a_holiday() -> None:
    verdict = judge_volume(company(HOLIDAY, JAPAN, sundays=100), HOLIDAY)
    assert verdict.held


def test_the_day_after_is_a_workday_and_the_holiday_begins_where_they_live() -> None:
    after = HOLIDAY + timedelta(days=1)
    assert judge_volume(company(after, JAPAN), after).held
    eve = datetime(2026, 4, 28, 16, tzinfo=UTC)  # one in the morning of the 29th
    (there,) = stand_ins((JAPAN,), eve, 2)
    assert (there.weight.tolist(), there.back.tolist()) == ([1, 1], [72, 72]), "Wednesday, back to Sunday"
    assert stand_ins((("JP", "UTC", 1.0),), eve, 2) == ()


def test_weekends_and_leap_days_are_no_holidays() -> None:
    assert stand_ins((JAPAN,), datetime(2028, 2, 28, 15, tzinfo=UTC), 24) == (), "2028-02-29"
    assert stand_ins((JAPAN,), datetime(2026, 5, 9, 15, tzinfo=UTC), 24) == (), "a Sunday"


def test_shares_are_of_all_accounts_and_known_countries_only() -> None:
    counted = [("jp", "Asia/Tokyo", 60), ("JP", "Asia/Tokyo", 20), (None, None, 19), ("Atlantis", None, 0.5)]
    assert shares([(c, z, int(n * 10)) for c, z, n in counted]) == (("JP", "Asia/Tokyo", 800 / 995),)
    assert shares([]) == ()
    assert shares([("JP", None, 1), (None, None, 199)]) == (), "too few to matter"
