"""appliance.registry.health: real listeners on loopback, good and bad."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import grpc
import pytest

from appliance.registry import health as module
from appliance.registry.health import Health, Target, probe_target
from appliance.registry.model import HealthCheck
from tests.unit.appliance.publish.world import until

HERE = ip_address("127.0.0.1")
QUICK = HealthCheck("tcp", interval_ms=1, timeout_ms=1000)


@asynccontextmanager
async def answering(text: bytes | None) -> AsyncIterator[int]:
    """A server that says this to whoever asks; None = nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        if text is not None:
            writer.write(text)
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def target(port: int, kind: str, timeout_ms: int = 5000) -> Target:
    return Target("web.default", HERE, port, HealthCheck(kind, timeout_ms=timeout_ms))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 302 Found\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
        (b"HTTP/2 200\r\n\r\n", False),
        (b"220 smtp\r\n", False),
        (b"x" * 10_000, False),
        (b"", False),
    ],
)
async def test_http_is_healthy_by_its_status(text: bytes, good: bool) -> None:
    async with answering(text) as port:
        assert await probe_target(target(port, "http")) is good


async def test_tcp_is_healthy_when_it_accepts() -> None:
    async with answering(None) as port:
        assert await probe_target(target(port, "tcp"))
    with pytest.raises(OSError, match="Connect call failed"):
        await probe_target(target(port, "tcp"))


@pytest.mark.parametrize(
    ("reply", "good"), [(b"\x08\x01", True), (b"\x08\x02", False), (b"", False)]
)
async def test_grpc_is_healthy_when_serving(reply: bytes, good: bool) -> None:
    async def check(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return reply

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await probe_target(target(port, "grpc")) is good
    await server.stop(None)
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as other:
        assert await probe_target(target(other, "grpc", 500)) is False


class Probe:
    """Answers what it is told to; counts."""

    def __init__(self) -> None:
        self.good, self.asked = True, 0

    async def __call__(self, target: Target) -> bool:
        self.asked += 1
        if not self.good:
            raise ConnectionRefusedError
        return True


@pytest.fixture
async def checked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Health, Probe, list]]:
    monkeypatch.setattr(module.random, "uniform", lambda low, high: low)
    told: list[tuple[str, bool]] = []
    probe = Probe()
    health = Health(
        lambda results: told.extend((key, healthy) for key, _, healthy in results), probe
    )
    yield health, probe, told
    await health.close()


async def test_it_takes_some_failures_and_one_success(
    checked: tuple[Health, Probe, list],
) -> None:
    health, probe, told = checked
    health.set([Target("web.default", HERE, 80, QUICK)])
    await until(lambda: probe.asked >= 3)
    assert told == []
    probe.good = False
    before = health.counters["bad"]
    await until(lambda: bool(told))
    assert health.counters["bad"] - before == QUICK.unhealthy_after
    probe.good = True
    await until(lambda: len(told) == 2)
    assert told == [("web.default", False), ("web.default", True)]


async def test_what_is_checked_no_longer_counts_as_healthy_and_a_new_check_knows(
    checked: tuple[Health, Probe, list],
) -> None:
    health, probe, told = checked
    probe.good = False
    health.set([Target("web.default", HERE, 80, QUICK)])
    await until(lambda: told == [("web.default", False)])
    health.set([Target("web.default", HERE, 81, QUICK)])  # moved: still known to be bad
    probe.good = True
    await until(lambda: told == [("web.default", False), ("web.default", True)])
    probe.good = False
    await until(lambda: len(told) == 3)
    health.set([])
    assert told[3:] == [("web.default", True)]
    assert health.targets == frozenset()


async def test_targets_are_limited_and_counted(
    checked: tuple[Health, Probe, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TARGETS_MAX", 1)
    health = checked[0]
    health.set([Target("a.x", HERE, 80, QUICK), Target("b.x", HERE, 80, QUICK)])
    assert (len(health.targets), health.counters["not_checked"]) == (1, 1)
