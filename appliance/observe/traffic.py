"""What the data plane counted, over all its processes and their restarts; and the last second's.

Owns the sums. A process that ended stays in the totals, so that counters never fall.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dataplane.stats import Histogram, StatsReport


@dataclass(frozen=True, slots=True)
class Throughput:
    """A second's."""

    bytes_up: float = 0.0
    bytes_down: float = 0.0
    opened: float = 0.0
    refused: float = 0.0


class Traffic:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: Counter[str] = Counter()
        self._ended_histograms: dict[str, Histogram] = {}
        self._live: dict[str, tuple[float, StatsReport]] = {}
        self._rates: dict[str, Throughput] = {}

    def take(self, report: StatsReport) -> None:
        now = self._clock()
        before = self._live.get(report.process)
        self._live[report.process] = now, report
        if before is not None and now > before[0]:
            self._rates[report.process] = _rate(before[1], report, now - before[0])

    def process_down(self, process: str) -> None:
        _, report = self._live.pop(process, (0.0, None))
        self._rates.pop(process, None)
        if report is None:
            return
        self._ended.update(
            {name: value for name, value in report.counters.items() if not name.endswith("_now")}
        )
        for name, histogram in report.histograms.items():
            self._ended_histograms[name] = _sum(self._ended_histograms.get(name), histogram)

    @property
    def processes(self) -> Mapping[str, StatsReport]:
        return {name: report for name, (_, report) in self._live.items()}

    @property
    def live(self) -> int:
        """Streams now."""
        return sum(report.live for _, report in self._live.values())

    def counters(self) -> dict[str, int]:
        """Cumulative, but for names that end in "_now"."""
        total = Counter(self._ended)
        for _, report in self._live.values():
            total.update(report.counters)
        return dict(total)

    def histograms(self) -> dict[str, Histogram]:
        total = dict(self._ended_histograms)
        for _, report in self._live.values():
            for name, histogram in report.histograms.items():
                total[name] = _sum(total.get(name), histogram)
        return total

    def throughput(self) -> Throughput:
        rates = self._rates.values()
        return Throughput(
            sum(rate.bytes_up for rate in rates),
            sum(rate.bytes_down for rate in rates),
            sum(rate.opened for rate in rates),
            sum(rate.refused for rate in rates),
        )


def refused(counters: Mapping[str, int]) -> int:
    """Streams that were never established: each end has a reason, established or not."""
    ends = sum(value for name, value in counters.items() if name.startswith("reason_"))
    return max(0, ends - counters.get("streams_closed", 0))


def _rate(before: StatsReport, after: StatsReport, seconds: float) -> Throughput:
    def gained(name: str) -> float:
        return max(0, after.counters.get(name, 0) - before.counters.get(name, 0)) / seconds

    return Throughput(
        gained("bytes_up"),
        gained("bytes_down"),
        gained("streams_opened"),
        max(0, refused(after.counters) - refused(before.counters)) / seconds,
    )


def _sum(a: Histogram | None, b: Histogram) -> Histogram:
    if a is None or a.bounds != b.bounds:  # another build's buckets cannot be added
        return b
    counts = tuple(x + y for x, y in zip(a.counts, b.counts, strict=True))
    return Histogram(b.bounds, counts, a.sum + b.sum)
