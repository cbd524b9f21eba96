"""The box's interfaces over time: which appeared, which of ours is another, whose link was lost.

Owns what was seen last, also over a restart, so that a link lost meanwhile is known too; after a
reboot all have appeared. Reads nothing but links and the kernel's name for this boot.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.registry.store import Store
from appliance.system import links
from appliance.tasks import Tasks
from dataplane.snapshot import Address

log = logging.getLogger(__name__)
_SEEN = "interfaces"  # the boot, losses by index, and who was served since it appeared; as JSON
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_FLEETING = "tun"  # of virtual machines, which no card seals for: not worth a write each
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of it."""

    changed: Callable[[], None]  # one of ours is not as it was
    # Interfaces (indices) that were not there before. Told again by the next daemon unless it ends.
    appeared: Callable[[frozenset[int]], Awaitable[object]]
    switched_on: Callable[[frozenset[int]], Awaitable[object]]  # also those that appeared so
    # These local addresses have lost their link, as was seen then (monotonic clock).
    lost: Callable[[frozenset[Address], int], Awaitable[None]]


class LinkWatch:
    def __init__(self, store: Store, ours: frozenset[str], told: Told) -> None:
        self._store, self._ours, self._told = store, ours, told
        self._boot = _BOOT.read_text().strip()
        seen = json.loads(store.get(_SEEN, "{}"))
        same = seen.get("boot") == self._boot
        self._known = {int(i): n for i, n in seen["losses"].items()} if same else {}
        self._served = set(seen.get("served", self._known)) if same else set()
        self._new: set[int] = set()  # to be told, as those that were switched on
        self._on: set[int] = set()
        self._telling = False
        self._before: tuple[links.Link, ...] | None = None
        self._tasks = Tasks()

    async def run(self) -> None:
        """Never returns."""
        try:
            async for change in links.changes():
                await self._see(change, await _read())
        finally:
            await self._tasks.close()

    async def _see(self, change: links.Change, now: tuple[links.Link, ...]) -> None:
        lost = change.lost
        if change.missed:
            lost |= links.losers(self._known, now)
        # Some addresses go with the link, and come back with it: hence also those of before.
        bereft = links.bereft(lost, now) | links.bereft(lost, self._before or ())
        if bereft:
            await self._told.lost(bereft, time.monotonic_ns())
        lasting = [link for link in now if link.kind != _FLEETING or link.name in self._ours]
        self._serve(lasting, change.lost)
        losses = {link.index: link.losses for link in lasting}
        if losses != self._known:
            self._known = losses
            self._keep()
        ours = [link for link in now if link.name in self._ours]
        earlier = [link for link in self._before or () if link.name in self._ours]
        if self._before is not None and ours != earlier:
            log.info("interfaces changed")
            self._told.changed()
        self._before = now

    def _serve(self, now: Iterable[links.Link], lost: frozenset[int]) -> None:
        """Those that appeared, and those that were switched on."""
        there = {link.index for link in now}
        self._served &= there
        self._new |= there - self._served
        off = lost | {link.index for link in self._before or () if not link.on}
        self._on |= {link.index for link in now if link.on and link.index in self._new | off}
        if (self._new or self._on) and not self._telling:
            self._telling = True
            self._tasks.start(self._tell(), "serve interfaces that appeared")

    async def _tell(self) -> None:
        """One at a time; who comes meanwhile is told then."""
        try:
            while self._new or self._on:
                new, on = frozenset(self._new), frozenset(self._on)
                self._on.clear()
                if new:
                    await self._told.appeared(new)
                if on:
                    await self._told.switched_on(on)
                self._new -= new
                if new:
                    self._served |= new
                    self._keep()
        finally:
            self._telling = False

    def _keep(self) -> None:
        """What cannot be kept is told again by the next daemon, at worst."""
        seen = {"boot": self._boot, "losses": self._known, "served": sorted(self._served)}
        try:
            self._store.put(_SEEN, json.dumps(seen))
        except ApplianceError as error:  # a full disk
            log.error("the interfaces are not noted: %s", error)


async def _read() -> tuple[links.Link, ...]:
    while True:
        try:
            return await links.links()
        except ApplianceError as error:  # they changed while they were read
            log.warning("%s", error)
        await asyncio.sleep(_RETRY_SECONDS)
