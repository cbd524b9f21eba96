"""Background tasks that nobody awaits, and the wait of those that are woken.

Owns references to them; a lost one's error is logged.

For tasks whose number changes while the process lives; a fixed set belongs in a TaskGroup.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

R = TypeVar("R")


async def woken(event: asyncio.Event, seconds: float | None) -> None:
    """Until the event is set or seconds, None being no limit, have passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Tasks:
    """Starts tasks, keeps them alive, and cancels what is left at close."""

    def __init__(self) -> None:
        self._live: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._live)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._live.add(task)
        task.add_done_callback(self._done)
        return task

    async def finish(self, work: Coroutine[Any, Any, R], name: str) -> R:
        """Awaits work, which goes on to its end even when the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._live.add(task)
        task.add_done_callback(self._live.discard)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._live.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed: %r", task.get_name(), error, exc_info=error)

    async def close(self) -> None:
        """Cancels every task and waits for it."""
        while self._live:
            tasks = list(self._live)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._live.difference_update(tasks)  # those that were done: gather does not yield
