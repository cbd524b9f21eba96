"""Numbers for Prometheus: the only importer of prometheus_client. Owns names and the listener.

Reads what others counted at the moment it is asked; counts nothing itself but its own refusals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from appliance.errors import Unavailable
from appliance.observe.ledger import COUNTERS, FALLBACK, LAYER, LAYERS, REASONS
from dataplane.stats import Histogram

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CONNECTIONS_MAX = 16
HEAD_BYTES_MAX = 8192
TIMEOUT_S = 10.0
BUCKET_MIN_NS = 1 << 10
BUCKET_MAX_NS = 1 << 42


@dataclass(frozen=True, slots=True)
class Numbers:
    """One moment's. Gauges and counters by (name, help), then by label values."""

    site: str
    counters: Mapping[str, int] = field(default_factory=dict)  # the data plane's
    histograms: Mapping[str, Histogram] = field(default_factory=dict)  # the data plane's; ns
    gauges: Mapping[str, float] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)  # the control plane's counters
    peers: Mapping[str, bool] = field(default_factory=dict)  # connected


class _Source(Collector):
    def __init__(self, numbers: Callable[[], Numbers]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Metric]:
        return families(self._numbers())


def families(numbers: Numbers) -> Iterator[Metric]:
    """Pure: the numbers under their names."""
    reasons = CounterMetricFamily(
        "sluice_stream_ends", "Streams that ended or were refused", labels=["reason"]
    )
    for name, value in sorted(numbers.counters.items()):
        if name in COUNTERS:
            continue
        if name.startswith("reason_"):
            reasons.add_metric([name.removeprefix("reason_")], value)
        elif name.endswith("_now"):
            yield GaugeMetricFamily(f"sluice_dataplane_{name}", f"Data plane: {name}", value)
        else:
            yield CounterMetricFamily(f"sluice_dataplane_{name}", f"Data plane: {name}", value)
    yield reasons
    yield from _ledger(numbers.counters)
    for name, histogram in sorted(numbers.histograms.items()):
        family = HistogramMetricFamily(
            f"sluice_{name.removesuffix('_ns')}_seconds", f"Data plane: {name}, in seconds"
        )
        family.add_metric([], _buckets(histogram), histogram.sum / 1e9)
        yield family
    for name, number in sorted(numbers.gauges.items()):
        yield GaugeMetricFamily(f"sluice_{name}", f"Control plane: {name}", number)
    for name, total in sorted(numbers.totals.items()):
        yield CounterMetricFamily(f"sluice_{name}", f"Control plane: {name}", total)
    peers = GaugeMetricFamily("sluice_peer_connected", "1 = the peer talks to us", labels=["peer"])
    for name, connected in sorted(numbers.peers.items()):
        peers.add_metric([name], float(connected))
    yield peers
    info = GaugeMetricFamily("sluice_site_info", "Always 1", labels=["site"])
    info.add_metric([numbers.site], 1)
    yield info


def _ledger(counters: Mapping[str, int]) -> Iterator[Metric]:
    """Layers sum up to the number of TLS legs; reasons to that and those that link_changed counts a
    second time: what a counter holds cannot be taken back."""
    for name, text, label, prefix, values in (
        ("sluice_records", "TLS legs by who has their records first; nic: also those that its link "
         "has lost since, which are the kernel's now: sluice_record_fallbacks' link_changed",
         "layer", LAYER, LAYERS),
        ("sluice_record_fallbacks", "TLS legs by why their records are not where the profile "
         "would have them; none = they are; seals_only = the NIC seals, the kernel opens; "
         "link_changed = they were the NIC's until its link was lost, counted a second time",
         "reason", FALLBACK, REASONS),
    ):  # fmt: skip
        family = CounterMetricFamily(name, text, labels=[label])
        for value in values:
            family.add_metric([value], counters.get(prefix + value, 0))
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative, in seconds; the same ones each time: powers of two from 1 µs to an hour."""
    found: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip(histogram.bounds[:-1], histogram.counts[:-1], strict=True):
        total += count
        if bound.bit_count() == 1 and BUCKET_MIN_NS <= bound <= BUCKET_MAX_NS:
            found.append((repr(bound / 1e9), total))
    found.append(("+Inf", total + (histogram.counts[-1] if histogram.counts else 0)))
    return found


class Metrics:
    """Answers GET /metrics over plain HTTP; anything else is refused. Async context manager."""

    def __init__(self, numbers: Callable[[], Numbers]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Source(numbers))
        self._servers: list[asyncio.Server] = []
        self._connections = 0
        self.refused = 0

    def text(self) -> bytes:
        return generate_latest(self._registry)

    async def serve(self, addresses: Iterable[str], port: int) -> int:
        """Returns the port. Raises Unavailable."""
        try:
            for address in addresses:
                server = await asyncio.start_server(
                    self._answer, address, port, limit=HEAD_BYTES_MAX
                )
                self._servers.append(server)
                port = server.sockets[0].getsockname()[1]
        except OSError as error:
            await self.close()
            raise Unavailable(f"metrics cannot listen on port {port}: {error.strerror}") from error
        return port

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections > CONNECTIONS_MAX:
                self.refused += 1
                return
            async with asyncio.timeout(TIMEOUT_S):
                status, body = await self._response(reader)
                head = (
                    f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            log.debug("metrics: %s", error)
        finally:
            self._connections -= 1
            with contextlib.suppress(OSError):
                writer.transport.abort()

    async def _response(self, reader: asyncio.StreamReader) -> tuple[str, bytes]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.refused += 1
            return "400 Bad Request", b"send an HTTP request\n"
        method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
        path = rest.split(b" ")[0].split(b"?")[0]
        if method != b"GET" or path not in (b"/metrics", b"/"):
            self.refused += 1
            return "404 Not Found", b"GET /metrics\n"
        return "200 OK", self.text()
