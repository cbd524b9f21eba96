"""Memory of an idle stream through an mTLS pair: anonymous memory of both processes, and of one
hop on average, which has a plain leg and one with TLS.

A peer keeps memory that it has once had, so each round starts it anew. Peers get 16 KiB buffers,
what haproxy and nginx come with: larger ones would count against them here.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

from perf import load_generator as load
from perf.bench import Bench, Result
from perf.peers.contestant import Contestant, Profile, Wiring
from perf.process import private_bytes
from perf.scenarios.l4_mtls import PEERS

STREAMS = 4_000
WARM = 1_000  # held before, and let go: what is allocated once is there then
BUFFER_BYTES = 16_384
KIB = 1024


async def _each(contestant: Contestant) -> dict[str, float]:
    async with load.held(contestant, WARM):
        before = private_bytes(contestant.pids())
    async with load.held(contestant, STREAMS):
        after = private_bytes(contestant.pids())
    each = (after - before) / (STREAMS - WARM) / KIB
    return {
        "kib_each": each,
        "kib_hop": each / 2,
        "before_mib": before / KIB / KIB,
    }


async def run(bench: Bench) -> AsyncIterator[Result]:
    for profile in bench.options.profiles:
        yield await bench.attempt("idle", profile, _idle(bench, profile))


async def _idle(bench: Bench, profile: Profile) -> Result:
    rounds: dict[str, list[dict[str, float]]] = {}
    draw = random.Random(bench.options.seed)
    for number in range(bench.options.slow_rounds):
        starts = list(bench.wanted(PEERS).items())
        draw.shuffle(starts)
        for name, start in starts:
            task = bench.task(Wiring.PAIR, profile, buffer_bytes=BUFFER_BYTES)
            async with start(task) as contestant:
                rounds.setdefault(name, []).append(await _each(contestant))
        bench.say(f"  idle, {profile}: round {number + 1} of {bench.options.slow_rounds}")
    return Result("idle", profile, rounds, notes={"streams": STREAMS})
