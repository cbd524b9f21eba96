"""Streams passed through, plain TCP on both sides: bulk, small requests, latency by the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

from perf import load_generator as load
from perf.bench import ORIGIN, Bench, Result
from perf.peers import envoy, haproxy, nginx, null, sluice
from perf.peers.contestant import Contestant, Start, Wiring

PEERS: dict[str, Start] = {
    "sluice": sluice.start,
    "null-copy": null.copy,
    "null-splice": null.splice,
    "haproxy": haproxy.start,
    "haproxy-splice": haproxy.spliced,
    "nginx": nginx.start,
    "envoy": envoy.start,
}
NULL_BULK, NULL_SMALL = "null-splice", "null-copy"
LOAD_PART = 0.4  # of the slowest contestant's rate, for latency by the clock


async def run(
    bench: Bench, peers: dict[str, Start] = PEERS, wiring: Wiring = Wiring.PLAIN
) -> AsyncIterator[Result]:
    seconds = bench.options.seconds

    async def bulk(contestant: Contestant) -> dict[str, float]:
        return await load.bulk(contestant, ORIGIN, seconds)

    async def small(contestant: Contestant) -> dict[str, float]:
        return await load.requests(contestant, ORIGIN, seconds)

    for profile in bench.options.profiles:
        async with bench.contestants(peers, wiring, profile) as running:
            yield Result(
                "bulk",
                profile,
                await bench.interleave(running, bulk),
                null=NULL_BULK,
                null_metric="cpu_s_gib",
            )
            rounds = await bench.interleave(running, small)
            yield Result("small", profile, rounds, null=NULL_SMALL)
            slowest = min(each["rate"] for found in rounds.values() for each in found)
            rate = round(slowest * LOAD_PART)

            async def paced(contestant: Contestant, rate: int = rate) -> dict[str, float]:
                return await load.requests(contestant, ORIGIN, seconds, rate=rate)

            yield Result(
                "latency",
                profile,
                await bench.interleave(running, paced),
                null=NULL_SMALL,
                notes={"rate": rate},
            )
