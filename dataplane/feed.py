"""Reports to those who watch: bounded queues, and what did not fit is counted.

Owns the queues; knows nothing of gRPC or native code. While nobody watches, the latest events
wait in a bounded backlog for whoever comes next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from dataplane._gen import dataplane_pb2 as pb

WATCHERS_MAX = 8
QUEUE_REPORTS_MAX = 256  # a watcher; of events at most 256 KiB each
BACKLOG_BYTES_MAX = 4 << 20


class TooManyWatchers(Exception):
    """The limit is WATCHERS_MAX."""


class Feed:
    """One writer, the host; every watcher sees each report, or its loss is counted."""

    def __init__(self) -> None:
        self.dropped = 0  # reports
        self._watchers: set[asyncio.Queue[pb.Report | None]] = set()
        self._backlog: deque[pb.Report] = deque()
        self._backlog_bytes = 0
        self._closed = False

    @property
    def watched(self) -> bool:
        return bool(self._watchers)

    def put_events(self, records: bytes) -> None:
        report = pb.Report(events=records)
        if self._watchers:
            self.put(report)
            return
        self._backlog.append(report)
        self._backlog_bytes += len(records)
        while self._backlog_bytes > BACKLOG_BYTES_MAX:
            self._backlog_bytes -= len(self._backlog.popleft().events)
            self.dropped += 1

    def put(self, report: pb.Report) -> None:
        for queue in self._watchers:
            try:
                queue.put_nowait(report)
            except asyncio.QueueFull:
                self.dropped += 1

    async def watch(self, first: pb.Report) -> AsyncIterator[pb.Report]:
        """first, the backlog, then reports until close. Raises TooManyWatchers."""
        if len(self._watchers) >= WATCHERS_MAX:
            raise TooManyWatchers
        queue: asyncio.Queue[pb.Report | None] = asyncio.Queue(QUEUE_REPORTS_MAX)
        self._watchers.add(queue)
        backlog, self._backlog, self._backlog_bytes = self._backlog, deque(), 0
        try:
            yield first
            while backlog:
                yield backlog.popleft()
            while not (self._closed and queue.empty()):
                report = await queue.get()
                if report is None:
                    continue
                yield report
        finally:
            self._watchers.discard(queue)

    def close(self) -> None:
        """Watchers get what is queued, then their stream ends."""
        self._closed = True
        for queue in self._watchers:
            if not queue.full():  # a full one ends when it is read empty
                queue.put_nowait(None)
