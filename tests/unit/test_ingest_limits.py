"""Token buckets, and what may be in flight."""

from __future__ import annotations

from service.ingest.limits import MOST_NAMES, Buckets, Load


class Watch:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    watch = Watch()
    buckets = Buckets(10, 30, monotonic=watch)
    assert buckets.wait("k") == 0
    buckets.take("k", 30)
    assert buckets.wait("k") == 1
    assert buckets.wait("other") == 0
    watch.now += 0.125
    assert buckets.wait("k") == 0
    watch.now += 1_000
    buckets.take("k", 31)
    assert buckets.wait("k") == 1, "it never holds more than its burst"


def test_a_large_batch_leaves_a_debt_that_time_pays() -> None:
    watch = Watch()
    buckets = Buckets(10, 30, monotonic=watch)
    buckets.take("k", 130)
    assert buckets.wait("k") == 11
    watch.now += 10.0
    assert buckets.wait("k") == 1
    watch.now += 0.125
    assert buckets.wait("k") == 0


def test_names_are_bounded_and_debtors_are_kept() -> None:
    watch = Watch()
    buckets = Buckets(1, 10, monotonic=watch)
    buckets.take("debtor", 1_000)
    for number in range(2 * MOST_NAMES):
        watch.now += 0.01
        buckets.take(number, 1)
    assert len(buckets._left) <= MOST_NAMES
    assert buckets.wait("debtor") > 0


def test_load_is_bounded_both_ways() -> None:
    load = Load(requests=2, bytes_=100)
    assert load.enter() and load.enter()
    assert not load.enter()
    assert load.hold(60) and not load.hold(41) and load.hold(40)
    load.leave(60)
    assert load.enter() and load.hold(60)
    load.leave(40)
    load.leave(60)
    assert (load.requests, load.bytes) == (0, 0)
