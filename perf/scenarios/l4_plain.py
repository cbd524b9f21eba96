"""Streams passed through, plain TCP on both sides: bulk, small requests, latency by the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from perf import load_generator as load
from perf.bench import Bench, Null, Result
from perf.load_generator import Entered
from perf.peers import envoy, haproxy, nginx, null, sluice
from perf.peers.contestant import Contestant, Profile, Start, Wiring

PEERS: dict[str, Start] = {
    "sluice": sluice.start,
    "null-copy": null.copy,
    "null-splice": null.splice,
    "haproxy": haproxy.start,
    "haproxy-splice": haproxy.spliced,
    "nginx": nginx.start,
    "envoy": envoy.start,
}
# Of requests alone: it carries no stream of anything.
HTTP: dict[str, Start] = {"nginx-http": nginx.http}
NULL_BULK, NULL_SMALL = Null("null-splice", "cpu_s_gib"), Null("null-copy")
NULL_LATENCY = Null("null-copy", "p50_us")
BULK_BUFFER_BYTES = 262_144  # as ours and the nulls' are; with less peers are slower, or no faster
LOAD_PART = 0.4  # of the slowest contestant's rate, for latency by the clock


async def run(
    bench: Bench, peers: dict[str, Start] = PEERS, wiring: Wiring = Wiring.PLAIN
) -> AsyncIterator[Result]:
    for profile in bench.options.profiles:
        if bench.measures("bulk"):
            async with bench.contestants(
                peers, wiring, profile, NULL_BULK, buffer_bytes=BULK_BUFFER_BYTES
            ) as running:
                yield await _bulk(bench, profile, running)
        # A check of the certificate or a stream's log is no matter between two requests.
        latency = profile is Profile.MESH and bench.measures("latency")
        if not latency and not bench.measures("small"):
            continue
        async with bench.contestants({**peers, **HTTP}, wiring, profile, NULL_SMALL) as running:
            if bench.measures("small"):
                yield await _small(bench, profile, running)
            if latency:
                yield await _latency(bench, profile, running)


async def _bulk(bench: Bench, profile: Profile, running: Sequence[Contestant]) -> Result:
    def trial(contestant: Contestant) -> Entered:
        return load.bulk(contestant, bench.options.slice_seconds)

    return await bench.interleave("bulk", profile, running, trial, NULL_BULK)


async def _small(bench: Bench, profile: Profile, running: Sequence[Contestant]) -> Result:
    def trial(contestant: Contestant) -> Entered:
        return load.requests(contestant, bench.options.slice_seconds)

    return await bench.interleave("small", profile, running, trial, NULL_SMALL)


async def _latency(bench: Bench, profile: Profile, running: Sequence[Contestant]) -> Result:
    """At a rate that each of them can serve."""
    seconds = bench.options.slice_seconds
    rates = []
    for each in running:
        async with load.requests(each, seconds) as closed:
            await closed.slice()
            rates.append(closed.metrics()["rate"])
    rate = round(min(rates) * LOAD_PART)

    def trial(contestant: Contestant) -> Entered:
        return load.requests(contestant, seconds, rate=rate)

    result = await bench.interleave("latency", profile, running, trial, NULL_LATENCY)
    return replace(result, notes={"rate": rate})
