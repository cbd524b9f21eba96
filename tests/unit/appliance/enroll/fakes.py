"""A site to enrol at: the real CA rules and enrolment server, a store that is dictionaries."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.ca import key
from appliance.ca.issue import Asked, Signed
from appliance.ca.server import Ca, Roles
from appliance.ca.table import Table
from appliance.enroll import admit, code, credentials, pinned
from appliance.enroll.admit import CodeRecord, HostRecord, PeerOffer
from appliance.enroll.server import EnrolServer
from appliance.errors import ApplianceError
from appliance.registry.model import Host, HostKind, HostState
from appliance.site import Site
from appliance.system.credentials import Peer
from dataplane.snapshot import Address, Grade, Leaf

DAEMON = Peer(6410, 6410, 1)
ROOT = Peer(0, 0, 2)
DB = "spiffe://a.example/ns/default/sa/db"


def site_of(trust_domain: str = "a.example", mesh: str = "198.18.255.1") -> Site:
    return Site.model_validate(
        {
            "apiVersion": "sluice.dev/v1",
            "kind": "Site",
            "metadata": {"name": trust_domain.split(".")[0]},
            "spec": {
                "trustDomain": trust_domain,
                "appliance": "gw",
                "hosts": {"interfaces": ["eth0"], "addresses": ["127.0.0.1"]},
                "mesh": {"addresses": [mesh]},
            },
        }
    )


class Clock:
    """Real time, moved by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class FakeStore:
    def __init__(self) -> None:
        self.codes: dict[str, CodeRecord] = {}
        self.hosts: dict[str, HostRecord] = {}
        self.peers: dict[str, PeerOffer] = {}
        self.denied: set[str] = set()
        self.audited: list[tuple[str, str, str]] = []
        self.refuses: ApplianceError | None = None

    async def code(self, hash: str) -> CodeRecord | None:
        return self.codes.get(hash)

    async def consume(self, hash: str, used_by: str) -> bool:
        record = self.codes[hash]
        if record.used_by not in (None, used_by):
            return False
        self.codes[hash] = replace(record, used_by=used_by)
        return True

    async def host(self, name: str) -> HostRecord | None:
        return self.hosts.get(name)

    async def host_by_key(self, key_hash: str) -> HostRecord | None:
        return next((h for h in self.hosts.values() if h.key_hash == key_hash), None)

    async def check_joins(self, name: str, address: Address | None) -> None:
        if self.refuses is not None:
            raise self.refuses

    async def joined(
        self, name: str, key_hash: str, serial: str, not_after: int, address: Address | None
    ) -> None:
        record = self.hosts[name]
        host = replace(
            record.host,
            state=HostState.ACTIVE,
            serial=serial,
            not_after=not_after,
            addresses=(address,) if address else (),
        )
        self.hosts[name] = replace(record, host=host, key_hash=key_hash)

    async def renewed(self, name: str, serial: str, not_after: int) -> None:
        record = self.hosts[name]
        self.hosts[name] = replace(
            record, host=replace(record.host, serial=serial, not_after=not_after)
        )

    async def serial_denied(self, serial: str) -> bool:
        return serial in self.denied

    async def peer_trust_domains(self) -> dict[str, str]:
        return {offer.trust_domain: name for name, offer in self.peers.items()}

    async def peer_joined(self, name: str, offer: PeerOffer) -> None:
        self.peers[name] = offer

    async def audit(self, who: str, what: str, detail: str) -> None:
        self.audited.append((who, what, detail))


class Published:
    """A data plane that has everything at once, unless it is held up."""

    def __init__(self) -> None:
        self.asked, self.done = asyncio.Event(), asyncio.Event()
        self.done.set()

    async def __call__(self) -> None:
        self.asked.set()
        await self.done.wait()


class DirectCa:
    """The CA's rules without its process."""

    def __init__(self, ca: Ca) -> None:
        self.rules = ca

    async def sign(self, csr_der: bytes, spiffe_id: str, grade: Grade | None, ttl_s: int) -> Signed:
        return self.rules.sign(DAEMON, csr_der, spiffe_id, grade, ttl_s)

    async def sign_each(self, asked: Sequence[Asked]) -> list[Signed | ApplianceError]:
        return self.rules.sign_each(DAEMON, asked)


@dataclass(frozen=True)
class Need:
    key: str
    spiffe_id: str
    grade: Grade | None


async def leaf_of(ca: DirectCa, need: Need) -> Leaf:
    """Raises what the CA says."""
    (answer,) = await credentials.obtain_each(ca, [need], 3600)
    if isinstance(answer, ApplianceError):
        raise answer
    return answer.leaf


@dataclass
class Site1:
    """One running site."""

    site: Site
    store: FakeStore
    ca: DirectCa
    server: EnrolServer
    clock: Clock
    pin: bytes
    bundle_pem: str
    directory: Path
    published: Published

    @property
    def port(self) -> int:
        return self.server.ports[0]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add_host(self, name: str = "db1", identity: str = DB, ports: tuple[int, ...] = ()) -> str:
        """As `sluice host add --agent`: returns the code."""
        self.ca.rules.approve(ROOT, identity, Grade.KEY)
        account = identity.rpartition("/")[2]
        host = Host(name, "default", account, HostKind.AGENT, HostState.PENDING, Grade.KEY)
        self.store.hosts[name] = HostRecord(host, identity, ports=ports)
        return self.new_code(code.HOST, name)

    def new_code(self, purpose: str, subject: str) -> str:
        made, record = admit.new_code(purpose, subject, self.pin, int(self.clock()))
        self.store.codes[record.hash] = record
        return str(made)

    async def known(self) -> pinned.Site:
        return await asyncio.to_thread(pinned.fetch_site, "127.0.0.1", self.port, self.pin)

    async def post(self, path: str, body: dict[str, Any], *files: str) -> dict[str, Any]:
        return await asyncio.to_thread(pinned.post, await self.known(), path, body, *files)


def made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory


@asynccontextmanager
async def running_site(
    directory: Path, trust_domain: str = "a.example", agent: bytes = b"agent"
) -> AsyncIterator[Site1]:
    clock = Clock()
    site = site_of(trust_domain)
    authority = key.load_or_create(made(directory), trust_domain, int(clock()))
    table = Table(directory / "ca.db")
    ca = DirectCa(Ca(directory, authority, table, Roles(6410, 6413), "gw", clock))
    store = FakeStore()
    bundle = authority.bundle_pem
    published = Published()
    server = EnrolServer(site, store, ca, bundle, agent, published, clock, ("127.0.0.1",), 0)
    server.set_leaf(await leaf_of(ca, Need("own", site.appliance_id, None)))
    async with server:
        pin = authority.pin
        yield Site1(site, store, ca, server, clock, pin, bundle, directory, published)
    table.close()


class HostKey:
    """A host's key and CSR, as its agent would make them."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.csr_der = credentials.make_csr(self.key)

    @property
    def csr(self) -> str:
        return base64.b64encode(self.csr_der).decode()

    def files(self, directory: Path, chain_pem: str) -> tuple[str, str]:
        made(directory)
        (directory / "leaf.pem").write_text(chain_pem)
        (directory / "key.pem").write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(directory / "leaf.pem"), str(directory / "key.pem")
