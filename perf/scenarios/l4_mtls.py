"""Two proxies with mutual TLS 1.3 between them: bulk, small requests, latency by the clock.

Before anything is measured, each contestant proves what the mesh profile claims of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from perf.bench import Bench, Result
from perf.peers import claims, null
from perf.peers.contestant import Profile, Wiring
from perf.scenarios import l4_plain

# No haproxy-splice: it cannot splice what TLS has to open or seal, so it would be haproxy again.
PEERS = {name: start for name, start in l4_plain.PEERS.items() if name != "haproxy-splice"}


async def run(bench: Bench) -> AsyncIterator[Result]:
    if Profile.MESH in bench.options.profiles:
        await _check_claims(bench)
    async for result in l4_plain.run(bench, PEERS, Wiring.PAIR):
        yield result


async def _check_claims(bench: Bench) -> None:
    for name, start in bench.wanted({**PEERS, **l4_plain.HTTP}).items():
        if start in (null.copy, null.splice):  # they claim nothing
            continue
        tasks = [bench.task(Wiring.PAIR, Profile.MESH) for _ in claims.PAIRS]
        await claims.check(start, *tasks)
        bench.say(f"  mesh: {name}: what it claims is so")
