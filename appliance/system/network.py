"""All of the system's state that follows from the site and its hosts, as one thing.

Owns the order: routes before interception, so that a marked packet has somewhere to go, and
sets before pinned neighbours. Knows nothing of documents or snapshots.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.site import Site
from appliance.system import neighbours, nft, routes
from appliance.system.nft import Binding, Count


class Network:
    """What the daemon keeps right while it runs. Safe to call again at any time."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._bound: tuple[Binding, ...] | None = None

    async def install(self, bound: Sequence[Binding]) -> None:
        """At start, and after an interface came or went. Raises ApplianceError."""
        await routes.apply(self._site)
        self._bound = None
        await self.bind(bound)

    async def bind(self, bound: Sequence[Binding]) -> None:
        """When hosts changed; does nothing when their bindings did not."""
        bound = tuple(bound)
        if bound == self._bound:
            return
        await nft.apply(nft.render(self._site, bound))
        await neighbours.pin(self._site, bound)
        self._bound = bound

    async def counters(self) -> dict[str, Count]:
        """What interception and the spoofing checks counted; names in nft.COUNTERS."""
        return await nft.counters()


async def remove() -> None:
    """Takes everything down: interception first, then where it led. For `sluice up`'s end."""
    await nft.remove()
    await neighbours.remove()
    await routes.remove()
