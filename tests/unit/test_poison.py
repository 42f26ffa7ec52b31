"""When a partition is stopped for what cannot be read, and how it may go on."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.offsets import Log, Stored, decide
from consumers.poison import POISON, Poison, PoisonLimits, places
from consumers.records import Position
from consumers.releasing import CannotRelease, From, plan

LIMITS = PoisonLimits()
STORED = Stored(
    position=Position(topic="t", partition=0, next_offset=50, epoch=0, last_offset=49, last_timestamp_ms=7, last_crc=1),
    cluster_id="c", topic_id="id", stopped_reason=f"{POISON}much",
)  # fmt: skip
LOG = Log(cluster_id="c", topic_id="id", start=10, end=80)


def test_one_bad_record_in_a_small_batch_stops_nothing() -> None:
    seen = Poison(LIMITS)
    assert seen.saw(1, [0]) is None
    assert all(seen.saw(10, []) is None for _ in range(200))
    assert seen.saw(10, [4]) is None


def test_the_share_is_judged_over_the_last_thousand() -> None:
    seen = Poison(LIMITS)
    assert all(seen.saw(100, [50]) is None for _ in range(30)), "one in a hundred is still borne"
    assert seen.saw(100, [1, 50]) is not None
    seen = Poison(LIMITS)
    assert all(seen.saw(100, [7, 9]) is None for _ in range(9)), "too few were seen to judge"
    reason = seen.saw(100, [7, 9])
    assert reason == "poison: 20 of the last 1000 records (2.0 %) became dead letters"


def test_what_is_long_past_does_not_count() -> None:
    seen = Poison(LIMITS)
    assert seen.saw(900, list(range(0, 90, 2))) is None
    assert seen.saw(950, []) is not None, "45 of 1850"
    seen = Poison(LIMITS)
    assert seen.saw(900, list(range(0, 90, 2))) is None
    assert seen.saw(20_000, []) is None


def test_a_hundred_in_a_row_stop_it_across_batches_too() -> None:
    seen = Poison(LIMITS)
    assert seen.saw(60, list(range(60))) is None
    assert seen.saw(39, list(range(39))) is None
    assert seen.saw(1, [0]) == "poison: 100 records in a row became dead letters"
    seen = Poison(LIMITS)
    assert seen.saw(99, list(range(99))) is None
    assert seen.saw(1, []) is None
    assert seen.saw(99, list(range(99))) is None, "one that could be read breaks the row"
    assert Poison(LIMITS).saw(300, list(range(50, 150))) is not None, "within a batch, with good ones around"


@given(st.lists(st.booleans(), max_size=400), st.integers(1, 50), st.data())
def test_a_row_is_found_however_it_is_cut_into_batches(bad: list[bool], longest: int, data: st.DataObject) -> None:
    text = "".join("x" if each else "." for each in bad)
    wanted = "x" * longest in text
    seen, found, start = Poison(PoisonLimits(share=1.0, in_a_row=longest)), False, 0
    while start < len(bad):
        size = data.draw(st.integers(1, len(bad) - start))
        batch = bad[start : start + size]
        found = found or seen.saw(size, [n for n, each in enumerate(batch) if each]) is not None
        start += size
    assert found == wanted


def test_places_are_counted_by_record_not_by_offset() -> None:
    assert places([3, 4, 9, 12], {4, 9}) == [1, 2]
    assert places([3, 4], set()) == []


def test_poison_stays_stopped_whoever_opens_the_partition_and_a_doubt_is_judged_anew() -> None:
    assert decide(STORED, LOG).action == "stop"
    assert decide(STORED, LOG).reason == f"{POISON}much"
    assert decide(replace(STORED, stopped_reason="truncated"), LOG).action == "read"
    assert "truncated" in decide(STORED, replace(LOG, end=20)).reason, "what is worse is said"


@pytest.mark.parametrize(
    ("stored", "log", "start_from", "goes_on_at", "anew"),
    [
        (STORED, LOG, "here", 50, False),
        (STORED, LOG, "start", 10, True),
        (STORED, LOG, 70, 70, True),
        (STORED, LOG, 80, 80, True),
        (replace(STORED, stopped_reason="made anew"), replace(LOG, topic_id="new", start=0, end=3), "start", 0, True),
        (replace(STORED, stopped_reason="was truncated"), LOG, "here", 50, False),
    ],
)
def test_a_release_goes_on_where_it_is_told(
    stored: Stored, log: Log, start_from: From, goes_on_at: int, anew: bool
) -> None:
    made = plan(stored, log, start_from)
    assert (made.next_offset, made.anew, made.reason) == (goes_on_at, anew, stored.stopped_reason)


@pytest.mark.parametrize(
    ("stored", "log", "start_from", "why"),
    [
        (None, LOG, "here", "no such partition"),
        (replace(STORED, stopped_reason=None), LOG, "here", "not stopped"),
        (STORED, None, "here", "does not answer"),
        (STORED, replace(LOG, topic_id="new"), "here", "made anew"),
        (STORED, replace(LOG, start=60), "here", "10 offsets were lost unread"),
        (STORED, LOG, 9, "from 10"),
        (STORED, LOG, 81, "ends at 80"),
    ],
)
def test_what_cannot_be_released_says_why(stored: Stored | None, log: Log | None, start_from: From, why: str) -> None:
    with pytest.raises(CannotRelease, match=why):
        plan(stored, log, start_from)
