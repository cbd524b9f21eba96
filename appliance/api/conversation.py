"""What two sites' daemons say to each other over one stream: the same on either side.

Owns the order of words, what is sent when, and what is believed of what is heard: only statements
about the speaker's own trust domain. Opens no connection (peering.py) and keeps nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from appliance.api._gen import peering_pb2 as pb
from appliance.enroll.admit import reachable
from appliance.errors import InvalidInput, LimitReached, Unavailable
from appliance.identity import is_label, parse
from appliance.registry.model import ImportedService, ServicePort
from appliance.registry.revocations import is_serial
from appliance.tasks import woken
from dataplane.snapshot import Address

VERSION = 1
KEEPALIVE_S = 5.0
SILENCE_MAX_S = 15.0
SERVICES_MAX = 10_000
PORTS_MAX = 256
NAMES_MAX = 64  # identities or subsets of a service
# What its services come to in a snapshot, for each of its addresses: each port is a service there,
# with a set of endpoints that names all identities.
EXPORT_BYTES_MAX = 8 << 20
PORT_BYTES = 512
DENIED_MAX = 65_536
ADDRESSES_MAX = 16


@dataclass(frozen=True, slots=True)
class Facts:
    """What we have to tell."""

    trust_domain: str
    bundle_pem: str = field(repr=False)
    mesh_addresses: tuple[str, ...] = ()
    mesh_port: int = 0
    exports: tuple[ImportedService, ...] = ()
    denied: tuple[tuple[str | None, str | None], ...] = ()  # serial, SPIFFE ID
    denied_last: int = 0


class Book(Protocol):
    """Where what a peer tells is kept."""

    def greeted(self, peer: str, addresses: tuple[Address, ...], port: int) -> None:
        """Where its mesh listener is now."""
        ...

    def exports_heard(self, peer: str, services: tuple[ImportedService, ...]) -> None: ...

    def bundle_heard(self, peer: str, trust_domain: str, pem: str) -> None:
        """Raises InvalidInput when it is no bundle of this trust domain."""
        ...

    def revocations_heard(
        self, peer: str, trust_domain: str, denied: tuple[tuple[str | None, str | None], ...]
    ) -> None: ...

    def in_force(self) -> bool:
        """Whether the data plane does what was heard so far."""
        ...

    def acknowledged(self, peer: str, last: int) -> None:
        """The peer has our revocations up to this one in force."""
        ...


class Conversation:
    """One stream with one peer, which is authenticated already."""

    def __init__(
        self, peer: str, trust_domain: str, facts: Callable[[], Facts], book: Book
    ) -> None:
        self.peer, self.trust_domain = peer, trust_domain
        self._facts, self._book = facts, book
        self._wake = asyncio.Event()
        self._heard: int | None = None  # revocations to acknowledge
        self.settled = asyncio.Event()  # its exports came

    def changed(self) -> None:
        """We may have something new to tell: facts, or that what was heard is in force."""
        self._wake.set()

    async def speak(self) -> AsyncIterator[pb.Word]:
        """Everything, then changes, then keepalives; ends only when it is closed."""
        facts = self._facts()
        hello = pb.Hello(
            version=VERSION,
            trust_domain=facts.trust_domain,
            mesh_addresses=facts.mesh_addresses,
            mesh_port=facts.mesh_port,
        )
        yield pb.Word(hello=hello)
        said: Facts | None = None
        while True:
            self._wake.clear()
            facts, silent = self._facts(), True
            for word in self._news(said, facts):
                silent = False
                yield word
            said = facts
            if silent:
                yield pb.Word(keepalive=pb.Keepalive())
            await woken(self._wake, KEEPALIVE_S)

    def _news(self, said: Facts | None, facts: Facts) -> Iterable[pb.Word]:
        if said is None or said.bundle_pem != facts.bundle_pem:
            yield pb.Word(bundle=pb.Bundle(pem=facts.bundle_pem))
        if said is None or said.denied != facts.denied or said.denied_last != facts.denied_last:
            yield pb.Word(revocations=_revocations(facts))
        if said is None or said.exports != facts.exports:
            yield pb.Word(exports=pb.Exports(services=map(_service, facts.exports)))
        if self._heard is not None and self._book.in_force():
            heard, self._heard = self._heard, None
            yield pb.Word(heard=pb.Heard(last=heard))

    async def listen(self, words: AsyncIterator[pb.Word]) -> None:
        """Until the peer ends it. Raises Unavailable when it says nothing for too long,
        InvalidInput or LimitReached for what no peer may say."""
        first = True
        while True:
            try:
                async with asyncio.timeout(SILENCE_MAX_S):
                    word = await anext(words)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Unavailable(
                    f"{self.peer} has said nothing for {SILENCE_MAX_S:.0f} s"
                ) from None
            what = word.WhichOneof("what")
            if first != (what == "hello"):
                raise InvalidInput(f"{self.peer} spoke out of order")
            if first:
                self._greeted(word.hello)
                first = False
            self._take(what, word)

    def _greeted(self, hello: pb.Hello) -> None:
        if hello.version < 1:
            raise InvalidInput(f"{self.peer} speaks version {hello.version} of peering")
        if hello.trust_domain != self.trust_domain:
            raise InvalidInput(f"{self.peer} says it is {hello.trust_domain[:80]}")
        if hello.mesh_addresses:
            self._book.greeted(self.peer, *listener_of(hello))

    def _take(self, what: str | None, word: pb.Word) -> None:
        if what == "exports":
            self._book.exports_heard(self.peer, services_of(word.exports))
            self.settled.set()
        elif what == "bundle":
            self._book.bundle_heard(self.peer, self.trust_domain, word.bundle.pem)
        elif what == "revocations":
            denied = denied_of(word.revocations, self.trust_domain)
            self._book.revocations_heard(self.peer, self.trust_domain, denied)
            self._heard = word.revocations.last
            self.changed()
        elif what == "heard":
            self._book.acknowledged(self.peer, min(word.heard.last, self._facts().denied_last))


def listener_of(hello: pb.Hello) -> tuple[tuple[Address, ...], int]:
    """Raises LimitReached, InvalidInput."""
    if len(hello.mesh_addresses) > ADDRESSES_MAX:
        raise LimitReached(f"a peer has more than {ADDRESSES_MAX} addresses")
    if not 1 <= hello.mesh_port <= 65535:
        raise InvalidInput(f"a peer listens on {hello.mesh_port}, which is no port")
    return reachable(hello.mesh_addresses), hello.mesh_port


def services_of(exports: pb.Exports) -> tuple[ImportedService, ...]:
    """Raises LimitReached or InvalidInput; whom the identities belong to is compile's to judge."""
    if len(exports.services) > SERVICES_MAX:
        raise LimitReached(f"a peer exports more than {SERVICES_MAX} services")
    found: dict[str, ImportedService] = {}
    size = 0
    for each in exports.services:
        size += len(each.ports) * (PORT_BYTES + sum(map(len, each.identities)))
        if size > EXPORT_BYTES_MAX:
            raise LimitReached("a peer exports more ports and identities than a snapshot can hold")
        sound = (
            is_label(each.name)
            and is_label(each.namespace)
            and 0 < len(each.ports) <= PORTS_MAX
            and all(1 <= port.number <= 65535 for port in each.ports)
            and len(each.identities) <= NAMES_MAX
            and len(each.subsets) <= NAMES_MAX
            and all(map(is_label, each.subsets))
        )
        if not sound:
            raise InvalidInput(f"a peer's service {each.name[:80]!r} is malformed")
        for identity in each.identities:
            parse(identity)
        service = ImportedService(
            name=each.name,
            namespace=each.namespace,
            ports=tuple(
                ServicePort(p.number, p.number, _word(p.protocol) or "tcp", _word(p.name))
                for p in each.ports
            ),
            identities=tuple(each.identities),
            subsets=tuple(each.subsets),
            healthy=each.healthy,
        )
        found[service.key] = service
    return tuple(found[key] for key in sorted(found))


def _word(text: str) -> str:
    """A protocol's or port's name, for people to read; else none."""
    return text if is_label(text) else ""


def denied_of(
    revocations: pb.Revocations, trust_domain: str
) -> tuple[tuple[str | None, str | None], ...]:
    """Raises LimitReached, and InvalidInput when the peer denies what is not its own."""
    if len(revocations.denied) > DENIED_MAX:
        raise LimitReached(f"a peer denies more than {DENIED_MAX} leaves and identities")
    found: list[tuple[str | None, str | None]] = []
    for each in revocations.denied:
        if bool(each.serial) == bool(each.spiffe_id):
            raise InvalidInput("a peer denies neither a serial nor an identity")
        if each.serial and not is_serial(each.serial):
            raise InvalidInput("a peer denies a malformed serial")
        identity = parse(each.spiffe_id) if each.spiffe_id else None
        if identity is not None and not identity.path:
            raise InvalidInput("a peer denies its whole trust domain")
        if identity is not None and identity.trust_domain != trust_domain:
            raise InvalidInput(f"a peer of {trust_domain} denies another's {each.spiffe_id[:80]}")
        found.append((each.serial or None, each.spiffe_id or None))
    return tuple(found)


def _service(service: ImportedService) -> pb.Service:
    return pb.Service(
        name=service.name,
        namespace=service.namespace,
        ports=[pb.Port(number=p.number, protocol=p.protocol, name=p.name) for p in service.ports],
        identities=service.identities,
        subsets=service.subsets,
        healthy=service.healthy,
    )


def _revocations(facts: Facts) -> pb.Revocations:
    return pb.Revocations(
        last=facts.denied_last,
        denied=[pb.Denied(serial=serial or "", spiffe_id=id or "") for serial, id in facts.denied],
    )
