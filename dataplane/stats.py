"""Counters and histograms as values: what a data plane process reports every second.

Owns the shape and its message; reading the shared counters is binding's, naming them is native's.
Imports no cffi.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataplane._gen import dataplane_pb2 as pb


@dataclass(frozen=True, slots=True)
class Histogram:
    """Log-linear. counts[b] counts values < bounds[b] (and >= bounds[b - 1]); the last bucket also
    counts what is above. The unit is the end of the histogram's name."""

    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    sum: int


@dataclass(frozen=True, slots=True)
class StatsReport:
    """One process's totals. Counters are cumulative but for names that end in "_now"."""

    process: str
    live: int  # streams now
    counters: Mapping[str, int]
    histograms: Mapping[str, Histogram]
    published: int  # sequence of the last publish, and the lowest that every worker runs
    applied: int
    draining: bool


def encode(report: StatsReport) -> pb.Stats:
    return pb.Stats(
        live=report.live,
        counters=report.counters,
        histograms=[
            pb.Histogram(name=name, counts=histogram.counts, sum=histogram.sum)
            for name, histogram in report.histograms.items()
        ],
        published=report.published,
        applied=report.applied,
        draining=report.draining,
    )


def decode(message: pb.Stats, process: str, bounds: Sequence[int]) -> StatsReport:
    """bounds: of the process's Hello."""
    edges = tuple(bounds)
    return StatsReport(
        process=process,
        live=message.live,
        counters=dict(message.counters),
        histograms={
            each.name: Histogram(edges, tuple(each.counts), each.sum)
            for each in message.histograms
            if len(each.counts) == len(edges)
        },
        published=message.published,
        applied=message.applied,
        draining=message.draining,
    )
