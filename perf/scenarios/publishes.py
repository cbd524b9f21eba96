"""Ten publishes a second beside requests by the clock: does anybody notice?

The same process with and without them, interleaved: whole snapshots in turn with single sets.
Who publishes, this harness here, shares the proxy's processor, as the daemon on a box with as many
workers as processors does; the clients' processor is theirs alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from dataplane import snapshot as s
from perf import load_generator as load
from perf import machine
from perf.bench import ORIGIN, OURS, Bench, Null, Result
from perf.peers import sluice
from perf.peers.contestant import Contestant, Profile, Wiring

RATE = 5_000
PUBLISHES_A_SECOND = 10


class Publishing:
    """Publishes until it is cancelled; `made` counts."""

    def __init__(self, box: sluice.Box, snapshot: s.Snapshot) -> None:
        self.made = 0
        self.applied_ms: list[float] = []
        self._box, self._snapshot = box, snapshot

    async def run(self) -> None:
        """Raises what a publish raises."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if self.made % 2:
                ack = await self._box.planes.publish_set(self._snapshot.sets[0])
            else:
                self._snapshot = replace(self._snapshot, version=self._snapshot.version + 1)
                ack = await self._box.planes.publish(self._snapshot)
            self.made += 1
            self.applied_ms.append(ack.applied_ms)
            due += 1 / PUBLISHES_A_SECOND
            await asyncio.sleep(max(0.0, due - loop.time()))


async def run(bench: Bench) -> AsyncIterator[Result]:
    seconds = bench.options.seconds
    task = bench.task(Wiring.PLAIN, Profile.MESH)
    async with sluice.boxes(task) as (box,):
        publishing = Publishing(box, sluice.local_snapshot(task))
        quiet = sluice.contestant(task, (box,), "no publishes")
        busy = sluice.contestant(task, (box,), OURS)

        async def trial(contestant: Contestant) -> dict[str, float]:
            if contestant is quiet:
                return await load.requests(contestant, ORIGIN, seconds, rate=RATE)
            machine.settle_on(bench.options.proxy_processor)
            publisher = asyncio.ensure_future(publishing.run())
            try:
                metrics = await load.requests(contestant, ORIGIN, seconds, rate=RATE)
            finally:
                publisher.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await publisher
                machine.settle_on(bench.options.load_processor)
            return metrics

        null = Null("no publishes")
        result = await bench.interleave("latency", Profile.MESH, [quiet, busy], trial, null)
        yield replace(
            result,
            notes={
                "rate": RATE,
                "publishes": publishing.made,
                "applied_ms_max": round(max(publishing.applied_ms), 1),
            },
        )
