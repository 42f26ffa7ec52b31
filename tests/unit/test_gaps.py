"""Observed time: what is between two instants when gaps are left out, and since when data is held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.gaps import Gap, Observed, observed_microseconds, observed_seconds
from health.instants import ENDLESS, NEVER, from_us, spread, to_us

NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


def us(*hours: float) -> Any:
    return np.array([to_us(at(hour)) for hour in hours], dtype=np.int64)


spans = st.tuples(st.integers(-50, 50), st.integers(0, 30))
lists_of_gaps = st.lists(spans.map(lambda s: Gap("app", at(s[0]), at(s[0] + s[1]), "lost")), max_size=5)


def test_overlapping_gaps_of_sources_count_once() -> None:
    observed = Observed(NOW, (Gap("a", at(-10), at(-5), "lost"), Gap("b", at(-7), at(-3), "open")))
    assert observed_seconds(us(-24), us(0), observed).tolist() == [17 * 3600]


def test_nothing_is_observed_after_the_position_or_backwards() -> None:
    observed = Observed(at(-2))
    assert observed_seconds(us(-5, -1, 0), us(0, 0, -5), observed).tolist() == [3 * 3600, 0, 0]
    assert observed_seconds(us(-5), us(0), Observed(None)).tolist() == [0]


@given(lists_of_gaps, st.integers(-80, 80), st.integers(0, 100))
def test_equal_to_counting_hours(gaps: list[Gap], start: int, length: int) -> None:
    observed = Observed(at(1000), tuple(gaps))
    hours = [at(start + n) for n in range(length)]
    seen = sum(not any(gap.from_at <= hour < (gap.until_at or NOW) for gap in gaps) for hour in hours)
    assert observed_microseconds(us(start), us(start + length), observed)[0] == seen * 3_600_000_000


@given(lists_of_gaps, st.integers(-80, 80), st.integers(1, 100))
def test_instant_of_is_the_first_with_so_much_before_it(gaps: list[Gap], start: int, hours: int) -> None:
    observed = Observed(at(1000), tuple(gaps))
    begin, wanted = us(start), hours * 3_600_000_000
    found = observed.instant_of(begin - observed.unobserved_before(begin) + wanted)
    assert observed_microseconds(begin, found, observed)[0] == wanted
    assert observed_microseconds(begin, found - 1, observed)[0] == wanted - 1


def test_nothing_lies_beyond_a_gap_that_goes_on() -> None:
    observed = Observed(NOW, (Gap("a", at(-10), None, "open"),))
    begin = us(-12)
    assert observed.instant_of(begin - observed.unobserved_before(begin) + 3 * 3_600_000_000).tolist() == [ENDLESS]
    assert observed.ongoing_from_us == us(-10)[0]


@pytest.mark.parametrize(
    ("observed", "since"),
    [
        (Observed(NOW), None),
        (Observed(at(-2 / 60)), None),
        (Observed(at(-3 / 60)), at(-3 / 60)),
        (Observed(None), NOW),
        (Observed(NOW, (Gap("a", at(-5), None, "open"), Gap("b", at(-9), at(-1), "lost"))), at(-5)),
        (Observed(at(-8), (Gap("a", at(-5), None, "open"),)), at(-8)),
        (Observed(NOW, (Gap("a", at(-5), at(-1), "open"),)), None),
    ],
)
def test_held_since(observed: Observed, since: datetime | None) -> None:
    assert observed.held_since(NOW) == since


def test_naive_and_backward_times_are_refused() -> None:
    naive = datetime(2025, 1, 1)  # noqa: DTZ001 - what is refused
    with pytest.raises(ValueError, match="no time zone"):
        Observed(naive)
    with pytest.raises(ValueError, match="no time zone"):
        Gap("a", naive, None, "open")
    with pytest.raises(ValueError, match="before it begins"):
        Gap("a", NOW, at(-1), "lost")


def test_instants() -> None:
    exact = NOW + timedelta(microseconds=1)
    assert from_us(to_us(exact)) == exact
    assert np.isnat(np.array([NEVER]).view("datetime64[us]"))[0]
    assert timedelta() <= spread("acme") < timedelta(hours=1)
    assert spread("acme") == spread("acme") != spread("acme2")
