"""What may be said from rounds, and when nothing may be said."""

from __future__ import annotations

import random

import pytest

from perf.bench import Null, Result
from perf.process import BenchError
from perf.ratio import medians, quiet, ratio, ratios, spread


def test_ratio_of_rounds_cancels_a_drift_that_all_share() -> None:
    draw = random.Random(3)
    drift = [1 + number / 5 for number in range(15)]  # the machine slows down to a quarter
    theirs = [10 * d * draw.uniform(0.99, 1.01) for d in drift]
    ours = [8 * d * draw.uniform(0.99, 1.01) for d in drift]
    found = ratio(ours, theirs)
    assert found.median == pytest.approx(0.8, rel=0.01)
    assert found.low <= found.median <= found.high
    assert found.high - found.low < 0.02


def test_interval_widens_with_the_rounds_disagreement() -> None:
    narrow = ratio([1.0, 1.01, 0.99, 1.0, 1.0], [1.0] * 5)
    wide = ratio([0.5, 1.5, 0.8, 1.0, 1.3], [1.0] * 5)
    assert wide.high - wide.low > 10 * (narrow.high - narrow.low)


def test_ratio_is_the_same_every_time() -> None:
    values = [1.0, 2.0, 3.0, 1.5], [2.0, 1.0, 1.0, 1.0]
    assert ratio(*values) == ratio(*values)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_no_ratio_without_equal_rounds(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"round|zip"):
        ratio(ours, theirs)


def test_spread_ignores_single_outliers_only_of_many_rounds() -> None:
    steady = [1.0] * 29 + [9.0]
    assert spread(steady) == 0
    assert spread([1.0, 1.0, 1.3]) == pytest.approx(0.3)


def test_ratios_leave_out_what_was_nothing() -> None:
    rounds = {"us": [{"a": 1.0, "b": 2.0}], "them": [{"a": 2.0, "b": 0.0}]}
    assert {name: list(each) for name, each in ratios(rounds, "us").items()} == {"them": ["a"]}
    assert medians([{"a": 1.0}, {"a": 5.0}, {"a": 2.0}]) == {"a": 2.0}


def test_a_restless_null_relay_refuses_the_run() -> None:
    def result(*values: float) -> Result:
        rounds = {"null": [{"cpu_us": value} for value in values]}
        return Result("small", "bare", rounds, null=Null("null"))

    result(1.0, 1.05, 1.1).check()
    with pytest.raises(BenchError, match=r"varied by 18%"):
        result(1.0, 1.1, 1.2).check()
    Result("idle", "mesh", {"sluice": [{"kib_each": 1.0}]}).check()  # no null: nothing to refuse


def test_quiet_rounds_are_the_most_that_lie_together() -> None:
    assert quiet([10.0, 30.0, 10.5, 9.8, 29.0, 11.4]) == [0, 2, 3]
    assert quiet([5.0]) == [0]
    assert quiet([1.0, 2.0, 4.0]) == [0]
    assert quiet([]) == []
