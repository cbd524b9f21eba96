"""100,000 new connections by the clock through twenty hot restarts: how many are refused, reset or
cut off. Each makes a request and waits for the reply. Plain, and through an mTLS pair of which the
two boxes restart in turn. A stream lives for milliseconds, so no process drains for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from perf import load_generator as load
from perf.bench import OURS, Bench, Result
from perf.peers import sluice
from perf.peers.contestant import Profile, Wiring
from perf.process import BenchError

CONNECTIONS, RESTARTS = 100_000, 20
RATE = {Wiring.PLAIN: 2_000, Wiring.PAIR: 600}
CLIENTS = 256
SECONDS_MAX = 600.0


async def _restart(
    boxes: tuple[sluice.Box, ...], clients: asyncio.Task[dict[str, float]], seconds: float
) -> None:
    """Twenty, spread over the time that the connections should take. Raises BenchError."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for done in range(RESTARTS):
        due = begin + seconds * (done + 1) / (RESTARTS + 2)
        await asyncio.wait({clients}, timeout=max(0.0, due - loop.time()))
        if clients.done():
            await clients
            raise BenchError(f"the connections were over after {done} of {RESTARTS} restarts")
        await boxes[done % len(boxes)].restart()


async def _one(bench: Bench, wiring: Wiring) -> Result:
    task = bench.task(wiring, Profile.MESH)
    async with sluice.boxes(task) as boxes:
        contestant = sluice.contestant(task, boxes)
        argv = [
            each
            for each in load.command(
                "connections",
                contestant,
                connections=CLIENTS,
                rate=RATE[wiring],
                total=CONNECTIONS,
                seconds=SECONDS_MAX,
                warmup=0,
                patience=60,
            )
            if not each.startswith("--cpu-of")  # the processes come and go
        ]
        clients = asyncio.get_running_loop().create_task(load.run(argv, SECONDS_MAX))
        await _restart(boxes, clients, CONNECTIONS / RATE[wiring])
        got = await clients
        if (made := got["count"] + sum(got[each] for each in load.ERRORS)) < CONNECTIONS:
            raise BenchError(f"{made:.0f} of {CONNECTIONS} connections in {SECONDS_MAX:.0f} s")
    failed = {name: got[name] for name in load.ERRORS}
    metrics = {
        "count": got["count"],
        "failed": sum(failed.values()),
        **failed,
        **{name: got[name] for name in ("p50_us", "p99_us", "max_us")},
    }
    return Result(wiring, Profile.MESH, {OURS: [metrics]}, notes={"restarts": RESTARTS})


async def run(bench: Bench) -> AsyncIterator[Result]:
    for wiring in Wiring:
        yield await bench.attempt(wiring, Profile.MESH, _one(bench, wiring))
