"""appliance.api.peering and conversation: two daemons over real mTLS on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import grpc
import pytest

from appliance.api import conversation, peering, tls
from appliance.api._gen import peering_pb2 as pb
from appliance.api._gen import peering_pb2_grpc
from appliance.api.auth import Revoked
from appliance.api.conversation import Conversation, Facts, denied_of, services_of
from appliance.api.peering import Peering
from appliance.errors import ApplianceError, InvalidInput, LimitReached, Unavailable
from appliance.rate import Rate
from appliance.registry.model import ImportedService, Peer, ServicePort
from dataplane.snapshot import Address, Leaf
from tests.unit.appliance.api.pki import Pki

A, B = Pki("a.example"), Pki("b.example")
WEB = ImportedService("web", "default", (ServicePort(80, 80),),
                      ("spiffe://b.example/ns/default/sa/web",))  # fmt: skip


NOTHING = Facts("a.example", "")


class Notes:
    """A Book that writes down."""

    def __init__(self) -> None:
        self.exports: dict[str, tuple[ImportedService, ...]] = {}
        self.bundles: dict[str, str] = {}
        self.denied: dict[str, Any] = {}
        self.heard: dict[str, int] = {}
        self.moved: dict[str, tuple[tuple[Address, ...], int]] = {}
        self.published = True

    def greeted(self, peer: str, addresses: tuple[Address, ...], port: int) -> None:
        self.moved[peer] = addresses, port

    def exports_heard(self, peer: str, services: tuple[ImportedService, ...]) -> None:
        self.exports[peer] = services

    def bundle_heard(self, peer: str, trust_domain: str, pem: str) -> None:
        self.bundles[peer] = pem

    def revocations_heard(
        self, peer: str, trust_domain: str, denied: tuple[tuple[str | None, str | None], ...]
    ) -> None:
        self.denied[peer] = denied

    def in_force(self) -> bool:
        return self.published

    def acknowledged(self, peer: str, last: int) -> None:
        self.heard[peer] = last


class Side:
    """One site's daemon, as far as peering goes."""

    def __init__(self, pki: Pki, name: str) -> None:
        self.pki, self.name = pki, name
        self.leaf: Leaf | None = pki.appliance("edge")
        self.facts = Facts(pki.trust_domain, pki.bundle, ("198.18.255.1",), 15008)
        self.book = Notes()
        self.revoked = Revoked()
        self.peering = Peering(
            pki.trust_domain, lambda: self.facts, self.book, lambda: self.leaf, lambda: self.revoked
        )
        self.port = 0

    async def listen(self) -> None:
        await self.peering.serve([f"127.0.0.1:{self.port}"])

    def tell(self, **changes: Any) -> None:
        self.facts = replace(self.facts, **changes)
        self.peering.changed()

    def peer(self, appliance: str = "edge") -> Peer:
        """As the other side knows this one."""
        here = ip_address("127.0.0.1")
        return Peer(
            self.name, self.pki.trust_domain, self.pki.bundle, (here,), 15008, here,
            self.port or 1, appliance=appliance,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def sites() -> AsyncIterator[tuple[Side, Side]]:
    """a dials (its trust domain sorts first), b listens."""
    a, b = Side(A, "a"), Side(B, "b")
    with socket.socket() as bound:  # b's port is nobody else's, also while b does not listen
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        b.port = bound.getsockname()[1]
        await b.listen()
        try:
            yield a, b
        finally:
            await a.peering.close()
            await b.peering.close()


def meet(a: Side, b: Side) -> None:
    b.peering.set_peers([a.peer()])
    a.peering.set_peers([b.peer()])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peering, "_PAUSE_MIN_S", 0.01)
    monkeypatch.setattr(peering, "_PAUSE_MAX_S", 0.05)
    monkeypatch.setattr(conversation, "KEEPALIVE_S", 0.05)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_revocation_is_acknowledged_when_it_is_in_force_and_not_before() -> None:
    async with sites() as (a, b):
        meet(a, b)
        await eventually(lambda: a.peering.connected("b") and b.peering.connected("a"))
        a.book.published = False
        b.tell(denied=(("ab12", None),), denied_last=7)
        await eventually(lambda: bool(a.book.denied["b"]))
        a.tell(bundle_pem="NEW")  # said after it would have been
        await eventually(lambda: b.book.bundles["a"] == "NEW")
        assert b.book.heard.get("a", 0) == 0
        a.book.published = True
        a.peering.changed()
        await eventually(lambda: b.book.heard["a"] == 7)


async def test_both_sides_tell_what_they_have_and_what_changes() -> None:
    async with sites() as (a, b):
        b.tell(exports=(WEB,), denied=(("ab12", None),), denied_last=7)
        meet(a, b)
        await eventually(lambda: a.peering.connected("b") and b.peering.connected("a"))
        assert a.book.exports == {"b": (WEB,)}
        assert b.book.exports == {"a": ()}
        assert a.book.bundles == {"b": B.bundle}
        assert a.book.denied == {"b": (("ab12", None),)}
        await eventually(lambda: b.book.heard == {"a": 7})
        identity = "spiffe://b.example/ns/default/sa/web"
        b.tell(denied=(("ab12", None), (None, identity)), denied_last=9)
        await eventually(lambda: b.book.heard == {"a": 9})
        assert a.book.denied["b"][1] == (None, identity)
        a.tell(bundle_pem="NEW")
        await eventually(lambda: b.book.bundles.get("a") == "NEW")
        assert a.peering.detail("b") == ""


async def test_a_peer_says_where_it_is_now() -> None:
    async with sites() as (a, b):
        b.facts = replace(b.facts, mesh_addresses=("198.18.255.9", "fd53::9"), mesh_port=15_999)
        meet(a, b)
        await eventually(lambda: a.peering.connected("b"))
        assert a.book.moved["b"] == ((ip_address("198.18.255.9"), ip_address("fd53::9")), 15_999)


@pytest.mark.parametrize(
    ("addresses", "port"),
    [
        (["127.0.0.1"], 1),
        (["198.18.0.1"], 0),
        (["nowhere"], 1),
        (["198.18.0.1"] * 17, 1),
        (["198.18.255.2", "::ffff:198.18.255.2"], 1),
        (["::ffff:127.0.0.1"], 1),
        (["::ffff:0.0.0.0"], 1),
        (["fe80::1%eth0"], 1),
        (["169.254.169.254"], 1),
    ],
)
async def test_a_peer_is_nowhere_that_cannot_be(addresses: list[str], port: int) -> None:
    hello = pb.Hello(version=1, trust_domain="b.example", mesh_addresses=addresses, mesh_port=port)
    heard = Notes()
    with pytest.raises((InvalidInput, LimitReached)):
        await Conversation("b", "b.example", lambda: NOTHING, heard).listen(
            _said([pb.Word(hello=hello)])
        )
    assert heard.moved == {}


async def test_what_no_peer_may_say_is_counted_and_not_kept() -> None:
    async with sites() as (a, b):
        b.facts = replace(b.facts, mesh_addresses=("::ffff:198.18.255.9",), mesh_port=15_999)
        meet(a, b)
        await eventually(lambda: a.peering.malformed > 0)
        assert a.book.moved == {}
        assert "write 198.18.255.9" in a.peering.detail("b")


def test_an_export_fits_into_a_snapshot() -> None:
    """However its ports and identities multiply."""
    ports = [pb.Port(number=number) for number in range(1, 257)]
    names = [f"spiffe://b.example/ns/default/sa/{'a' * 200}" for _ in range(64)]
    large = pb.Service(name="a", namespace="b", ports=ports, identities=names)
    services_of(pb.Exports(services=[large]))
    with pytest.raises(LimitReached, match="than a snapshot can hold"):
        services_of(pb.Exports(services=[large] * 3))
    many = [
        pb.Service(
            name=f"s{number}", namespace="b", ports=ports[:1], identities=[WEB.identities[0]]
        )
        for number in range(conversation.SERVICES_MAX)
    ]
    assert len(services_of(pb.Exports(services=many))) == conversation.SERVICES_MAX


def test_a_ports_name_and_protocol_are_words() -> None:
    port = pb.Port(number=1, protocol="\x1b[2J", name="x\ny")
    (said,) = services_of(pb.Exports(services=[pb.Service(name="a", namespace="b", ports=[port])]))
    assert said.ports == (ServicePort(1, 1, "tcp", ""),)


def test_nobody_denies_a_whole_trust_domain() -> None:
    with pytest.raises(InvalidInput, match="whole trust domain"):
        denied_of(pb.Revocations(denied=[pb.Denied(spiffe_id="spiffe://b.example")]), "b.example")


async def test_who_says_too_much_is_heard_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peering, "WORDS", Rate(burst=20, per_second=0.001))
    async with sites() as (a, b):
        meet(a, b)
        await eventually(lambda: a.peering.connected("b"))
        await eventually(lambda: a.peering.held_back == b.peering.held_back == 1)
        assert a.peering.connected("b")  # for now: silence ends it


async def test_a_cut_link_heals() -> None:
    async with sites() as (a, b):
        meet(a, b)
        await eventually(lambda: a.peering.connected("b"))
        await b.peering.close()
        await eventually(lambda: not a.peering.connected("b"))
        assert a.peering.detail("b")
        again = Side(B, "b")
        again.port, again.facts = b.port, replace(b.facts, exports=(WEB,))
        await again.listen()
        again.peering.set_peers([a.peer()])
        await eventually(lambda: a.peering.connected("b"))
        assert a.book.exports["b"] == (WEB,)
        await again.peering.close()


async def test_a_removed_peer_is_refused_from_then_on() -> None:
    async with sites() as (a, b):
        meet(a, b)
        await eventually(lambda: a.peering.connected("b"))
        b.peering.set_peers([])
        await eventually(lambda: not a.peering.connected("b"))
        a.book.exports.clear()
        b.tell(exports=(WEB,))
        await eventually(lambda: "connect" in a.peering.detail("b"))  # the handshake fails
        assert a.book.exports == {}


@pytest.mark.parametrize(
    "leaf",
    [
        A.leaf("/ns/default/sa/web"),
        A.appliance("other"),
        B.forged("spiffe://a.example/sluice/appliance/edge"),
    ],
    ids=["a workload's", "another appliance's", "another CA's"],
)
async def test_who_is_not_the_peers_appliance_is_refused_and_counted(leaf: Leaf) -> None:
    async with sites() as (a, b):
        a.leaf = leaf
        meet(a, b)
        # Its own bundle is among the roots of a handshake, so that only the check after tells.
        b.peering.set_peers([a.peer(), replace(b.peer(), name="c", trust_domain="c.example")])
        await eventually(lambda: b.peering.refused > 0)
        assert not b.peering.connected("a")
        assert b.book.exports == {}


async def test_a_server_that_is_not_the_peers_appliance_is_not_talked_to() -> None:
    async with sites() as (a, b):
        b.peering.set_peers([a.peer()])
        a.peering.set_peers([b.peer(appliance="another")])
        await eventually(lambda: "not connected yet" not in a.peering.detail("b"))
        assert not a.peering.connected("b")
        assert a.book.exports == {}


async def test_a_revoked_appliance_is_refused() -> None:
    async with sites() as (a, b):
        assert a.leaf is not None
        b.revoked = Revoked(ids=[a.leaf.spiffe_id])
        meet(a, b)
        await eventually(lambda: b.peering.refused > 0)
        assert not b.peering.connected("a")


async def shown_by(port: int) -> bytes:
    """The certificate that a listener shows, DER."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return shown


async def test_a_renewed_leaf_is_shown_without_listening_anew() -> None:
    async with sites() as (_, b):
        for leaf in (b.leaf, B.appliance("edge")):
            assert leaf is not None
            b.leaf = leaf
            assert ssl.DER_cert_to_PEM_cert(await shown_by(b.port)) == leaf.chain_pem


def test_a_listener_without_a_leaf_is_said() -> None:
    with pytest.raises(Unavailable, match="no certificate yet"):
        tls.server_credentials(lambda: None, lambda: "")


# -- what is said ----------------------------------------------------------------------------


async def _said(words: list[pb.Word]) -> AsyncIterator[pb.Word]:
    for word in words:
        yield word


def talk() -> tuple[Conversation, Notes]:
    book = Notes()
    facts = Facts("a.example", A.bundle, denied_last=5)
    return Conversation("b", "b.example", lambda: facts, book), book


HELLO = pb.Word(hello=pb.Hello(version=1, trust_domain="b.example"))


@pytest.mark.parametrize(
    "words",
    [
        [pb.Word(keepalive=pb.Keepalive())],
        [HELLO, HELLO],
        [pb.Word()],
        [pb.Word(hello=pb.Hello(version=0, trust_domain="b.example"))],
        [pb.Word(hello=pb.Hello(version=1, trust_domain="a.example"))],
        [HELLO, pb.Word(revocations=pb.Revocations(denied=[pb.Denied()]))],
        [HELLO, pb.Word(revocations=pb.Revocations(denied=[pb.Denied(serial="xyz")]))],
        [
            HELLO,
            pb.Word(
                revocations=pb.Revocations(
                    denied=[pb.Denied(spiffe_id="spiffe://a.example/ns/default/sa/web")]
                )
            ),
        ],
    ],
)
async def test_what_no_peer_may_say_ends_the_conversation(words: list[pb.Word]) -> None:
    conversation, book = talk()
    with pytest.raises(InvalidInput):
        await conversation.listen(_said(words))
    assert (book.exports, book.denied) == ({}, {})


async def test_silence_ends_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "SILENCE_MAX_S", 0.05)

    async def silent() -> AsyncIterator[pb.Word]:
        yield HELLO
        await asyncio.Event().wait()

    with pytest.raises(Unavailable, match="said nothing"):
        await talk()[0].listen(silent())


async def test_nobody_has_heard_more_than_was_said() -> None:
    conversation, book = talk()
    await conversation.listen(_said([HELLO, pb.Word(heard=pb.Heard(last=10**9))]))
    assert book.heard == {"b": 5}


def service(**changes: Any) -> pb.Service:
    fields: dict[str, Any] = {"name": "web", "namespace": "default", "ports": [pb.Port(number=80)]}
    return pb.Service(**{**fields, **changes})


@pytest.mark.parametrize(
    "bad",
    [
        service(name="A"),
        service(namespace=""),
        service(ports=[]),
        service(ports=[pb.Port(number=65536)]),
        service(ports=[pb.Port(number=1)] * 300),
        service(identities=["spiffe://b.example/a"] * 65),
        service(identities=["http://b.example"]),
        service(subsets=["a.b"]),
    ],
)
def test_malformed_services_are_refused(bad: pb.Service) -> None:
    with pytest.raises(ApplianceError):
        services_of(pb.Exports(services=[bad]))


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "SERVICES_MAX", 1)
    monkeypatch.setattr(conversation, "DENIED_MAX", 1)
    with pytest.raises(LimitReached):
        services_of(pb.Exports(services=[service(), service(name="b")]))
    with pytest.raises(LimitReached):
        denied_of(pb.Revocations(denied=[pb.Denied(serial="a")] * 2), "b.example")


async def test_a_stub_without_a_certificate_gets_nothing() -> None:
    async with sites() as (a, b):
        meet(a, b)
        credentials = grpc.ssl_channel_credentials(B.bundle.encode())
        options = [("grpc.ssl_target_name_override", "edge.sluice.b.example")]
        where = f"127.0.0.1:{b.port}"
        async with grpc.aio.secure_channel(where, credentials, options=options) as channel:
            call = peering_pb2_grpc.PeeringStub(channel).Converse(_said([HELLO]))
            with pytest.raises(grpc.aio.AioRpcError):
                await anext(aiter(call))


async def test_a_link_that_swallows_everything_is_tried_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody answers the handshake: as behind a cut that nobody was told of."""
    monkeypatch.setattr(conversation, "SILENCE_MAX_S", 0.2)
    monkeypatch.setattr(peering, "SILENCE_MAX_S", 0.2)
    tried: list[socket.socket] = []
    a, b = Side(A, "a"), Side(B, "b")
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        silent.setblocking(False)
        b.port = silent.getsockname()[1]

        def tried_often() -> bool:
            with contextlib.suppress(BlockingIOError):
                tried.append(stack.enter_context(silent.accept()[0]))
            return len(tried) >= 3

        a.peering.set_peers([b.peer()])
        try:
            await eventually(tried_often)
            assert a.peering.detail("b")
        finally:
            await a.peering.close()
