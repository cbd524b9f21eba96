"""Two proxies with mutual TLS 1.3 between them: bulk, small requests, latency by the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

from perf.bench import Bench, Result
from perf.peers.contestant import Wiring
from perf.scenarios import l4_plain

PEERS = {name: start for name, start in l4_plain.PEERS.items() if name != "haproxy-splice"}


async def run(bench: Bench) -> AsyncIterator[Result]:
    async for result in l4_plain.run(bench, PEERS, Wiring.PAIR):
        yield result
