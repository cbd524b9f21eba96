"""Token buckets, on a clock moved by hand."""

from __future__ import annotations

from appliance.rate import Bucket, Buckets, Rate


class Hand:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_refills_up_to_its_burst() -> None:
    clock = Hand()
    bucket = Bucket(Rate(burst=2, per_second=0.5), clock)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    clock.now = 2
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now = 1000
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    clock.now = 0  # a clock that goes back gives nothing
    assert not bucket.take()


def test_each_source_and_all_together_are_bounded() -> None:
    clock = Hand()
    buckets = Buckets(Rate(2, 0), Rate(3, 0), sources_max=2, clock=clock)
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]
    assert [buckets.take("b") for _ in range(2)] == [True, False]  # all together have had 3


def test_a_charge_costs_the_source_what_it_has() -> None:
    clock = Hand()
    buckets = Buckets(Rate(10, 1), Rate(100, 0), clock=clock)
    buckets.charge("a", 50)
    assert not buckets.take("a")
    clock.now = 1
    assert buckets.take("a")


def test_the_table_of_sources_is_bounded() -> None:
    buckets = Buckets(Rate(1, 0), Rate(1000, 0), sources_max=2, clock=Hand())
    for source in ("a", "b", "c"):
        assert buckets.take(source)
    assert not buckets.take("c")
    assert buckets.take("a")  # forgotten, so new again


def test_a_bucket_says_how_long_to_wait() -> None:
    clock = Hand()
    bucket = Bucket(Rate(burst=2, per_second=4), clock)
    assert bucket.wait_s() == 0
    assert bucket.take(2)
    assert bucket.wait_s() == 0.25
    clock.now += 0.25
    assert bucket.wait_s() == 0
    assert bucket.take()
