"""What may be said from repeated rounds. Pure arithmetic, seeded; measures nothing.

A shared machine's speed drifts, so absolute figures of different minutes cannot be compared.
Within one round all contestants run slices in turn: a claim is the median of the rounds' ratios,
with a bootstrap interval. Whether the machine was quiet enough for claims is asked of the same
statistic: the ratio of a contestant that does nothing to itself.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

RESAMPLES = 2_000
CONFIDENCE = 0.95
SPREAD_MAX = 0.15  # of the null's ratio to itself, else the run says nothing
BIAS_MAX = 0.02  # of that ratio's median from 1, beyond its interval

UNCOMPARED = ("proxy_busy", "load_busy")  # they say what limited a rate; nobody claims them

Rounds = Sequence[Mapping[str, float]]  # one contestant's metrics, a round each


@dataclass(frozen=True, slots=True)
class Ratio:
    """ours / theirs, of one metric."""

    median: float
    low: float  # of the 95 % bootstrap interval of the median
    high: float

    def as_list(self) -> list[float]:
        return [round(value, 4) for value in (self.median, self.low, self.high)]


@dataclass(frozen=True, slots=True)
class Control:
    """What the same program twice came to, in one metric: nothing but the machine differs."""

    ratio: Ratio
    spread: float  # of the rounds' ratios
    drift: float  # of the first one's own figure: what pairing takes away

    def why_not(self) -> str | None:
        """Why nothing may be said of this metric, if so."""
        if self.spread > SPREAD_MAX:
            return f"its ratio to itself varied by {self.spread:.0%}, more than {SPREAD_MAX:.0%}"
        if self.ratio.low > 1 + BIAS_MAX or self.ratio.high < 1 - BIAS_MAX:
            return f"its ratio to itself is {self.ratio.median:.3f}, off 1 by more than chance"
        return None


def each_ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of values of the same rounds. Raises ValueError: no rounds, or not the same number."""
    found = [a / b for a, b in zip(ours, theirs, strict=True)]
    if not found:
        raise ValueError("a ratio needs at least one round")
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 1) -> Ratio:
    each = each_ratio(ours, theirs)
    draw = random.Random(seed)
    medians = sorted(median(draw.choices(each, k=len(each))) for _ in range(RESAMPLES))
    edge = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Ratio(median(each), medians[edge], medians[-1 - edge])


def own(values: Sequence[float]) -> Ratio:
    """One contestant's median, with its interval: for what is a ratio in itself."""
    return ratio(values, [1.0] * len(values))


def control(one: Sequence[float], again: Sequence[float]) -> Control:
    """Of the rounds of a contestant and of the same program once more."""
    return Control(ratio(one, again), spread(each_ratio(one, again)), spread(one))


def spread(values: Sequence[float]) -> float:
    """From the tenth to the ninetieth percentile, as a part of the median; with fewer than ten
    values, from the smallest to the largest."""
    if len(values) < 10:
        return (max(values) - min(values)) / median(values)
    deciles = quantiles(values, n=10, method="inclusive")
    return (deciles[-1] - deciles[0]) / median(values)


def medians(rounds: Rounds) -> dict[str, float]:
    """Of each metric."""
    return {name: median([each[name] for each in rounds]) for name in rounds[0]}


def comparable(one: Rounds, other: Rounds) -> list[str]:
    """Metrics that both have and that never are 0."""
    return [
        name
        for name in one[0]
        if not name.endswith(UNCOMPARED) and all(each.get(name, 0) > 0 for each in (*one, *other))
    ]


def ratios(rounds: Mapping[str, Rounds], ours: str) -> dict[str, dict[str, Ratio]]:
    """Contestant → metric → ours / theirs, of those in comparable()."""
    found: dict[str, dict[str, Ratio]] = {}
    for name, theirs in rounds.items():
        if name == ours:
            continue
        found[name] = {
            metric: ratio([r[metric] for r in rounds[ours]], [r[metric] for r in theirs])
            for metric in comparable(rounds[ours], theirs)
        }
    return found
