"""How far a partition is complete: told by the ends of its log as we saw them, never by a producer's clock."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from consumers.reach import MOST_ENDS, Reach

AT = datetime(2026, 5, 31, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_complete_as_of_the_newest_end_that_is_reached() -> None:
    reach = Reach()
    reach.seen(100_000, AT)
    assert reach.complete_through(99_999) is None
    reach.seen(100_500, AT + SECOND)
    assert reach.complete_through(100_400) == AT
    assert reach.complete_through(100_400) is None, "said before"
    reach.seen(100_500, AT + 2 * SECOND)
    assert reach.complete_through(100_500) == AT + 2 * SECOND, "nothing came in between"


def test_far_behind_it_keeps_a_bounded_number_of_ends() -> None:
    reach = Reach()
    for n in range(3 * MOST_ENDS):
        reach.seen(n, AT + n * SECOND)
    assert reach.complete_through(3 * MOST_ENDS) == AT + (MOST_ENDS - 1) * SECOND
    reach.seen(3 * MOST_ENDS, AT + 3 * MOST_ENDS * SECOND)
    assert reach.complete_through(3 * MOST_ENDS) == AT + 3 * MOST_ENDS * SECOND


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40))
def test_never_later_than_the_oldest_record_that_is_not_applied(steps: list[tuple[int, int]]) -> None:
    """Each second some records arrive, then some are applied."""
    reach, arrivals, applied = Reach(), list[datetime](), 0
    for n, (more, taken) in enumerate(steps):
        now = AT + n * SECOND
        arrivals += [now - SECOND / 2] * more
        reach.seen(len(arrivals), now)
        applied = min(applied + taken, len(arrivals))
        through = reach.complete_through(applied)
        if through is not None and applied < len(arrivals):
            assert through < arrivals[applied]
        if applied == len(arrivals):
            assert through == now
