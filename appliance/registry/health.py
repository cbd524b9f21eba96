"""Active health checks: asks each endpoint of a service that wants it, tells what changed.

Owns the checks' schedule and their counts; keeps nothing on disk and publishes nothing. TCP:
connects. HTTP/1.1: GET, 2xx or 3xx is healthy. gRPC: grpc.health.v1 Health/Check with the
empty service, SERVING is healthy (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import grpc

from appliance.registry.model import HealthCheck
from appliance.tasks import Tasks
from dataplane.snapshot import Address

TOGETHER_MAX = 64  # checks under way
TARGETS_MAX = 20_000
_HEAD_BYTES_MAX = 4096
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}

Key = tuple[str, Address]  # service key, endpoint's address
Tell = Callable[[list[tuple[str, Address, bool]]], None]


@dataclass(frozen=True, slots=True)
class Target:
    service: str
    address: Address
    port: int
    check: HealthCheck

    @property
    def key(self) -> Key:
        return self.service, self.address


@dataclass(slots=True)
class _State:
    healthy: bool = True  # until shown otherwise
    same: int = 0  # results in a row that differ from healthy

    def take(self, good: bool, check: HealthCheck) -> bool:
        """Whether healthy changed."""
        if good == self.healthy:
            self.same = 0
            return False
        self.same += 1
        if self.same < (check.healthy_after if good else check.unhealthy_after):
            return False
        self.healthy, self.same = good, 0
        return True


class Health:
    """`set` says what to check; `tell` gets (service key, address, healthy) when it changes."""

    def __init__(
        self, tell: Tell, probe: Callable[[Target], Awaitable[bool]] | None = None
    ) -> None:
        self._tell, self._probe = tell, probe or probe_target
        self._tasks = Tasks()
        self._running: dict[Key, tuple[Target, asyncio.Task[None]]] = {}
        self._states: dict[Key, _State] = {}
        self._gate = asyncio.Semaphore(TOGETHER_MAX)
        self.counters: Counter[str] = Counter()

    def set(self, targets: Iterable[Target]) -> None:
        """Starts what is new or differs, ends what is gone: that counts as healthy again."""
        wanted: dict[Key, Target] = {}
        for target in targets:
            if len(wanted) >= TARGETS_MAX:
                self.counters["not_checked"] += 1
                continue
            wanted[target.key] = target
        for key, (target, task) in list(self._running.items()):
            if wanted.get(key) != target:
                task.cancel()
                del self._running[key]
        gone = [key for key in self._states if key not in wanted]
        back = [(*key, True) for key in gone if not self._states.pop(key).healthy]
        if back:
            self._tell(back)
        for key, target in wanted.items():
            if key not in self._running:
                task = self._tasks.start(self._watch(target), f"health of {key[0]} at {key[1]}")
                self._running[key] = target, task

    @property
    def targets(self) -> frozenset[Key]:
        return frozenset(self._running)

    async def close(self) -> None:
        await self._tasks.close()

    async def _watch(self, target: Target) -> None:
        state = self._states.setdefault(target.key, _State())
        interval_s = target.check.interval_ms / 1000
        await asyncio.sleep(random.uniform(0, min(interval_s, 1.0)))
        while True:
            async with self._gate:
                try:
                    async with asyncio.timeout(target.check.timeout_ms / 1000):
                        good = await self._probe(target)
                except (OSError, TimeoutError):
                    good = False
            self.counters["good" if good else "bad"] += 1
            if state.take(good, target.check):
                self._tell([(target.service, target.address, state.healthy)])
            await asyncio.sleep(interval_s * random.uniform(0.9, 1.1))


async def probe_target(target: Target) -> bool:
    """One check. Raises OSError or TimeoutError for what is as good as no."""
    kinds: Mapping[str, Callable[[Target], Awaitable[bool]]] = {
        "tcp": _tcp,
        "http": _http,
        "grpc": _grpc,
    }
    return await kinds[target.check.kind](target)


async def _tcp(target: Target) -> bool:
    _, writer = await asyncio.open_connection(str(target.address), target.port)
    writer.transport.abort()
    return True


async def _http(target: Target) -> bool:
    host = f"[{target.address}]" if target.address.version == 6 else str(target.address)
    reader, writer = await asyncio.open_connection(
        str(target.address), target.port, limit=_HEAD_BYTES_MAX
    )
    try:
        request = (
            f"GET {target.check.path} HTTP/1.1\r\nHost: {host}:{target.port}\r\n"
            "User-Agent: sluice-health\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode("ascii"))
        with contextlib.suppress(ValueError):  # a line without an end
            match = _STATUS.match(await reader.readline())
            return match is not None and 200 <= int(match[1]) < 400
        return False
    finally:
        writer.transport.abort()


async def _grpc(target: Target) -> bool:
    host = f"[{target.address}]" if target.address.version == 6 else str(target.address)
    options = (
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", 1024),
    )
    async with grpc.aio.insecure_channel(f"{host}:{target.port}", options=options) as channel:
        call = channel.unary_unary(
            "/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes
        )
        try:
            reply: bytes = await call(b"", timeout=target.check.timeout_ms / 1000)
        except grpc.aio.AioRpcError:
            return False
    return reply == _SERVING
