"""What DNS answers: mesh names, and REFUSED at once for all else, so that hosts keep their
resolver and delegate only the mesh's zones.

Pure: a query's bytes and a Zone in, the reply's bytes out; sockets are dns_server's. Never
recurses, never forwards. RFC 1035, 2308 (negative answers), 6891 (EDNS), 8020 (NXDOMAIN means
nothing below), 8482 (ANY).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from dataplane.snapshot import Address, Snapshot

TTL_S = 5  # short: a virtual IP moves only with its service, but it may come and go
QUERY_BYTES_MAX = 4096
PAYLOAD_MAX = 1232  # what we send by UDP: no fragments (DNS flag day 2020)
PAYLOAD_MIN = 512
_HEADER_BYTES = 12


@dataclass(frozen=True, slots=True)
class Zone:
    """The names of one snapshot, ready to be looked up; names compare without case."""

    apexes: tuple[dns.name.Name, ...] = ()
    addresses: Mapping[dns.name.Name, tuple[Address, ...]] = field(default_factory=dict)
    existing: frozenset[dns.name.Name] = frozenset()  # also those that only have names below


@dataclass(frozen=True, slots=True)
class Reply:
    wire: bytes
    rcode: str  # for the counters: "noerror", "nxdomain", "refused", …


def zone(snapshot: Snapshot) -> Zone:
    """Raises ValueError when a name is not a DNS name."""
    try:
        apexes = tuple(dns.name.from_text(each) for each in snapshot.zones)
        addresses = {dns.name.from_text(n.name): n.addresses for n in snapshot.names}
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ValueError(f"DNS: {error}") from error
    for apex in apexes:
        # The server that NS and SOA name: we ourselves, unless a service has that name.
        addresses.setdefault(_server(apex), snapshot.own_addresses)
    return Zone(apexes, addresses, frozenset(_with_parents(addresses, apexes)))


def _server(apex: dns.name.Name) -> dns.name.Name:
    return dns.name.Name((b"ns", *apex.labels))


def _with_parents(
    names: Iterable[dns.name.Name], apexes: tuple[dns.name.Name, ...]
) -> set[dns.name.Name]:
    existing = set(apexes)
    for name in names:
        while name not in existing and name != dns.name.root:
            existing.add(name)
            name = name.parent()
    return existing


def answer(query: bytes, where: Zone | None, stream: bool) -> Reply | None:
    """The reply to one message that a stranger sent, or None when it deserves none.

    where: None = no snapshot yet. stream: by TCP, so that size is no matter.
    """
    if len(query) < _HEADER_BYTES or query[2] & 0x80:
        return None  # no identifier to answer to; or an answer itself, and two servers would loop
    if len(query) > QUERY_BYTES_MAX:
        return _bare(query, dns.rcode.FORMERR)
    try:
        message = dns.message.from_wire(query)
    except Exception:  # whatever a parser may throw at a stranger's bytes, it is their fault
        return _bare(query, dns.rcode.FORMERR)
    if message.opcode() != dns.opcode.QUERY:
        return _bare(query, dns.rcode.NOTIMP)
    if len(message.question) != 1 or message.answer or message.authority:
        return _bare(query, dns.rcode.FORMERR)
    if message.edns > 0:
        message.use_edns(0, payload=message.payload)
        return _finish(_response(message), dns.rcode.BADVERS, message, stream)
    response = _response(message)
    rcode = dns.rcode.SERVFAIL if where is None else _fill(response, message.question[0], where)
    return _finish(response, rcode, message, stream)


def _response(query: dns.message.Message) -> dns.message.Message:
    response = dns.message.make_response(query, our_payload=PAYLOAD_MAX)
    response.flags &= ~dns.flags.CD
    return response


def _fill(response: dns.message.Message, question: dns.rrset.RRset, where: Zone) -> dns.rcode.Rcode:
    name, kind = question.name, question.rdtype
    apex = next((each for each in where.apexes if name.is_subdomain(each)), None)
    transfer = kind in (dns.rdatatype.AXFR, dns.rdatatype.IXFR)
    if apex is None or question.rdclass != dns.rdataclass.IN or transfer:
        return dns.rcode.REFUSED
    response.flags |= dns.flags.AA
    soa = _record(dns.rdatatype.SOA, f"{_server(apex)} root.{apex} 1 3600 600 86400 {TTL_S}")
    if name not in where.existing:
        response.authority.append(_rrset(apex, [soa]))
        return dns.rcode.NXDOMAIN
    # ANY gets one kind of what there is: that is enough (RFC 8482).
    wanted = dns.rdatatype.A if kind == dns.rdatatype.ANY else kind
    found = [
        _record(of, str(address))
        for address in where.addresses.get(name, ())
        if (of := dns.rdatatype.A if address.version == 4 else dns.rdatatype.AAAA) == wanted
    ]
    if name == apex and kind == dns.rdatatype.SOA:
        found.append(soa)
    elif name == apex and kind == dns.rdatatype.NS:
        found.append(_record(dns.rdatatype.NS, str(_server(apex))))
    if found:
        response.answer.append(_rrset(name, found))
    else:
        response.authority.append(_rrset(apex, [soa]))
    return dns.rcode.NOERROR


def _record(kind: dns.rdatatype.RdataType, text: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(dns.rdataclass.IN, kind, text)


def _rrset(name: dns.name.Name, records: list[dns.rdata.Rdata]) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, TTL_S, records)


def _finish(
    response: dns.message.Message, rcode: dns.rcode.Rcode, query: dns.message.Message, stream: bool
) -> Reply:
    response.set_rcode(rcode)
    limit = 65535
    if not stream:
        asked = query.payload if query.edns >= 0 else PAYLOAD_MIN
        limit = min(max(asked, PAYLOAD_MIN), PAYLOAD_MAX)
    try:
        wire = response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        response.answer, response.authority = [], []
        response.flags |= dns.flags.TC
        wire = response.to_wire(max_size=limit)
    return Reply(wire, dns.rcode.to_text(rcode).lower())


def _bare(query: bytes, rcode: dns.rcode.Rcode) -> Reply:
    """A header alone: identifier, operation and RD as they came."""
    identifier, flags = struct.unpack_from("!HH", query)
    flags = 0x8000 | (flags & 0x7900) | rcode
    return Reply(
        struct.pack("!HHHHHH", identifier, flags, 0, 0, 0, 0), dns.rcode.to_text(rcode).lower()
    )
