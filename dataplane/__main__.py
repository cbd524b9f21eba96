"""The data plane process: arguments, descriptors, signals; builds and wires its parts.

The supervisor starts it without privileges but CAP_NET_RAW, hands sockets over (see descriptors)
and removes its gRPC socket once it is gone: the sandbox lets it remove nothing. SIGTERM: stop
accepting, serve what lives until the drain deadline, exit 0. A second SIGTERM, or SIGINT: stop at
once. SIGHUP: read the ticket keys again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path

from dataplane import binding, descriptors, service, stats
from dataplane._gen import dataplane_pb2 as pb
from dataplane.descriptors import Descriptors
from dataplane.dns_server import DnsServer
from dataplane.feed import Feed
from dataplane.host import Host
from dataplane.slots import Slots

log = logging.getLogger("dataplane")

CAP_NET_RAW = 13
STATS_SECONDS = 1.0
DRAIN_POLL_SECONDS = 0.05
READS_MAX = 64  # in a moment: 16 MiB
EVENTS_SECONDS = 0.05  # what happens within a moment is read at once, for one wake-up
FLUSH_SECONDS = 1.0
NICE = 5  # of all threads but the workers, so that a publish delays no user's byte


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dataplane", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="directory of the kept snapshot")
    parser.add_argument("--socket", type=Path, required=True, help="<dir>/dp-<generation>.sock")
    parser.add_argument("--workers", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--streams", type=int, default=65_536, help="at most, a worker")
    parser.add_argument(
        "--mark", type=lambda text: int(text, 0), default=0, help="SO_MARK upstream; 0 = none"
    )
    parser.add_argument("--drain-seconds", type=float, default=600.0)
    parser.add_argument(
        "--sessions",
        type=int,
        default=4_096,
        help="TLS sessions kept for resumption, a worker; 0 = every handshake is a full one",
    )
    parser.add_argument(
        "--records",
        choices=sorted(binding.RECORDS),
        default="user",
        help="who seals and opens TLS records: we, OpenSSL as auditors want it, or the kernel "
        "where it can (default: user)",
    )
    found = parser.parse_args(argv)
    if not 1 <= found.workers <= 64:
        parser.error("--workers: 1 to 64")
    if not 0 <= found.drain_seconds <= 86_400:
        parser.error("--drain-seconds: 0 to 86400")
    if not 0 <= found.sessions <= 1_000_000:
        parser.error("--sessions: 0 to 1000000")
    return found


def can_use_raw() -> bool:
    """Whether the process has CAP_NET_RAW: for a client's source address, and marks."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_NET_RAW & 1)
    return False


def make_engine(options: argparse.Namespace, given: Descriptors) -> binding.Engine:
    """With its listeners, pipes and ticket keys; not started. Raises NativeError."""
    engine = binding.Engine(
        binding.Settings(
            workers=options.workers,
            streams_max=options.streams,
            sessions_max=options.sessions,
            mark=options.mark,
            records=binding.RECORDS[options.records],
            allow_transparent=can_use_raw(),
        )
    )
    for listeners in (given.transparent4, given.transparent6):
        for worker, number in enumerate(listeners):
            engine.add_transparent(number, worker)
    for listeners in (given.mesh4, given.mesh6):
        for worker, number in enumerate(listeners):
            engine.add_mesh(number, worker)
    for read_end, write_end in given.pipes:
        engine.add_pipe(read_end, write_end)
    if given.tickets is not None:
        engine.set_ticket_keys(descriptors.read_ticket_keys(given.tickets))
    return engine


class Process:
    """One data plane process, from start to exit."""

    def __init__(self, options: argparse.Namespace, given: Descriptors, key: bytes) -> None:
        self._options = options
        self._given = given
        self._name = options.socket.stem
        self._engine = make_engine(options, given)
        self._host = Host(self._engine, Slots(options.state, key), key)
        self._dns = DnsServer(lambda: self._host.zone)
        self._feed = Feed()
        self._terminate = asyncio.Event()
        self._stop = asyncio.Event()
        self._moment: asyncio.TimerHandle | None = None  # until events are read again

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_terminate)
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        # Before the sandbox: a worker says how it wants to be scheduled. It serves nobody yet.
        self._engine.start()
        os.nice(NICE)  # more than it was: less would take a capability
        await self._host.load()
        server = await service.serve(
            service.Service(self._name, self._host, self._feed, self._hello), self._options.socket
        )
        await self._dns.start(self._given.dns_udp, self._given.dns_tcp)
        self._watch_events()
        binding.enter_sandbox()
        if self._given.ready is not None:
            os.write(self._given.ready, b"ready\n")
            os.close(self._given.ready)
        log.info("serves, snapshot %d", self._host.version)
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(self._report())
            await self._terminate.wait()
            await self._drain()
            reporting.cancel()
        await asyncio.to_thread(self._engine.stop)
        while records := self._engine.read_events():
            self._feed.put_events(records)
        if self._feed.watched:
            self._feed.put(pb.Report(stats=stats.encode(self._stats())))
        self._feed.close()
        await server.stop(FLUSH_SECONDS)
        loop.remove_reader(self._engine.event_fd)
        if self._moment is not None:
            self._moment.cancel()
        self._host.close()
        self._engine.close()
        log.info("is done")

    async def _drain(self) -> None:
        await self._dns.stop()
        if not self._engine.started:
            return
        self._engine.drain(self._options.drain_seconds)
        deadline = time.monotonic() + self._options.drain_seconds
        log.info("drains %d streams", self._engine.live)
        while self._engine.live and time.monotonic() < deadline and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_POLL_SECONDS):
                    await self._stop.wait()

    def _hello(self) -> pb.Report:
        return pb.Report(
            hello=pb.Hello(
                process=self._name,
                version=self._host.version,
                histogram_bounds=binding.histogram_bounds(),
            )
        )

    async def _report(self) -> None:
        while True:
            if self._feed.watched:
                self._feed.put(pb.Report(stats=stats.encode(self._stats())))
            self._engine.collect()  # what a worker took late, after its publisher had gone
            await asyncio.sleep(STATS_SECONDS)

    def _stats(self) -> stats.StatsReport:
        return stats.StatsReport(
            process=self._name,
            live=self._engine.live,
            counters={
                **self._engine.counters(),
                **self._host.counters,
                **self._dns.counters,
                "reports_dropped": self._feed.dropped,
            },
            histograms=self._engine.histograms(),
            published=self._engine.published,
            applied=self._engine.applied,
            draining=self._terminate.is_set(),
        )

    def _watch_events(self) -> None:
        asyncio.get_running_loop().add_reader(self._engine.event_fd, self._on_events)

    def _on_events(self) -> None:
        # All there is, once a moment; what comes faster than it is read waits for the next.
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._engine.event_fd)
        self._moment = loop.call_later(EVENTS_SECONDS, self._watch_events)
        for _ in range(READS_MAX):
            records = self._engine.read_events()
            if records:
                self._feed.put_events(records)
            if len(records) < binding.EVENT_BYTES // 2:
                break

    def _on_terminate(self) -> None:
        if self._terminate.is_set():
            self._stop.set()
        self._terminate.set()

    def _on_interrupt(self) -> None:
        self._stop.set()
        self._terminate.set()

    def _on_hangup(self) -> None:
        if self._given.tickets is None:
            return
        try:
            self._engine.set_ticket_keys(descriptors.read_ticket_keys(self._given.tickets))
        except (OSError, ValueError, binding.NativeError) as error:
            log.error("ticket keys stay as they are: %s", error)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"{options.socket.stem}: %(message)s",
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # leaf keys never reach a core file
    # Snapshots are large and hold no cycles: looking for some as often as by default takes a third
    # of a publish.
    gc.set_threshold(100_000, 50, 100)
    try:
        given = descriptors.collect(os.environ, options.workers)
        if given.publish_key is None:
            raise descriptors.DescriptorError(f"{descriptors.VARIABLE}: no publish-key")
        key = descriptors.read_publish_key(given.publish_key)
        asyncio.run(Process(options, given, key).run())
    except (OSError, ValueError, binding.NativeError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
