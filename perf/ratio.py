"""What may be said from repeated rounds. Pure arithmetic, seeded; measures nothing.

A shared machine's speed drifts, so absolute figures of different minutes cannot be compared.
Within one round all contestants run within seconds of each other: a claim is the median of the
rounds' ratios, with a bootstrap interval, and none is made when even the relay that does nothing
varied too much. Rounds are chosen by that relay alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

RESAMPLES = 2_000
CONFIDENCE = 0.95
SPREAD_MAX = 0.15  # of the null relay, else the run says nothing

Rounds = Sequence[Mapping[str, float]]  # one contestant's metrics, a round each


@dataclass(frozen=True, slots=True)
class Ratio:
    """ours / theirs, of one metric."""

    median: float
    low: float  # of the 95 % bootstrap interval of the median
    high: float

    def as_list(self) -> list[float]:
        return [round(value, 4) for value in (self.median, self.low, self.high)]


def ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 1) -> Ratio:
    """Of values of the same rounds. Raises ValueError: no rounds, or not the same number."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    if not each:
        raise ValueError("a ratio needs at least one round")
    draw = random.Random(seed)
    medians = sorted(median(draw.choices(each, k=len(each))) for _ in range(RESAMPLES))
    edge = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Ratio(median(each), medians[edge], medians[-1 - edge])


def spread(values: Sequence[float]) -> float:
    """From the tenth to the ninetieth percentile, as a part of the median; with fewer than ten
    values, from the smallest to the largest."""
    if len(values) < 10:
        return range_of(values)
    deciles = quantiles(values, n=10, method="inclusive")
    return (deciles[-1] - deciles[0]) / median(values)


def range_of(values: Sequence[float]) -> float:
    """From the smallest to the largest, as a part of the median."""
    return (max(values) - min(values)) / median(values)


def quiet(values: Sequence[float]) -> list[int]:
    """Which of the rounds of the null relay: the most that lie within SPREAD_MAX of each other."""
    order = sorted(range(len(values)), key=lambda at: values[at])
    best: list[int] = []
    begin = 0
    for end in range(len(order)):
        while range_of([values[at] for at in order[begin : end + 1]]) > SPREAD_MAX:
            begin += 1
        if end + 1 - begin > len(best):
            best = order[begin : end + 1]
    return sorted(best)


def medians(rounds: Rounds) -> dict[str, float]:
    """Of each metric."""
    return {name: median([each[name] for each in rounds]) for name in rounds[0]}


def ratios(rounds: Mapping[str, Rounds], ours: str) -> dict[str, dict[str, Ratio]]:
    """Contestant → metric → ours / theirs. A metric that is 0 somewhere has no ratio."""
    found: dict[str, dict[str, Ratio]] = {}
    for name, theirs in rounds.items():
        if name == ours:
            continue
        found[name] = {
            metric: ratio([r[metric] for r in rounds[ours]], [r[metric] for r in theirs])
            for metric in rounds[ours][0]
            if all(r.get(metric, 0) > 0 for r in theirs)
        }
    return found
