"""Small requests beside a stream that saturates the proxy: how much later they come back.

By the clock, at a rate that leaves the proxy idle for most of the time when it is alone. The ratio
of the two latencies is each contestant's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from perf import load_generator as load
from perf.bench import Bench, Null, Result
from perf.load_generator import Metrics, Sum, Trial
from perf.peers.contestant import Contestant, Profile, Wiring
from perf.scenarios.l4_plain import PEERS

RATE = 2_000
CONNECTIONS = 32
LONGER = 2  # than others' slices: enough beyond the p99 of a round
STREAM = ("gbit_s", "proxy_busy", "load_busy")  # whether it saturates the proxy, and isn't starved
NULL = Null("null-copy", "beside_p50_us")


async def run(bench: Bench) -> AsyncIterator[Result]:
    seconds = bench.options.slice_seconds * LONGER

    @contextlib.asynccontextmanager
    async def both(contestant: Contestant) -> AsyncIterator[Trial]:
        """Alone and beside over the same connections, one right behind the other."""
        async with load.clients(
            "requests", contestant, seconds, connections=CONNECTIONS, rate=RATE, bulk=1
        ) as clients:
            sums = {"alone": Sum(), "beside": Sum()}

            async def one() -> None:
                for name, total in sums.items():
                    total.add(await clients.slice(beside=name == "beside"))

            def metrics() -> Metrics:
                found: Metrics = {}
                for name, total in sums.items():
                    got = load.exchanges(contestant, total.as_metrics())
                    found |= {
                        f"{name}_{each}": got[each] for each in ("p50_us", "p99_us", "cpu_us")
                    }
                stream = load.stream(contestant, sums["beside"].as_metrics())
                found |= {f"beside_{each}": stream[each] for each in STREAM}
                return {**found, "p99_growth": found["beside_p99_us"] / found["alone_p99_us"]}

            yield Trial(one, metrics)

    for wiring in filter(bench.measures, Wiring):
        peers = {name: start for name, start in PEERS.items() if name != "haproxy-splice"}
        async with bench.contestants(peers, wiring, Profile.MESH, NULL) as running:
            result = await bench.interleave(wiring, Profile.MESH, running, both, NULL)
            yield replace(result, notes={"rate": RATE})
