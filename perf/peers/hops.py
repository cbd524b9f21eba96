"""What all proxies that we configure share: one process in front of the origin, or a chain of two.

Hops: "only"; or "a" (speaks TLS upstream) in front of "b" (takes TLS).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from perf.peers.contestant import LOOPBACK, Contestant, Handshakes, Profile, Task, Wiring
from perf.pki import dns_name
from perf.process import NOBODY, family, listening, readable_by_nobody, running

ANSWER_SECONDS = 15.0


def hops(task: Task) -> tuple[str, ...]:
    """In the order of starting: the one next to the origin first."""
    return ("b", "a") if task.wiring is Wiring.PAIR else ("only",)


def ports(task: Task, hop: str) -> tuple[int, int]:
    """Where it listens and where it connects to."""
    listen = task.port + 1 if hop == "b" else task.port
    return listen, task.port + 1 if hop == "a" else task.origin


def metrics(task: Task, hop: str) -> Path:
    """Where a hop of the mesh profile tells its counters: a Unix socket that speaks HTTP."""
    return task.scratch / f"{hop}.metrics"


async def told(socket: Path, path: str) -> str:
    """What a hop answers there."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(ANSWER_SECONDS):
            return (await reader.read()).decode()
    finally:
        writer.close()


def write_credentials(task: Task) -> None:
    """client.pem, server.pem (certificate and key), a-ca.pem, b-ca.pem."""
    a, b, files = task.material.a, task.material.b, task.scratch
    client = a.leaf(task.client, dns=dns_name(task.client, a.trust_domain))
    server = b.leaf(task.server, dns=dns_name(task.server, b.trust_domain))
    readable_by_nobody(files / "client.pem", client.certificate + client.key)
    readable_by_nobody(files / "server.pem", server.certificate + server.key)
    readable_by_nobody(files / "a-ca.pem", task.material.a.bundle)
    readable_by_nobody(files / "b-ca.pem", task.material.b.bundle)


@contextlib.asynccontextmanager
async def chain(
    name: str,
    task: Task,
    command: Callable[[str], Sequence[str]],
    handshakes: Handshakes | None = None,
) -> AsyncIterator[Contestant]:
    """Starts command(hop) for each hop, and waits until all listen. handshakes: by
    counters, which the mesh profile tells."""
    os.chown(task.scratch, NOBODY, NOBODY)  # for access logs
    async with contextlib.AsyncExitStack() as stack:
        pids = []
        for hop in hops(task):
            log = task.scratch / f"{hop}.log"
            process = running(command(hop), log, task.proxy_processor)
            pids.append(await stack.enter_async_context(process))
            await listening(LOOPBACK, ports(task, hop)[0], log)
        yield Contestant(
            name,
            LOOPBACK,
            task.port,
            task.load_processor,
            lambda: tuple(each for pid in pids for each in family(pid)),
            handshakes if task.profile is Profile.MESH else None,
        )
