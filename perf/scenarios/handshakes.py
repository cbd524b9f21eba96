"""A new connection for each request through an mTLS pair: full handshakes, resumed ones. Their own
counters prove that they are, of those that tell them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from perf import load_generator as load
from perf.bench import Bench, Null, Result
from perf.load_generator import Entered
from perf.peers.contestant import Contestant, Profile, Wiring
from perf.process import BenchError
from perf.scenarios.l4_mtls import PEERS

NULL = Null("null-copy")
KINDS = {"full": False, "resumed": True}  # whether clients keep sessions
PARTS = {"full": (0.0, 0.0), "resumed": (0.95, 1.0)}  # resumed; the first of all cannot be


async def run(bench: Bench) -> AsyncIterator[Result]:
    for profile in bench.options.profiles:
        for name, resume in filter(lambda each: bench.measures(each[0]), KINDS.items()):
            async with bench.contestants(
                PEERS, Wiring.PAIR, profile, NULL, resume=resume
            ) as running:
                yield await bench.attempt(name, profile, _one(bench, name, profile, running))


async def _one(bench: Bench, name: str, profile: Profile, running: Sequence[Contestant]) -> Result:
    def fresh(contestant: Contestant) -> Entered:
        return load.connections(contestant, bench.options.slice_seconds)

    result = await bench.interleave(name, profile, running, fresh, NULL)
    if result.broken:
        return result
    parts = {
        each.name: part(name, each.name, *await each.handshakes())
        for each in running
        if each.handshakes is not None
    }
    return replace(result, notes={"resumed": parts})


def part(kind: str, contestant: str, made: int, resumed: int) -> float:
    """Of those made. Raises BenchError when they are not what they should be."""
    low, high = PARTS[kind]
    if not made or not low <= resumed / made <= high:
        raise BenchError(f"{contestant}: {resumed} of {made} handshakes were resumed")
    return round(resumed / made, 4)
