"""Peer sites: their trust bundles, what they export to us, when we last heard of them.

Owns their table. How they are talked to is api/peering.py's; what goes stale is decided here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from ipaddress import ip_address
from typing import Any

from appliance.errors import Conflict, LimitReached, NotFound
from appliance.registry.model import ImportedService, Peer, PeerState, ServicePort
from appliance.registry.store import Row, Store
from dataplane.snapshot import Address

PEERS_MAX = 256


def state_of(*, connected: bool, quiet_s: float, stale_s: int) -> PeerState:
    """quiet_s: since it was heard of, or since we began to listen, whichever is shorter."""
    if connected:
        return PeerState.CONNECTED
    return PeerState.STALE if quiet_s >= stale_s else PeerState.CONNECTING


class Peers:
    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> tuple[Peer, ...]:
        return tuple(_peer(row) for row in self._store.all("SELECT * FROM peers"))

    def get(self, name: str) -> Peer:
        """Raises NotFound."""
        row = self._store.one("SELECT * FROM peers WHERE name = ?", (name,))
        if row is None:
            raise NotFound(f"there is no peer {name[:80]!r}: see `sluice peer list`")
        return _peer(row)

    def put(self, peer: Peer, own_trust_domain: str) -> None:
        """New, or joined again (the same name and trust domain): then what it told us stays, for
        it says nothing twice on a stream that lives. Raises Conflict, LimitReached."""
        with self._store.transaction():
            if peer.trust_domain == own_trust_domain:
                raise Conflict(
                    f"the peer has our own trust domain {own_trust_domain}: each site needs one of "
                    "its own"
                )
            others = self.all()
            for other in others:
                if (other.name == peer.name) != (other.trust_domain == peer.trust_domain):
                    raise Conflict(
                        f"peer {other.name} ({other.trust_domain}) is there already: "
                        f"`sluice peer remove {other.name}` first"
                    )
            if len({other.name for other in others} | {peer.name}) > PEERS_MAX:
                raise LimitReached(f"at most {PEERS_MAX} peers")
            self._store.run(
                "INSERT INTO peers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
                " ON CONFLICT (name) DO UPDATE SET appliance = excluded.appliance,"
                " bundle_pem = excluded.bundle_pem, mesh_addresses = excluded.mesh_addresses,"
                " mesh_port = excluded.mesh_port, peering_address = excluded.peering_address,"
                " peering_port = excluded.peering_port, last_seen = excluded.last_seen",
                (
                    peer.name,
                    peer.trust_domain,
                    peer.appliance,
                    peer.bundle_pem,
                    json.dumps([str(address) for address in peer.mesh_addresses]),
                    peer.mesh_port,
                    str(peer.peering_address),
                    peer.peering_port,
                    peer.last_seen,
                    imports_text(peer.imports),
                ),
            )

    def remove(self, name: str) -> Peer:
        with self._store.transaction():
            peer = self.get(name)
            self._store.run("DELETE FROM peers WHERE name = ?", (name,))
            self._store.run("DELETE FROM revocations WHERE trust_domain = ?", (peer.trust_domain,))
        return peer

    def set_imports(self, name: str, imports: Sequence[ImportedService], now: int) -> None:
        self._store.run(
            "UPDATE peers SET imports = ?, last_seen = ? WHERE name = ?",
            (imports_text(imports), now, name),
        )

    def set_bundle(self, name: str, bundle_pem: str) -> None:
        self._store.run("UPDATE peers SET bundle_pem = ? WHERE name = ?", (bundle_pem, name))

    def set_mesh(
        self, name: str, addresses: Sequence[Address], port: int, peering_address: Address
    ) -> None:
        """Where its mesh listener and its peering are now."""
        self._store.run(
            "UPDATE peers SET mesh_addresses = ?, mesh_port = ?, peering_address = ?"
            " WHERE name = ?",
            (json.dumps([str(each) for each in addresses]), port, str(peering_address), name),
        )

    def set_seen(self, name: str, now: int) -> None:
        self._store.run("UPDATE peers SET last_seen = ? WHERE name = ?", (now, name))

    def set_heard(self, name: str, revocation: int) -> None:
        """The peer has our revocations up to this one."""
        self._store.run(
            "UPDATE peers SET revocations_heard = max(revocations_heard, ?) WHERE name = ?",
            (revocation, name),
        )

    def heard(self) -> Mapping[str, int]:
        rows = self._store.all("SELECT name, revocations_heard FROM peers")
        return {row[0]: row[1] for row in rows}


def imports_text(imports: Sequence[ImportedService]) -> str:
    return json.dumps([asdict(service) for service in imports], separators=(",", ":"))


def _imported(data: dict[str, Any]) -> ImportedService:
    return ImportedService(
        name=data["name"],
        namespace=data["namespace"],
        ports=tuple(ServicePort(**port) for port in data["ports"]),
        identities=tuple(data["identities"]),
        subsets=tuple(data["subsets"]),
        healthy=data["healthy"],
    )


def _peer(row: Row) -> Peer:
    return Peer(
        name=row["name"],
        trust_domain=row["trust_domain"],
        appliance=row["appliance"],
        bundle_pem=row["bundle_pem"],
        mesh_addresses=tuple(ip_address(text) for text in json.loads(row["mesh_addresses"])),
        mesh_port=row["mesh_port"],
        peering_address=ip_address(row["peering_address"]),
        peering_port=row["peering_port"],
        last_seen=row["last_seen"],
        imports=tuple(map(_imported, json.loads(row["imports"]))),
    )


def with_state(peer: Peer, state: PeerState, last_seen: int) -> Peer:
    return replace(peer, state=state, last_seen=max(peer.last_seen, last_seen))
