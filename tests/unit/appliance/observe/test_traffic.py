"""appliance.observe.traffic and metrics: sums that never fall, names that Prometheus reads."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.errors import Unavailable
from appliance.observe import metrics as metrics_module
from appliance.observe.metrics import Metrics, Numbers
from appliance.observe.traffic import Traffic
from dataplane.stats import Histogram, StatsReport

BOUNDS = tuple(1 << n for n in range(8, 20))


def report(process: str, **counters: int) -> StatsReport:
    counts = tuple(1 if n < 3 else 0 for n in range(len(BOUNDS)))
    histograms = {"connect_ns": Histogram(BOUNDS, counts, 3000)}
    return StatsReport(process, counters.pop("live", 0), counters, histograms, 1, 1, False)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_totals_outlive_processes() -> None:
    traffic = Traffic()
    traffic.take(report("dp-1", live=5, bytes_up=100, streams_now=5))
    traffic.take(report("dp-2", live=2, bytes_up=10, streams_now=2))
    assert (traffic.counters(), traffic.live) == ({"bytes_up": 110, "streams_now": 7}, 7)
    traffic.process_down("dp-1")
    traffic.process_down("never seen")
    assert (traffic.counters(), traffic.live) == ({"bytes_up": 110, "streams_now": 2}, 2)
    assert traffic.histograms()["connect_ns"].counts[:4] == (2, 2, 2, 0)
    assert traffic.histograms()["connect_ns"].sum == 6000


def test_throughput_is_of_the_last_interval() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    traffic.take(report("dp-1", bytes_up=100, streams_opened=1))
    clock.now = 2.0
    traffic.take(
        report("dp-1", bytes_up=300, streams_opened=5, reason_denied=4, reason_none=2,
               streams_closed=2)
    )  # fmt: skip
    rate = traffic.throughput()
    assert (rate.bytes_up, rate.opened, rate.refused) == (100.0, 2.0, 2.0)
    traffic.process_down("dp-1")
    assert traffic.throughput().bytes_up == 0


def numbers() -> Numbers:
    traffic = Traffic()
    traffic.take(report("dp-1", bytes_up=100, streams_now=4, reason_denied=2))
    return Numbers(
        "a", traffic.counters(), traffic.histograms(), {"hosts": 3.0}, {"publishes": 9},
        {"b": True},
    )  # fmt: skip


async def fetch(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_metrics_are_served_and_read_by_prometheus() -> None:
    metrics = Metrics(numbers)
    port = await metrics.serve(["127.0.0.1"], 0)
    answer = await fetch(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert found["sluice_dataplane_bytes_up_total",] == 100
    assert found["sluice_dataplane_streams_now",] == 4
    assert found["sluice_stream_ends_total", "denied"] == 2
    assert found["sluice_hosts",] == 3
    assert found["sluice_publishes_total",] == 9
    assert found["sluice_peer_connected", "b"] == 1
    assert found["sluice_connect_seconds_count",] == 3
    assert found["sluice_connect_seconds_bucket", "+Inf"] == 3
    assert found["sluice_connect_seconds_sum",] == pytest.approx(3e-6)
    await metrics.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"\x16\x03\x01" + b"x" * 9000, b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", b"400"),
    ],
)
async def test_anything_else_is_refused_and_counted(request_: bytes, status: bytes) -> None:
    metrics = Metrics(numbers)
    port = await metrics.serve(["127.0.0.1"], 0)
    assert (await fetch(port, request_)).startswith(b"HTTP/1.1 " + status)
    assert metrics.refused == 1
    await metrics.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Without a word."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def test_connections_are_limited_and_silent_ones_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_module, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(metrics_module, "TIMEOUT_S", 1.5)  # enough for the second to come
    metrics = Metrics(numbers)
    port = await metrics.serve(["127.0.0.1"], 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    second, other = await asyncio.open_connection("127.0.0.1", port)
    assert await ended(second)
    assert metrics.refused == 1
    assert await ended(reader)
    for one in (writer, other):
        one.close()
    await metrics.close()


async def test_a_port_in_use_is_said() -> None:
    metrics, other = Metrics(numbers), Metrics(numbers)
    port = await metrics.serve(["127.0.0.1"], 0)
    with pytest.raises(Unavailable, match=f"port {port}"):
        await other.serve(["127.0.0.1"], port)
    await metrics.close()
