"""Ten publishes a second beside requests by the clock: does anybody notice?

The same process, interleaved over the same connections: `no publishes`, twice, for a control;
`published elsewhere`, where the publisher is at work for another box of ours that carries nothing;
and with publishes of its own. Whole snapshots take turns with single sets. Who publishes, this
harness here, and both boxes share the proxies' processor, as the daemon on a box with as many
workers as processors does; the clients' processor is theirs alone. So ours / elsewhere is what it
means to be published to, with the same work done on the same processor in both; ours / none also
has the publisher's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from dataplane import snapshot as s
from perf import load_generator as load
from perf import machine
from perf.bench import OURS, Bench, Null, Result
from perf.load_generator import Sum, Trial
from perf.peers import sluice
from perf.peers.contestant import Contestant, Profile, Wiring

RATE = 5_000
CONNECTIONS = 64
PUBLISHES_A_SECOND = 10
LONGER = 8  # than others' slices: several publishes in each, and enough beyond the p99 of a round
ELSEWHERE = "published elsewhere"
NULL = Null("no publishes", "p99_us")


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
    seconds = bench.options.slice_seconds * LONGER
    task, other_task = (bench.task(Wiring.PLAIN, Profile.MESH) for _ in range(2))
    async with contextlib.AsyncExitStack() as stack:
        (box,) = await stack.enter_async_context(sluice.boxes(task))
        (other,) = await stack.enter_async_context(sluice.boxes(other_task))
        targets = {
            ELSEWHERE: Publishing(other, sluice.local_snapshot(other_task)),
            OURS: Publishing(box, sluice.local_snapshot(task)),
        }
        running = [
            sluice.contestant(task, (box,), name) for name in (NULL.name, NULL.again, *targets)
        ]
        clients = await stack.enter_async_context(
            load.clients("requests", running[0], seconds, connections=CONNECTIONS, rate=RATE)
        )

        @contextlib.asynccontextmanager
        async def trial(contestant: Contestant) -> AsyncIterator[Trial]:
            total = Sum()

            async def one() -> None:
                async with publishing(bench, targets.get(contestant.name)):
                    total.add(await clients.slice())

            yield Trial(one, lambda: load.exchanges(contestant, total.as_metrics()))

        result = await bench.interleave("latency", Profile.MESH, running, trial, NULL)
        yield replace(
            result,
            notes={
                "rate": RATE,
                "publisher": "on the proxy's processor",
                "publishes": targets[OURS].made,
                "applied_ms_max": round(max(targets[OURS].applied_ms), 1),
            },
        )


@contextlib.asynccontextmanager
async def publishing(bench: Bench, target: Publishing | None) -> AsyncIterator[None]:
    """While inside, if there is somebody to publish to."""
    if target is None:
        yield
        return
    machine.settle_on(bench.options.proxy_processor)
    publisher = asyncio.ensure_future(target.run())
    try:
        yield
    finally:
        publisher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await publisher
        machine.settle_on(bench.options.load_processor)
