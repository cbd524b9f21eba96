"""What we tell peers and what becomes of what they tell: the registry's side of peering.

Owns api.conversation's Book and Facts, which peers have heard of a revocation, and when imports
go stale. Opens no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from appliance.api.conversation import Facts
from appliance.api.peering import Peering
from appliance.catalog import Catalog
from appliance.enroll.admit import bundle_text, check_bundle
from appliance.errors import LimitReached, Unavailable
from appliance.observe.audit import Audit
from appliance.registry.model import ImportedService
from appliance.registry.peers import Peers, state_of
from appliance.registry.revocations import Revocations
from appliance.registry.view import RegistryView
from appliance.site import Site
from dataplane.snapshot import Address

log = logging.getLogger(__name__)

LOOK_S = 1.0
_KEEP_SEEN_S = 30.0


class PeerBook:
    def __init__(
        self,
        site: Site,
        peers: Peers,
        revocations: Revocations,
        view: RegistryView,
        catalog: Catalog,
        audit: Audit,
        in_force: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._site, self._peers, self._revocations = site, peers, revocations
        self._view, self._catalog, self._audit, self._clock = view, catalog, audit, clock
        self._in_force = in_force
        self._began = clock()
        self._seen_kept: dict[str, int] = {}
        self._heard = asyncio.Event()

    def facts(self) -> Facts:
        """What there is to tell now."""
        own = self._revocations.own()
        return Facts(
            trust_domain=self._site.trust_domain,
            bundle_pem=self._view.now.bundle_pem,
            mesh_addresses=tuple(str(address) for address in self._site.spec.mesh.addresses),
            mesh_port=self._site.spec.ports.mesh,
            exports=self._catalog.exports(),
            denied=tuple((each.serial, each.spiffe_id) for each in own),
            denied_last=max((each.id for each in own), default=0),
        )

    # -- what peers tell; api.conversation.Book ----------------------------------------------------

    def greeted(self, peer: str, addresses: tuple[Address, ...], port: int) -> None:
        """A site peers at an address of its mesh listener's: that moves with it."""
        known = next((each for each in self._view.now.peers if each.name == peer), None)
        if known is None or (known.mesh_addresses, known.mesh_port) == (addresses, port):
            return
        moved = known.peering_address in known.mesh_addresses
        stays = not moved or known.peering_address in addresses
        self._peers.set_mesh(
            peer, addresses, port, known.peering_address if stays else addresses[0]
        )
        self._audit.record(
            peer, "moved", f"its mesh listener is at {', '.join(map(str, addresses))} port {port}"
        )
        self._view.changed()

    def exports_heard(self, peer: str, services: tuple[ImportedService, ...]) -> None:
        now = int(self._clock())
        known = {each.name: each.imports for each in self._view.now.peers}
        if known.get(peer) != services:
            self._peers.set_imports(peer, services, now)
            self._view.changed()

    def bundle_heard(self, peer: str, trust_domain: str, pem: str) -> None:
        pem = bundle_text(check_bundle(pem, trust_domain))
        if any(p.name == peer and p.bundle_pem == pem for p in self._view.now.peers):
            return
        self._peers.set_bundle(peer, pem)
        self._audit.record(peer, "bundle", f"the trust bundle of {trust_domain} changed")
        self._view.changed()

    def revocations_heard(
        self, peer: str, trust_domain: str, denied: tuple[tuple[str | None, str | None], ...]
    ) -> None:
        if self._revocations.replace(trust_domain, denied, peer, int(self._clock())):
            self._audit.record(peer, "revocations", f"{trust_domain} denies {len(denied)}")
            self._view.changed()

    def in_force(self) -> bool:
        return self._in_force()

    def acknowledged(self, peer: str, last: int) -> None:
        if self._peers.heard().get(peer, last) < last:
            self._peers.set_heard(peer, last)
        self._heard.set()

    # -- the daemon's side -----------------------------------------------------------------------

    async def hear(self, last: int, timeout_s: float, connected: Callable[[str], bool]) -> None:
        """Until every connected peer has our revocations up to `last`, or so many seconds."""

        def all_heard() -> bool:
            return all(
                number >= last for name, number in self._peers.heard().items() if connected(name)
            )

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not all_heard():
                    self._heard.clear()
                    await self._heard.wait()

    async def run(self, peering: Peering) -> None:
        """Tells the registry who is connected and who went stale. Never returns."""
        while True:
            self.look(peering)
            await asyncio.sleep(LOOK_S)

    def look(self, peering: Peering) -> None:
        now, states = self._clock(), {}
        for peer in self._view.now.peers:
            seen = max(peering.last_seen(peer.name), peer.last_seen)
            state = state_of(
                connected=peering.connected(peer.name),
                quiet_s=now - max(seen, self._began),
                stale_s=self._site.spec.peers.stale_seconds,
            )
            if state is not peer.state:
                log.info("peer %s is %s", peer.name, state)
            states[peer.name] = state, seen
            if seen - self._seen_kept.get(peer.name, 0) >= _KEEP_SEEN_S:
                self._seen_kept[peer.name] = seen
                try:
                    self._peers.set_seen(peer.name, seen)
                except (LimitReached, Unavailable) as error:  # a full disk stops no loop
                    log.warning("when %s was last heard of is not kept: %s", peer.name, error)
        self._view.set_peer_states(states)
