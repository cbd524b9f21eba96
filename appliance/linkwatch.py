"""The box's interfaces over time: tells when one of ours is another, and whose link was lost.

Owns what was seen last, also over a restart, so that a link lost meanwhile is known too. Reads
nothing but links.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable

from appliance.errors import ApplianceError
from appliance.registry.store import Store
from appliance.system import links
from dataplane.snapshot import Address

log = logging.getLogger(__name__)
_SEEN = "links"  # losses by index, as JSON


class LinkWatch:
    def __init__(
        self,
        store: Store,
        ours: frozenset[str],
        changed: Callable[[], None],
        lost: Callable[[frozenset[Address], int], Awaitable[None]],
    ) -> None:
        """changed: one of ours is not as it was. lost: these local addresses have lost their link,
        as was seen at this time of the monotonic clock."""
        self._store, self._ours = store, ours
        self._changed, self._lost = changed, lost
        self._before: tuple[links.Link, ...] | None = None

    async def run(self) -> None:
        """Never returns."""
        async for change in links.changes():
            seen_ns = time.monotonic_ns()
            try:
                now = await links.links()
            except ApplianceError:  # they changed while they were read
                now = ()
            await self._see(change, now, seen_ns)

    async def _see(self, change: links.Change, now: tuple[links.Link, ...], seen_ns: int) -> None:
        known = {int(index): n for index, n in json.loads(self._store.get(_SEEN, "{}")).items()}
        lost = change.lost | (links.losers(known, now) if change.missed and now else frozenset())
        # Some addresses go with the link, and come back with it: hence also those of before.
        bereft = links.bereft(lost, now) | links.bereft(lost, self._before or ())
        if bereft:
            await self._lost(bereft, seen_ns)
        losses = {link.index: link.losses for link in now}
        if now and losses != known:
            self._store.put(_SEEN, json.dumps(losses))
        ours = [link for link in now if link.name in self._ours]
        earlier = [link for link in self._before or () if link.name in self._ours]
        if self._before is not None and ours != earlier:
            log.info("interfaces changed")
            self._changed()
        self._before = now
