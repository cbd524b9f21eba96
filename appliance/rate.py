"""Token buckets: how much of something one asker, and all together, may have.

Owns the arithmetic and the bounded table of askers; knows no clock but the one it is given.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]  # seconds, monotonic


@dataclass(frozen=True, slots=True)
class Rate:
    burst: float
    per_second: float


class Bucket:
    """Starts full. `take` is False when there is not enough; then nothing is taken."""

    __slots__ = ("_at", "_clock", "_level", "_rate")

    def __init__(self, rate: Rate, clock: Clock = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._level = rate.burst
        self._at = clock()

    def _refill(self) -> None:
        now = self._clock()
        gained = max(0.0, now - self._at) * self._rate.per_second
        self._level = min(self._rate.burst, self._level + gained)
        self._at = now

    def take(self, amount: float = 1.0) -> bool:
        self._refill()
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def wait_s(self, amount: float = 1.0) -> float:
        """How long until there is enough."""
        self._refill()
        return max(0.0, amount - self._level) / self._rate.per_second

    def charge(self, amount: float) -> None:
        """Takes what there is of it: for what is known to be bad only after it was let in."""
        self._refill()
        self._level = max(0.0, self._level - amount)


class Buckets:
    """One bucket per source and one for all. The least recent source is forgotten when full."""

    def __init__(
        self,
        each: Rate,
        total: Rate,
        sources_max: int = 4096,
        clock: Clock = time.monotonic,
    ) -> None:
        self._each = each
        self._clock = clock
        self._total = Bucket(total, clock)
        self._sources_max = sources_max
        self._sources: OrderedDict[str, Bucket] = OrderedDict()

    def _of(self, source: str) -> Bucket:
        bucket = self._sources.get(source)
        if bucket is None:
            bucket = self._sources[source] = Bucket(self._each, self._clock)
            if len(self._sources) > self._sources_max:
                self._sources.popitem(last=False)
        self._sources.move_to_end(source)
        return bucket

    def take(self, source: str) -> bool:
        return self._of(source).take() and self._total.take()

    def charge(self, source: str, amount: float) -> None:
        self._of(source).charge(amount)
