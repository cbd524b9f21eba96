"""The box's interfaces over time: which appeared, which of ours is another, whose link was lost.

Owns what was seen last, also over a restart, so that a link lost meanwhile is known too; after a
reboot all have appeared. Reads nothing but links and the kernel's name for this boot.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.registry.store import Store
from appliance.system import links
from dataplane.snapshot import Address

log = logging.getLogger(__name__)
_SEEN = "interfaces"  # the boot, and losses by index, as JSON
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_FLEETING = "tun"  # of virtual machines, which no card seals for: not worth a write each
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of it."""

    changed: Callable[[], None]  # one of ours is not as it was
    appeared: Callable[[frozenset[str]], None]  # interfaces that were not there before
    # These local addresses have lost their link, as was seen then (monotonic clock).
    lost: Callable[[frozenset[Address], int], Awaitable[None]]


class LinkWatch:
    def __init__(self, store: Store, ours: frozenset[str], told: Told) -> None:
        self._store, self._ours, self._told = store, ours, told
        self._boot = _BOOT.read_text().strip()
        seen = json.loads(store.get(_SEEN, "{}"))
        same = seen.get("boot") == self._boot
        self._known = {int(i): n for i, n in seen["losses"].items()} if same else {}
        self._before: tuple[links.Link, ...] | None = None

    async def run(self) -> None:
        """Never returns."""
        async for change in links.changes():
            await self._see(change, await _read())

    async def _see(self, change: links.Change, now: tuple[links.Link, ...]) -> None:
        lost = change.lost
        if change.missed:
            lost |= links.losers(self._known, now)
        # Some addresses go with the link, and come back with it: hence also those of before.
        bereft = links.bereft(lost, now) | links.bereft(lost, self._before or ())
        if bereft:
            await self._told.lost(bereft, time.monotonic_ns())
        lasting = [link for link in now if link.kind != _FLEETING or link.name in self._ours]
        if appeared := frozenset(link.name for link in lasting if link.index not in self._known):
            self._told.appeared(appeared)
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

    def _keep(self) -> None:
        """What cannot be kept is told again by the next daemon, at worst."""
        try:
            self._store.put(_SEEN, json.dumps({"boot": self._boot, "losses": self._known}))
        except ApplianceError as error:  # a full disk
            log.error("the interfaces are not noted: %s", error)


async def _read() -> tuple[links.Link, ...]:
    while True:
        try:
            return await links.links()
        except ApplianceError as error:  # they changed while they were read
            log.warning("%s", error)
        await asyncio.sleep(_RETRY_SECONDS)
