"""A new connection for each request through an mTLS pair: full handshakes, resumed ones."""

from __future__ import annotations

from collections.abc import AsyncIterator

from perf import load_generator as load
from perf.bench import Bench, Null, Result
from perf.load_generator import Entered
from perf.peers.contestant import Contestant, Wiring
from perf.scenarios.l4_mtls import PEERS

NULL = Null("null-copy")
KINDS = {"full": False, "resumed": True}  # whether clients keep sessions


async def run(bench: Bench) -> AsyncIterator[Result]:
    def fresh(contestant: Contestant) -> Entered:
        return load.connections(contestant, bench.options.slice_seconds)

    for profile in bench.options.profiles:
        for name, resume in filter(lambda each: bench.measures(each[0]), KINDS.items()):
            async with bench.contestants(
                PEERS, Wiring.PAIR, profile, NULL, resume=resume
            ) as running:
                yield await bench.interleave(name, profile, running, fresh, NULL)
