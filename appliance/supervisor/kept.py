"""One service that is kept running: started again when it dies, replaced without a gap.

Owns its processes: the one that serves, and those that drain. Start-up is tried for ever, with a
pause that doubles from 0.1 s to 5 s; every restart is counted. Knows nothing of what it runs.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from appliance.errors import Conflict, Unavailable
from appliance.supervisor.child import Child, Command

PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 5.0
STEADY_S = 10.0  # a process that served this long has its failures forgiven
DRAINING_MAX = 8
KILL_MARGIN_S = 5.0  # beyond the time that a process may take to end by itself

log = logging.getLogger("sluice.supervisor")

Files = dict[str, list[int]]
# Generation in; the command and, for the time of the start, its descriptors out.
Prepare = Callable[[int], tuple[Command, AbstractContextManager[Files]]]


@dataclass(slots=True)
class Counts:
    restarts: int = 0  # the process died by itself and was started again
    hung: int = 0  # ended by us, and started again: it was silent for too long
    failed_starts: int = 0
    replacements: int = 0
    cut_short: int = 0  # told to end before its drain was over: too many drained


@dataclass(slots=True)
class _Replacement:
    done: asyncio.Future[int] = field(default_factory=lambda: asyncio.Future())


class Kept:
    """`run` it as a task; it ends after `stop`."""

    def __init__(
        self,
        name: str,
        prepare: Prepare,
        *,
        drain_s: float = 0.0,
        hangup: bool = False,
        hurries: bool = False,
        steady_s: float = STEADY_S,
        on_end: Callable[[int], None] = lambda generation: None,
    ) -> None:
        """drain_s: how long a process may take to end after SIGTERM. hangup: understands SIGHUP.
        hurries: ends at once on SIGINT, where SIGTERM lets it drain. on_end: called with the
        generation of each process that has ended."""
        self.name = name
        self.counts = Counts()
        self.generation = 0
        self.serving = asyncio.Event()  # one is ready now
        self._prepare = prepare
        self._drain_s = drain_s
        self._hangup = hangup
        self._hurries = hurries
        self._steady_s = steady_s
        self._on_end = on_end
        self._current: Child | None = None
        self._draining: list[Child] = []
        self._replacement: _Replacement | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._hurried = False
        self._last_end = ""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as retired:
            pause_s = PAUSE_MIN_S
            while not self._stopping:
                if self._current is None:
                    await self._attempt(pause_s)
                    pause_s = min(pause_s * 2, PAUSE_MAX_S)
                    continue
                began = time.monotonic()
                await self._until_something_happens(self._current, retired)
                if time.monotonic() - began >= self._steady_s:
                    pause_s = PAUSE_MIN_S
            await self._end_all(retired)

    async def replace(self) -> int:
        """Starts the next generation; the old one drains. Returns the new generation.

        Raises Conflict when a replacement is under way or nothing serves, Unavailable when the new
        process does not get ready: then the old one serves on.
        """
        if self._replacement is not None or self._current is None or self._stopping:
            raise Conflict(f"{self.name} is just starting or ending: try again")
        self._replacement = _Replacement()
        self._wake.set()
        try:
            return await self._replacement.done
        finally:
            self._replacement = None

    def stop(self) -> None:
        """In order: SIGTERM, the drain. A second call hurries the process."""
        if self._stopping:
            self._hurried = True
            self._hurry()
        self._stopping = True
        self._wake.set()

    def hang_up(self) -> None:
        """SIGHUP to those that serve or drain: something in their memory files changed."""
        if self._hangup:
            for child in self._all():
                child.send(signal.SIGHUP)

    def processes(self) -> list[dict[str, object]]:
        """For `status`: one entry a process."""
        state = "stopping" if self._stopping else "serving"
        shown = [(self._current, state)] if self._current else []
        shown += [(child, "draining") for child in self._draining]
        listed: list[dict[str, object]] = [
            {"name": self.name, "pid": child.pid, "state": now, "since": child.since}
            for child, now in shown
        ]
        if not self._current:
            listed.insert(
                0,
                {
                    "name": self.name,
                    "pid": 0,
                    "state": "down",
                    "since": 0,
                    "detail": self._last_end,
                },
            )
        return listed

    def _all(self) -> list[Child]:
        return [*([self._current] if self._current else []), *self._draining]

    async def _attempt(self, pause_s: float) -> None:
        """One start from nothing; after a failure, the pause."""
        try:
            self._current = await self._launch()
            self.serving.set()
        except Unavailable as error:
            self.counts.failed_starts += 1
            self._last_end = str(error)
            log.error("%s: %s; next try in %.1f s", self.name, error, pause_s)
            await self._sleep(pause_s)

    async def _launch(self) -> Child:
        """A process of the next generation that is ready. Raises Unavailable; nothing is left."""
        generation = self.generation + 1
        self.generation = generation
        command, files = self._prepare(generation)
        with files as passed:
            child = await Child.start(command, passed, generation)
        ready = asyncio.ensure_future(child.ready(command.ready_timeout_s))
        wake = asyncio.ensure_future(self._stopped())
        try:
            await asyncio.wait({ready, wake}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise Unavailable("stopped before it was ready")
            ready.result()
        except BaseException:
            await child.stop(KILL_MARGIN_S)
            self._on_end(generation)
            raise
        finally:
            ready.cancel()
            wake.cancel()
            await asyncio.gather(ready, wake, return_exceptions=True)
        log.info("%s: process %d serves (generation %d)", self.name, child.pid, generation)
        if self._hangup:
            child.send(signal.SIGHUP)  # what was rotated while it started
        return child

    async def _until_something_happens(self, child: Child, retired: asyncio.TaskGroup) -> None:
        ended = asyncio.ensure_future(child.wait())
        woken = asyncio.ensure_future(self._wake.wait())
        silent = asyncio.ensure_future(child.silence())
        await asyncio.wait({ended, woken, silent}, return_when=asyncio.FIRST_COMPLETED)
        if silent.done() and not ended.done():
            self.counts.hung += 1
            log.error("%s: process %d hangs; it is ended", self.name, child.pid)
            child.send(signal.SIGKILL)  # who hangs hears no SIGTERM
            await ended
        for other in (woken, silent):
            other.cancel()
        self._wake.clear()
        if ended.done():
            self._died(child, ended.result())
            return
        ended.cancel()
        await asyncio.gather(ended, woken, silent, return_exceptions=True)
        if self._replacement is not None and not self._stopping:
            await self._replace_now(self._replacement, retired)

    def _died(self, child: Child, how: str) -> None:
        self._current = None
        self._on_end(child.generation)
        self.serving.clear()
        self._last_end = how
        if not self._stopping:
            self.counts.restarts += 1
            log.error("%s: %s; it is started again", self.name, how)
        if self._replacement is not None:
            self._replacement.done.set_exception(Unavailable(f"{self.name} died: {how}"))

    async def _replace_now(self, wanted: _Replacement, retired: asyncio.TaskGroup) -> None:
        old = self._current
        try:
            self._current = await self._launch()
        except Unavailable as error:
            self.counts.failed_starts += 1
            log.error("%s: the replacement failed: %s; the old process serves on", self.name, error)
            wanted.done.set_exception(Unavailable(f"{self.name} was not replaced: {error}"))
            return
        self.counts.replacements += 1
        if old is not None:
            self._retire(old, retired)
        wanted.done.set_result(self.generation)

    def _retire(self, child: Child, retired: asyncio.TaskGroup) -> None:
        self._draining.append(child)
        retired.create_task(self._drain(child))
        if len(self._draining) > DRAINING_MAX:
            self.counts.cut_short += 1
            self._draining[0].send(signal.SIGINT)  # at once

    async def _drain(self, child: Child) -> None:
        how = await child.stop(self._drain_s + KILL_MARGIN_S)
        self._draining.remove(child)
        self._on_end(child.generation)
        log.info("%s: process %d has ended: %s", self.name, child.pid, how)

    async def _end_all(self, retired: asyncio.TaskGroup) -> None:
        if self._replacement is not None and not self._replacement.done.done():
            self._replacement.done.set_exception(Unavailable(f"{self.name} is ending"))
        self.serving.clear()
        child, self._current = self._current, None
        if child is not None:
            self._draining.append(child)
            retired.create_task(self._drain(child))
        if self._hurried:
            self._hurry()

    def _hurry(self) -> None:
        for child in self._all() if self._hurries else ():
            child.send(signal.SIGINT)  # not a second SIGTERM: two that wait are one

    async def _stopped(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            if not self._stopping:  # a replacement asked for while one starts: refused above
                self._wake.clear()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped()
        except TimeoutError:
            pass
