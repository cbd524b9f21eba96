"""What enrolment needs kept, over the site's registry: enroll.admit's EnrolStore.

Each call commits before it returns. Whether anything is allowed is decided in enroll/.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from appliance.enroll.admit import CodeRecord, HostRecord, PeerOffer
from appliance.errors import Conflict, NotFound
from appliance.identity import parse, workload_id
from appliance.observe.audit import Audit
from appliance.registry.codes import Codes
from appliance.registry.hosts import Hosts
from appliance.registry.model import Peer
from appliance.registry.peers import Peers
from appliance.registry.view import RegistryView
from dataplane.snapshot import Address

Ports = Callable[[str], tuple[int, ...]]  # where services listen on a host


class Enrolment:
    def __init__(
        self,
        trust_domain: str,
        hosts: Hosts,
        peers: Peers,
        codes: Codes,
        view: RegistryView,
        audit: Audit,
        ports: Ports,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own, self._hosts, self._peers, self._codes = trust_domain, hosts, peers, codes
        self._view, self._audit, self._ports, self._clock = view, audit, ports, clock

    async def code(self, hash: str) -> CodeRecord | None:
        return self._codes.get(hash)

    async def consume(self, hash: str, used_by: str) -> bool:
        return self._codes.consume(hash, used_by)

    async def host(self, name: str) -> HostRecord | None:
        try:
            host = self._hosts.get(name)
        except NotFound:
            return None
        identity = workload_id(self._own, host.namespace, host.service_account)
        return HostRecord(host, identity, self._hosts.key_hash(name), self._ports(name))

    async def host_by_key(self, key_hash: str) -> HostRecord | None:
        name = self._hosts.name_by_key(key_hash)
        return await self.host(name) if name else None

    async def check_joins(self, name: str, address: Address | None) -> None:
        if address is not None and any(
            address in other.addresses for other in self._hosts.all() if other.name != name
        ):
            raise Conflict(
                f"{address} is another host's address: remove that host, or add this one with "
                "--address"
            )
        self._hosts.check_enrols(name, int(self._clock()))

    async def joined(
        self, name: str, key_hash: str, serial: str, not_after: int, address: Address | None
    ) -> None:
        await self.check_joins(name, address)  # again: the CA took its time
        self._hosts.enrolled(
            name,
            serial=serial,
            not_after=not_after,
            key_hash=key_hash,
            address=address,
            now=int(self._clock()),
        )
        self._view.changed()

    async def renewed(self, name: str, serial: str, not_after: int) -> None:
        key_hash = self._hosts.key_hash(name) or ""
        self._hosts.enrolled(
            name,
            serial=serial,
            not_after=not_after,
            key_hash=key_hash,
            address=None,
            now=int(self._clock()),
        )
        self._view.changed()

    async def serial_denied(self, serial: str) -> bool:
        return (self._own, serial) in self._view.now.denied_serials

    async def peer_trust_domains(self) -> dict[str, str]:
        return {peer.trust_domain: peer.name for peer in self._peers.all()}

    async def peer_joined(self, name: str, offer: PeerOffer) -> None:
        self._peers.put(peer_of(name, offer, int(self._clock())), self._own)
        self._view.changed()

    async def audit(self, who: str, what: str, detail: str) -> None:
        self._audit.record(who, what, detail)


def peer_of(name: str, offer: PeerOffer, now: int) -> Peer:
    return Peer(
        name=name,
        trust_domain=offer.trust_domain,
        bundle_pem=offer.bundle_pem,
        mesh_addresses=offer.mesh_addresses,
        mesh_port=offer.mesh_port,
        peering_address=offer.peering_address,
        peering_port=offer.peering_port,
        last_seen=now,
        appliance=parse(offer.appliance_id).path.rpartition("/")[2],
    )
