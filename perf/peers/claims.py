"""What the mesh profile claims of a contestant, tried before a pair of it is measured: that it
refuses who is not who it should be, on either side, logs each stream and tells its counters.

Never measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from perf.peers import hops, sluice
from perf.peers.contestant import LOOPBACK, Start, Task
from perf.pki import STRANGER_PATH
from perf.process import BenchError

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@dataclass(frozen=True, slots=True)
class Claims:
    """Of a peer's hop. The product's log is its flow events, which the harness reads."""

    log: str  # the file, with {hop} in its name
    logged: str  # expression that is there when our exchange was
    metrics: str  # path to ask for
    counted: str  # expression of the number in the answer
    asking: int = 0  # that being asked adds to it


NGINX = Claims(
    *("{hop}-access.log", " 200 40 31 "),
    *("/", r"accepts handled requests\n (\d+) "),  # connections
    asking=1,
)
CLAIMS = {
    "haproxy": Claims(
        *("{hop}.log", r" b/s \S+ 40 "),
        *("/metrics", r'haproxy_frontend_connections_total\{proxy="f"\} (\d+)'),
    ),
    "nginx": NGINX,
    "nginx-http": replace(
        NGINX,
        logged=r' 200 \d+ 31 .*"GET / HTTP/1.1"',
        counted=r"accepts handled requests\n \d+ \d+ (\d+) ",
    ),
    "envoy": Claims(
        *("{hop}-access.log", " 31 40 "),
        *("/stats/prometheus", r"envoy_tcp_downstream_cx_total\{.*\} (\d+)"),
    ),
}


PAIRS = ("as it should be", "with a stranger as client", "with a stranger as server")


async def check(start: Start, right: Task, client: Task, server: Task) -> None:
    """Raises BenchError when a claim does not hold. The tasks: mesh, as PAIRS says."""
    async with _origin(right), start(right) as contestant:
        name = contestant.name
        claims = CLAIMS.get(name)
        if not await _served(contestant.address, contestant.port):
            raise BenchError(f"{name}: does not serve a pair of the mesh profile")
        if claims:
            before = await _counters(name, claims, right)
            await _served(contestant.address, contestant.port)
            _check_counters(name, claims, before, await _counters(name, claims, right))
        if await _served(LOOPBACK, _mesh_port(name, right), _nobody(name, right)):
            raise BenchError(f"{name}: serves a client without a certificate")
    if claims:
        _check_logs(name, claims, right)
    for who, task in (
        ("client", replace(client, client=STRANGER_PATH)),
        ("server", replace(server, server=STRANGER_PATH)),
    ):
        async with _origin(task), start(task) as contestant:
            if await _served(contestant.address, contestant.port):
                raise BenchError(f"{name}: takes a stranger for the {who}")


async def _counters(name: str, claims: Claims, task: Task) -> dict[str, int]:
    """By hop."""
    found = {}
    for hop in hops.hops(task):
        told = await hops.told(hops.metrics(task, hop), claims.metrics)
        if (number := re.search(claims.counted, told)) is None:
            raise BenchError(f"{name}: {hop}: tells no counter: {told[-500:]}")
        found[hop] = int(number[1])
    return found


def _check_counters(
    name: str, claims: Claims, before: Mapping[str, int], after: Mapping[str, int]
) -> None:
    """Around one exchange."""
    for hop, number in after.items():
        if number - before[hop] <= claims.asking:
            raise BenchError(f"{name}: {hop}: does not count: {before[hop]}, then {number}")


def _check_logs(name: str, claims: Claims, task: Task) -> None:
    """Of what has ended: some write only then."""
    for hop in hops.hops(task):
        log = (task.scratch / claims.log.format(hop=hop)).read_text(encoding="utf-8")
        if not re.search(claims.logged, log):
            raise BenchError(f"{name}: {hop}: does not log a stream: {log[-500:]}")


def _mesh_port(name: str, task: Task) -> int:
    return hops.ports(task, "b")[0] if name in CLAIMS else sluice.mesh_port(task)


def _nobody(name: str, task: Task) -> dict[str, Any]:
    """Arguments of a TLS connection without a certificate, else as the other hop makes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if name in CLAIMS:
        return {"ssl": context}
    context.set_alpn_protocols(["sluice-l4/1"])
    return {"ssl": context, "server_hostname": sluice.pair_snapshots(task)[1].inbound[0].sni}


async def _served(address: str, port: int, tls: dict[str, Any] | None = None) -> bool:
    """Whether the request came back answered. Raises BenchError when nothing is said at all."""
    try:
        async with asyncio.timeout(hops.ANSWER_SECONDS):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                return await _ask(*await asyncio.open_connection(address, port, **(tls or {})))
            return False
    except TimeoutError:
        raise BenchError(f"{address}:{port} neither serves nor refuses") from None


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    try:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        return head.startswith(b"HTTP/1.1 200 ") and await reader.readexactly(2) == b"hi"
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def _origin(task: Task) -> AsyncIterator[None]:
    """Answers requests."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(REPLY)
        writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, task.origin)
    try:
        yield
    finally:
        server.close()
