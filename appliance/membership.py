"""Hosts and peers coming and going: what an admin asks, done in the registry and published.

Owns the order of each act. A revocation is in force on the box before the call returns, and is
told to the peers. Codes are made here and shown once; what they are is enroll/'s.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from appliance.compile.services import OWN
from appliance.config import own
from appliance.enroll import code as codes_
from appliance.enroll.admit import new_code
from appliance.enroll.peer_join import join_peer
from appliance.errors import Conflict, InvalidInput
from appliance.identity import is_label, workload_id
from appliance.observe.audit import Audit
from appliance.publish import Publisher
from appliance.registry.codes import Codes
from appliance.registry.enrolment import peer_of
from appliance.registry.hosts import Hosts
from appliance.registry.model import Host, HostKind, HostState, Peer
from appliance.registry.peers import Peers
from appliance.registry.revocations import Revocations, is_serial
from appliance.registry.store import Store
from appliance.registry.view import RegistryView
from appliance.site import Site

SERIALS_MAX = 1_000
HEAR_S = 3.0  # how long a revocation waits for the peers' answers


@dataclass(frozen=True, slots=True)
class Code:
    text: str = field(repr=False)  # to be shown once
    expires: int  # UNIX seconds


@dataclass(frozen=True, slots=True)
class Revoked:
    host: Host
    told: tuple[str, ...]  # peers that have it in force
    not_told: tuple[str, ...]


class Membership:
    def __init__(
        self,
        site: Site,
        store: Store,
        hosts: Hosts,
        peers: Peers,
        codes: Codes,
        revocations: Revocations,
        view: RegistryView,
        publisher: Publisher,
        audit: Audit,
        pin: Callable[[], Awaitable[bytes]],
        hear: Callable[[int, float], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """pin: the CA's, for codes. hear: waits until all connected peers have our revocations up
        to a number, or so many seconds."""
        self._site, self._store, self._hosts, self._peers = site, store, hosts, peers
        self._codes, self._revocations, self._view = codes, revocations, view
        self._publisher, self._audit = publisher, audit
        self._pin, self._hear, self._clock = pin, hear, clock

    # -- hosts -----------------------------------------------------------------------------------

    async def add_host(self, host: Host, services: Sequence[str], by: str) -> Code | None:
        """An agentless host is active at once; one with an agent gets a code to join with.

        Raises InvalidInput and Conflict.
        """
        self._check_place(host)
        identity = workload_id(self._site.trust_domain, host.namespace, host.service_account)
        made = None
        if host.kind is HostKind.AGENT:
            made, record = new_code(codes_.HOST, host.name, await self._pin(), self._now())
        with self._store.transaction():
            self._hosts.add(host, services)
            lifted = self._revocations.lift(identity)
            if made is not None:
                self._codes.add(record, self._now())
        self._audit.record(by, "host add", f"{host.name} {identity} {host.kind} {host.grade.name}")
        if lifted:
            self._audit.record(by, "revocation lifted", identity)
        await self._changed()
        return Code(str(made), record.expires) if made is not None else None

    async def remove_host(self, name: str, by: str) -> None:
        """Those of its own leaves that live still are denied."""
        self._check_registered(name)
        with self._store.transaction():
            serials = self._hosts.leaves(name, self._now())
            host = self._hosts.remove(name)
            self._codes.drop(codes_.HOST, name)
            if host.state is HostState.ACTIVE:  # else they are denied already
                self._deny(host, serials)
        self._audit.record(by, "host remove", name)
        await self._changed()

    async def revoke_host(self, name: str, by: str) -> Revoked:
        """Its sessions here end now. Raises NotFound, Conflict, or what the publish raises."""
        self._check_registered(name)
        with self._store.transaction():
            host = self._hosts.revoke(name)
            self._codes.drop(codes_.HOST, name)
            self._deny(host, self._hosts.leaves(name, self._now()))
            if not self._shares_identity(host):
                self._deny_identity(host)
            last = self._revocations.last()
        self._audit.record(by, "host revoke", name)
        await self._changed()
        if self._publisher.problem:
            raise Conflict(
                f"host {name} is revoked, but the data plane has not heard: "
                f"{self._publisher.problem}"
            )
        await self._hear(last, HEAR_S)
        heard = self._peers.heard()
        return Revoked(
            host,
            told=tuple(sorted(name for name, number in heard.items() if number >= last)),
            not_told=tuple(sorted(name for name, number in heard.items() if number < last)),
        )

    async def revoke_operator(self, name: str, serials: Sequence[str], by: str) -> None:
        """Certificates of an admin or a viewer: the admin API refuses them from now on.

        Raises InvalidInput.
        """
        if not is_label(name) or len(serials) > SERIALS_MAX or not all(map(is_serial, serials)):
            raise InvalidInput("give a name, and serials in hex as the CA lists them")
        with self._store.transaction():
            for serial in serials:
                self._revocations.add(serial=serial, spiffe_id=None, host=name, now=self._now())
        self._audit.record(by, "operator revoke", f"{name}: {len(serials)} certificates")
        await self._changed()

    def _check_place(self, host: Host) -> None:
        """What a document of a host is held to as well (config.verify)."""
        spec = self._site.spec
        if host.interface and host.interface not in spec.hosts.interfaces:
            raise InvalidInput(
                f"{host.interface} is no interface that hosts are on: write one of "
                f"{', '.join(spec.hosts.interfaces)}"
            )
        for address in host.addresses:
            own_ = address in spec.hosts.addresses or address in spec.mesh.addresses
            if own_ or address in spec.vip.ipv4 or address in spec.vip.ipv6:
                raise InvalidInput(
                    f"{address} is the appliance's own or a virtual one: give the host's"
                )
        for doc in self._publisher.model.of(own.Host):
            shared = set(doc.spec.addresses) & set(host.addresses)
            if doc.name == host.name or shared:
                what = f"has {min(map(str, shared))}" if shared else "has this name"
                raise Conflict(f"{doc} {what}: delete that document first, or choose another")

    def _check_registered(self, name: str) -> None:
        if any(doc.name == name for doc in self._publisher.model.of(own.Host)) and not any(
            host.name == name for host in self._view.now.hosts
        ):
            raise Conflict(
                f"host {name} is of a document: delete that, `sluice delete host {name}`"
            )

    def _deny(self, host: Host, serials: Sequence[str]) -> None:
        """All of them: a host that renewed holds the leaf before it too."""
        for serial in serials:
            self._revocations.add(serial=serial, spiffe_id=None, host=host.name, now=self._now())

    def _deny_identity(self, host: Host) -> None:
        identity = workload_id(self._site.trust_domain, host.namespace, host.service_account)
        self._revocations.add(serial=None, spiffe_id=identity, host=host.name, now=self._now())

    def _shares_identity(self, host: Host) -> bool:
        return any(
            other.name != host.name
            and other.state is not HostState.REVOKED
            and (other.namespace, other.service_account) == (host.namespace, host.service_account)
            for other in self._hosts.all()
        )

    # -- peers -----------------------------------------------------------------------------------

    async def invite_peer(self, name: str, by: str) -> Code:
        """Raises InvalidInput."""
        _check_peer_name(name, self._site)
        made, record = new_code(codes_.PEER, name, await self._pin(), self._now())
        self._codes.add(record, self._now())
        self._audit.record(by, "peer invite", name)
        return Code(str(made), record.expires)

    async def add_peer(self, name: str, address: str, code: str, by: str) -> Peer:
        """Joins the site that gave the code. Raises what enroll.peer_join.join_peer raises."""
        _check_peer_name(name, self._site)
        bundle_pem = self._view.now.bundle_pem
        if not bundle_pem:
            raise Conflict("this site's CA has not answered yet: try again in a moment")
        peers = {peer.trust_domain: peer.name for peer in self._peers.all()}
        offer = await join_peer(self._site, bundle_pem, peers, name, address, code)
        self._peers.put(peer_of(name, offer, self._now()), self._site.trust_domain)
        self._audit.record(by, "peer add", f"{name} {offer.trust_domain}")
        await self._changed()
        return self._peers.get(name)

    async def remove_peer(self, name: str, by: str) -> None:
        """Its services and its trust are withdrawn. Raises NotFound."""
        peer = self._peers.remove(name)
        self._codes.drop(codes_.PEER, name)
        self._audit.record(by, "peer remove", f"{name} {peer.trust_domain}")
        await self._changed()

    async def _changed(self) -> None:
        self._view.changed()
        await self._publisher.settle()

    def _now(self) -> int:
        return int(self._clock())


def _check_peer_name(name: str, site: Site) -> None:
    if name in (site.name, *OWN):
        raise InvalidInput(f"{name} means this site, not a peer: give the peer another name")
    if not is_label(name):
        raise InvalidInput(
            f"{name[:80]!r} cannot be a peer's name: use lower case letters, digits and hyphens"
        )
