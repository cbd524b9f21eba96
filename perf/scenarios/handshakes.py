"""A new connection for each request through an mTLS pair: full handshakes, resumed ones."""

from __future__ import annotations

from collections.abc import AsyncIterator

from perf import load_generator as load
from perf.bench import ORIGIN, Bench, Null, Result
from perf.peers.contestant import Contestant, Wiring
from perf.scenarios.l4_mtls import PEERS


async def run(bench: Bench) -> AsyncIterator[Result]:
    async def fresh(contestant: Contestant) -> dict[str, float]:
        return await load.connections(contestant, ORIGIN, bench.options.seconds)

    for profile in bench.options.profiles:
        for name, resume in (("full", False), ("resumed", True)):
            async with bench.contestants(PEERS, Wiring.PAIR, profile, resume=resume) as running:
                yield await bench.interleave(name, profile, running, fresh, Null("null-copy"))
