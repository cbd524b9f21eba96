"""What may be said from rounds, and when nothing may be said."""

from __future__ import annotations

import random

import pytest

from perf.ratio import control, medians, ratio, ratios, spread


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


def test_ratios_leave_out_what_was_nothing_or_is_no_claim() -> None:
    rounds = {
        "us": [{"a": 1.0, "b": 2.0, "c": 1.0, "proxy_busy": 1.0, "x_proxy_busy": 1.0}],
        "them": [{"a": 2.0, "b": 0.0, "proxy_busy": 1.0, "x_proxy_busy": 1.0}],
    }
    assert {name: list(each) for name, each in ratios(rounds, "us").items()} == {"them": ["a"]}
    assert medians([{"a": 1.0}, {"a": 5.0}, {"a": 2.0}]) == {"a": 2.0}


def test_a_drift_of_the_machine_is_no_reason_to_refuse() -> None:
    """Whoever does the same twice shares it."""
    drift = [10 * 1.1**number for number in range(11)]
    found = control(drift, [each * 1.01 for each in drift])
    assert found.drift > 0.7
    assert found.spread < 0.001
    assert found.why_not() is None


def test_a_null_that_disagrees_with_itself_is_a_reason() -> None:
    found = control([10.0, 10.0, 10.0, 11.0, 9.0, 10.0, 10.0], [10.0] * 7)
    assert found.spread == pytest.approx(0.2)
    assert "varied by 20%, more than 15%" in str(found.why_not())


def test_so_is_one_that_is_steadily_off_itself() -> None:
    """Two processes of the same program that differ: so may any two that are compared."""
    steady = [10.0, 10.1, 9.9, 10.0, 10.05, 9.95, 10.0]
    assert control(steady, [10.0] * 7).why_not() is None
    assert control(steady, [9.9] * 7).why_not() is None  # a little, and by chance
    assert "is 1.053, off 1" in str(control(steady, [9.5] * 7).why_not())
    assert "is 0.952, off 1" in str(control(steady, [10.5] * 7).why_not())
