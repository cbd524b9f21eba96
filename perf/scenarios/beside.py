"""Small requests beside a stream that saturates the proxy: how much later they come back.

By the clock, at a rate that leaves the proxy idle for most of the time when it is alone. The ratio
of the two latencies is each contestant's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from perf import load_generator as load
from perf.bench import ORIGIN, Bench, Null, Result
from perf.peers.contestant import Contestant, Profile, Wiring
from perf.scenarios.l4_plain import PEERS

RATE = 2_000
CONNECTIONS = 32


async def run(bench: Bench) -> AsyncIterator[Result]:
    seconds = bench.options.seconds

    async def both(contestant: Contestant) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, streams in (("alone", 0), ("beside", 1)):
            got = await load.requests(
                contestant, ORIGIN, seconds, CONNECTIONS, rate=RATE, bulk=streams
            )
            found |= {f"{name}_{each}": got[each] for each in ("p50_us", "p99_us", "cpu_us")}
        return {**found, "p99_growth": found["beside_p99_us"] / found["alone_p99_us"]}

    for wiring in filter(bench.measures, Wiring):
        peers = {name: start for name, start in PEERS.items() if name != "haproxy-splice"}
        async with bench.contestants(peers, wiring, Profile.MESH) as running:
            null = Null("null-copy", "alone_cpu_us")
            result = await bench.interleave(wiring, Profile.MESH, running, both, null)
            yield replace(result, notes={"rate": RATE})
