"""Hosts of the site: which there are, how they are known, whether they are trusted.

Owns their table and what may follow what: pending → active → revoked → removed. Makes no code
and no certificate (enroll/), publishes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from types import MappingProxyType

from appliance.address import machine
from appliance.errors import Conflict, InvalidInput, LimitReached, NotFound
from appliance.identity import is_account, is_label
from appliance.registry.model import Host, HostKind, HostState
from appliance.registry.services import Services
from appliance.registry.store import Row, Store
from dataplane.snapshot import Address, Grade

ADDRESSES_MAX = 64
LABELS_MAX = 64
LEAVES_MAX = 512  # of a host that live at once; one that keeps to half life has two
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_INTERFACE = re.compile(r"[A-Za-z0-9._@-]{1,15}")
_LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def host_of(
    *,
    name: str,
    namespace: str = "",
    service_account: str = "",
    agent: bool = False,
    addresses: Sequence[str] = (),
    mac: str = "",
    interface: str = "",
    labels: Mapping[str, str] | None = None,
    now: int = 0,
) -> Host:
    """The host that was asked for. Raises InvalidInput. Agentless: active at once."""
    namespace = namespace or "default"
    account = service_account or name
    for text, what in ((name, "name"), (namespace, "namespace")):
        if not is_label(text):
            raise InvalidInput(
                f"{text[:80]!r} cannot be a {what}: use lower case letters, digits and hyphens"
            )
    if not is_account(account):
        raise InvalidInput(f"{account[:80]!r} cannot be a service account")
    mac = mac.lower().replace("-", ":")
    if mac and not _MAC.fullmatch(mac):
        raise InvalidInput(f"{mac[:80]!r} is no MAC address: write 02:00:00:00:00:01")
    if interface and not _INTERFACE.fullmatch(interface):
        raise InvalidInput(f"{interface[:80]!r} is no interface's name")
    if agent and (mac or interface):
        raise InvalidInput(
            f"{name} has a key of its own: leave --mac and --interface out, or --agent"
        )
    if not agent and not addresses:
        raise InvalidInput(f"{name} has no agent: give the --address that it is known by")
    if len(addresses) > ADDRESSES_MAX or len(labels or {}) > LABELS_MAX:
        raise InvalidInput(f"at most {ADDRESSES_MAX} addresses and {LABELS_MAX} labels a host")
    for key, value in (labels or {}).items():
        if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)):
            raise InvalidInput(f"the label {key[:80]!r}={value[:80]!r} is malformed")
    grade = Grade.KEY if agent else Grade.PORT if interface else Grade.L2 if mac else Grade.L3
    return Host(
        name=name,
        namespace=namespace,
        service_account=account,
        kind=HostKind.AGENT if agent else HostKind.AGENTLESS,
        state=HostState.PENDING if agent else HostState.ACTIVE,
        grade=grade,
        addresses=tuple(machine(text) for text in addresses),
        mac=mac or None,
        interface=interface or None,
        labels=MappingProxyType(dict(labels or {})),
        added=now,
    )


class Hosts:
    def __init__(self, store: Store, services: Services) -> None:
        self._store, self._services = store, services

    def all(self) -> tuple[Host, ...]:
        return tuple(_host(row) for row in self._store.all("SELECT * FROM hosts"))

    def get(self, name: str) -> Host:
        """Raises NotFound."""
        row = self._store.one("SELECT * FROM hosts WHERE name = ?", (name,))
        if row is None:
            raise NotFound(f"there is no host {name[:80]!r}: see `sluice host list`")
        return _host(row)

    def key_hash(self, name: str) -> str | None:
        """Of the public key that it enrolled with."""
        row = self._store.one("SELECT key_hash FROM hosts WHERE name = ?", (name,))
        return row["key_hash"] if row else None

    def name_by_key(self, key_hash: str) -> str | None:
        row = self._store.one("SELECT name FROM hosts WHERE key_hash = ?", (key_hash,))
        return row["name"] if row else None

    def add(self, host: Host, services: Sequence[str]) -> None:
        """All or nothing. Raises Conflict when the name or an address is taken."""
        with self._store.transaction():
            for other in self.all():
                if other.name == host.name:
                    again = "; `sluice host remove` it first" if (
                        other.state is HostState.REVOKED
                    ) else ""  # fmt: skip
                    raise Conflict(f"host {host.name} is there already ({other.state}){again}")
                shared = set(other.addresses) & set(host.addresses)
                if shared and other.state is not HostState.REVOKED:
                    raise Conflict(f"{min(map(str, shared))} is host {other.name}'s address")
            self._put(host)
            self._services.register(host, services)

    def enrolled(
        self,
        name: str,
        *,
        serial: str,
        not_after: int,
        key_hash: str,
        address: Address | None,
        now: int,
    ) -> Host:
        """It has a leaf of its own now (first, or renewed). Raises what check_enrols raises: then
        the new one must not be handed out."""
        with self._store.transaction():
            host = self.check_enrols(name, now)
            addresses = host.addresses or ((address,) if address else ())
            self._store.run(
                "UPDATE hosts SET state = ?, serial = ?, not_after = ?, key_hash = ?,"
                " addresses = ? WHERE name = ?",
                (HostState.ACTIVE, serial, not_after, key_hash, _texts(addresses), name),
            )
            self._store.run("DELETE FROM leaves WHERE not_after < ?", (now,))
            self._store.run("INSERT INTO leaves VALUES (?, ?, ?)", (serial, name, not_after))
        return self.get(name)

    def check_enrols(self, name: str, now: int) -> Host:
        """Raises NotFound, Conflict, and LimitReached when too many of its leaves live."""
        host = self.get(name)
        if host.state is HostState.REVOKED or host.kind is not HostKind.AGENT:
            raise Conflict(f"host {name} cannot enrol: it is {host.kind}, {host.state}")
        if len(self.leaves(name, now)) >= LEAVES_MAX:
            raise LimitReached(
                f"host {name} has {LEAVES_MAX} certificates that live: see why its agent renews so "
                "often"
            )
        return host

    def leaves(self, name: str, now: int) -> tuple[str, ...]:
        """Serials of its own leaves that have not run out; the one in use may not be the last."""
        rows = self._store.all(
            "SELECT serial FROM leaves WHERE host = ? AND not_after >= ? ORDER BY serial",
            (name, now),
        )
        return tuple(row["serial"] for row in rows)

    def revoke(self, name: str) -> Host:
        """Returns it as it was. Raises NotFound, Conflict."""
        with self._store.transaction():
            host = self.get(name)
            if host.state is HostState.REVOKED:
                raise Conflict(f"host {name} is revoked already")
            self._store.run("UPDATE hosts SET state = ? WHERE name = ?", (HostState.REVOKED, name))
        return host

    def remove(self, name: str) -> Host:
        with self._store.transaction():
            host = self.get(name)
            self._store.run("DELETE FROM hosts WHERE name = ?", (name,))
            self._services.drop_unused()
        return host

    def _put(self, host: Host) -> None:
        self._store.run(
            "INSERT INTO hosts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (
                host.name,
                host.namespace,
                host.service_account,
                host.kind,
                host.state,
                int(host.grade),
                _texts(host.addresses),
                host.mac,
                host.interface,
                host.agent_port,
                json.dumps(dict(host.labels)),
                host.serial,
                host.not_after,
                host.added,
            ),
        )


def _texts(addresses: Sequence[Address]) -> str:
    return json.dumps([str(address) for address in addresses])


def _host(row: Row) -> Host:
    return Host(
        name=row["name"],
        namespace=row["namespace"],
        service_account=row["service_account"],
        kind=HostKind(row["kind"]),
        state=HostState(row["state"]),
        grade=Grade(row["grade"]),
        addresses=tuple(ip_address(text) for text in json.loads(row["addresses"])),
        mac=row["mac"],
        interface=row["interface"],
        agent_port=row["agent_port"],
        labels=MappingProxyType(json.loads(row["labels"])),
        serial=row["serial"],
        not_after=row["not_after"],
        added=row["added"],
    )
