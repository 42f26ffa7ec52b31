"""The days of accounts: dates by time zone, business days by country."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.days import Places, borders, business, known_country, known_zone
from health.instants import DAY, NEVER, from_us, to_us

ZONES = ["UTC", "Asia/Tokyo", "America/Sao_Paulo", "Europe/London", "Pacific/Apia", "Australia/Lord_Howe"]
EPOCH = date(1970, 1, 1)
moments = st.datetimes(datetime(2005, 1, 1), datetime(2030, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))  # noqa: DTZ001


def places(*zones: str | None) -> Places:
    column = np.array([*zones, None], dtype=object)[:-1]
    return Places.of(column, np.full(len(zones), None, dtype=object))


@given(st.lists(st.tuples(st.sampled_from(ZONES), moments), min_size=1, max_size=5))
def test_dates_are_those_of_the_zone(known: list[tuple[str, datetime]]) -> None:
    at = np.array([[to_us(moment), NEVER] for _, moment in known], dtype=np.int64)
    expected = [(moment.astimezone(ZoneInfo(zone)).date() - EPOCH).days for zone, moment in known]
    of_zones = places(*(zone for zone, _ in known))
    assert of_zones.dates(at)[:, 0].tolist() == expected
    assert np.diagonal(of_zones.dates_at(at[:, 0])).tolist() == expected
    backwards = np.arange(len(known))[::-1]
    assert of_zones.dates(at[backwards, 0], backwards).tolist() == expected[::-1]


@given(st.sampled_from(ZONES), moments)
def test_the_date_stays_until_the_next_midnight_and_is_another_at_it(zone: str, moment: datetime) -> None:
    place, now = places(zone), to_us(moment)
    midnight = int(place.next_midnight(now)[0])
    today, before, at = (int(place.dates(np.array([us]))[0]) for us in (now, midnight - 1, midnight))
    assert today == before < at
    (accounts, found), *_ = place.midnights(now, midnight)
    assert (accounts.tolist(), found.tolist()) == ([0], [midnight])


def test_a_date_begins_with_the_jump_where_midnight_is_left_out() -> None:
    day = (date(2018, 11, 4) - EPOCH).days
    assert from_us(int(borders("America/Sao_Paulo", day, day)[0])) == datetime(2018, 11, 4, 3, tzinfo=UTC)
    assert np.diff(borders("America/Sao_Paulo", day, day + 1)).tolist() == [DAY - DAY // 24]


@pytest.mark.parametrize("name", [None, "", "Mars/Base", "../etc/passwd", "Asia", "x" * 300])
def test_an_unknown_zone_is_utc(name: str | None) -> None:
    assert known_zone(name) == "UTC"


def test_countries() -> None:
    assert (known_country("jp "), known_country("JPN"), known_country("Nowhere"), known_country(None)) == (
        "JP",
        "JPN",
        "",
        "",
    )


@pytest.mark.parametrize(
    ("country", "day", "expected"),
    [
        ("JP", date(2025, 5, 5), False),
        ("", date(2025, 5, 5), True),
        ("JP", date(2025, 5, 7), True),
        ("AE", date(2025, 5, 10), False),
        ("", date(2025, 5, 10), False),
        ("DE", date(2026, 1, 1), False),
    ],
)
def test_business_days(country: str, day: date, expected: bool) -> None:
    place = (day - EPOCH).days
    assert business(country, place, place).tolist() == [expected]
    year = business(country, place - 400, place + 400)
    assert len(year) == 801
    assert year[400] == expected
