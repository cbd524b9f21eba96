"""dns: mesh names answered, all else refused; no stranger's bytes do harm."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane import dns as mesh
from dataplane.snapshot import Name, Snapshot

FOUR, SIX = IPv4Address("198.19.0.1"), IPv6Address("fd53::1")
MANY = tuple(IPv4Address(0xC6130000 + number) for number in range(100))
ZONE = mesh.zone(
    Snapshot(
        version=1,
        trust_domain="a.example",
        zones=("mesh", "svc.cluster.local"),
        own_addresses=(IPv4Address("198.18.0.1"),),
        names=(
            Name("payments.default.mesh", (FOUR, SIX)),
            Name("old.default.mesh", (FOUR,)),
            Name("many.default.mesh", MANY),
            Name("payments.default.svc.cluster.local", (FOUR,)),
        ),
    )
)


def ask(name: str, kind: str = "A", stream: bool = False, **options: object) -> dns.message.Message:
    query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
    reply = mesh.answer(query.to_wire(), ZONE, stream)
    assert reply is not None
    message = dns.message.from_wire(reply.wire)
    assert message.id == query.id
    assert message.flags & dns.flags.QR
    assert not message.flags & dns.flags.RA
    assert reply.rcode == dns.rcode.to_text(message.rcode()).lower()
    return message


def texts(message: dns.message.Message) -> set[str]:
    return {str(each) for rrset in message.answer for each in rrset}


@pytest.mark.parametrize(
    ("name", "kind", "answers"),
    [
        ("payments.default.mesh", "A", {"198.19.0.1"}),
        ("PAYMENTS.Default.mesh", "A", {"198.19.0.1"}),
        ("payments.default.mesh", "AAAA", {"fd53::1"}),
        ("payments.default.mesh", "ANY", {"198.19.0.1"}),
        ("payments.default.svc.cluster.local", "A", {"198.19.0.1"}),
        ("mesh", "NS", {"ns.mesh."}),
        ("mesh", "SOA", {"ns.mesh. root.mesh. 1 3600 600 86400 5"}),
        ("ns.mesh", "A", {"198.18.0.1"}),
    ],
)
def test_mesh_names_are_answered(name: str, kind: str, answers: set[str]) -> None:
    message = ask(name, kind)
    assert message.rcode() == dns.rcode.NOERROR
    assert message.flags & dns.flags.AA
    assert texts(message) == answers
    assert {rrset.ttl for rrset in message.answer} == {mesh.TTL_S}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("old.default.mesh", "AAAA"),
        ("payments.default.mesh", "HTTPS"),
        ("payments.default.mesh", "TXT"),
        ("default.mesh", "A"),
        ("cluster.local.svc.cluster.local", "SOA"),
        ("mesh", "A"),
    ],
)
def test_no_data_and_no_name_come_with_the_soa(name: str, kind: str) -> None:
    message = ask(name, kind)
    exists = "cluster.local.svc" not in name
    assert message.rcode() == (dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN)
    assert message.answer == []
    (soa,) = message.authority
    assert soa.rdtype == dns.rdatatype.SOA
    assert soa.ttl == mesh.TTL_S


@pytest.mark.parametrize(
    ("name", "kind"),
    [("google.com", "A"), (".", "NS"), ("notmesh", "A"), ("xmesh", "A"), ("mesh", "AXFR"),
     ("10.0.18.198.in-addr.arpa", "PTR"), ("cluster.local", "A")],
)  # fmt: skip
def test_all_else_is_refused(name: str, kind: str) -> None:
    message = ask(name, kind)
    assert message.rcode() == dns.rcode.REFUSED
    assert message.answer == message.authority == []


def test_other_classes_are_refused() -> None:
    assert ask("payments.default.mesh", rdclass="CH").rcode() == dns.rcode.REFUSED


def test_too_much_for_a_datagram_is_cut_and_whole_by_stream() -> None:
    for options in ({}, {"use_edns": 0, "payload": 4096}, {"use_edns": 0, "payload": 100}):
        message = ask("many.default.mesh", **options)
        assert message.flags & dns.flags.TC
        assert message.answer == []
    assert len(texts(ask("many.default.mesh", stream=True))) == len(MANY)
    assert len(texts(ask("payments.default.mesh", use_edns=0, payload=512))) == 1


def test_edns_is_answered_with_edns_only_when_asked() -> None:
    assert ask("payments.default.mesh").edns == -1
    message = ask("payments.default.mesh", use_edns=0)
    assert (message.edns, message.payload) == (0, mesh.PAYLOAD_MAX)
    assert ask("payments.default.mesh", use_edns=1).rcode() == dns.rcode.BADVERS


def test_without_a_snapshot_the_server_has_failed() -> None:
    query = dns.message.make_query("payments.default.mesh", "A").to_wire()
    reply = mesh.answer(query, None, False)
    assert reply is not None
    assert reply.rcode == "servfail"


def test_other_operations_are_not_implemented() -> None:
    query = dns.message.make_query("payments.default.mesh", "A")
    query.set_opcode(dns.opcode.NOTIFY)
    reply = mesh.answer(query.to_wire(), ZONE, False)
    assert reply is not None
    assert reply.rcode == "notimp"


def test_a_reply_is_never_answered() -> None:
    query = dns.message.make_query("payments.default.mesh", "A")
    query.flags |= dns.flags.QR
    assert mesh.answer(query.to_wire(), ZONE, False) is None


GOOD = dns.message.make_query("payments.default.mesh", "A", use_edns=0, id=4711).to_wire()
TWO = GOOD[:5] + b"\x02" + GOOD[6:12] + GOOD[12:38] * 2 + GOOD[38:]


@pytest.mark.parametrize(
    "query",
    [
        GOOD[:12],
        GOOD[:20],
        GOOD + b"x",
        TWO,
        GOOD[:12] + b"\xc0\x0c" + GOOD[14:],
        GOOD[:12] + b"\x40" + GOOD[13:],
        GOOD + bytes(mesh.QUERY_BYTES_MAX),
        GOOD[:4] + b"\x00\x00" + GOOD[6:],
        GOOD[:7] + b"\x01" + GOOD[8:],
    ],
)
def test_what_is_malformed_gets_formerr_with_its_identifier(query: bytes) -> None:
    reply = mesh.answer(query, ZONE, False)
    assert reply is not None
    assert reply.rcode == "formerr"
    assert reply.wire[:2] == query[:2]


@pytest.mark.parametrize("size", range(12))
def test_less_than_a_header_is_dropped(size: int) -> None:
    assert mesh.answer(GOOD[:size], ZONE, False) is None


@given(st.binary(max_size=300))
def test_garbage_never_raises(query: bytes) -> None:
    mesh.answer(query, ZONE, False)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_damage_never_raises_and_replies_are_readable(changes: list[tuple[int, int]]) -> None:
    query = bytearray(GOOD)
    for at, value in changes:
        query[at] = value
    reply = mesh.answer(bytes(query), ZONE, False)
    if reply is not None:
        assert len(reply.wire) <= mesh.PAYLOAD_MAX
        assert dns.message.from_wire(reply.wire).flags & dns.flags.QR


@pytest.mark.parametrize("name", ["a..mesh", "x" * 64 + ".mesh", ".".join(["abcdefgh"] * 40)])
def test_names_that_are_none_are_refused_at_publish(name: str) -> None:
    with pytest.raises(ValueError, match="DNS"):
        mesh.zone(Snapshot(version=1, trust_domain="a", names=(Name(name, (FOUR,)),)))
