"""The wire audit: is anything readable on the link between the sites?

Owns the judgement, over frames that somebody captured. It reassembles each TCP direction, checks
that it is TLS records from its first byte to its last, looks for the payloads' markers in every
frame and every reassembled stream, and lists what else was on the wire. Captures nothing itself;
see `capture`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

# Neighbour discovery, router solicitation and multicast listener reports: no payload of anybody's.
ICMPV6_PERMITTED = {130, 131, 132, 133, 134, 135, 136, 143}
ICMP_PERMITTED = {3: "ICMP unreachable", 11: "ICMP time exceeded"}
TLS_RECORD_TYPES = {20, 21, 22, 23}
TLS_RECORD_BYTES_MAX = 16384 + 256  # RFC 8446 section 5.2


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of one TCP connection."""

    source: str
    source_port: int
    target: str
    target_port: int

    def __str__(self) -> str:
        return f"{self.source}:{self.source_port} > {self.target}:{self.target_port}"


@dataclass(slots=True)
class _Stream:
    start: int | None = None  # sequence number of the first payload byte
    parts: dict[int, bytes] = field(default_factory=dict)  # by offset from start


@dataclass(frozen=True, slots=True)
class Report:
    frames: int
    tls_streams: int
    tls_bytes: int
    permitted: tuple[tuple[str, int], ...]  # what else was there, and how often
    problems: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.problems


def audit(frames: Iterable[bytes], markers: Sequence[bytes]) -> Report:
    """Judges Ethernet frames, in the order they were captured. markers: bytes that hosts sent."""
    streams: dict[Flow, list[_Stream]] = {}  # one after the other on the same addresses and ports
    permitted: Counter[str] = Counter()
    problems: list[str] = []
    number = 0
    for number, frame in enumerate(frames, 1):
        for marker in markers:
            if marker in frame:
                problems.append(f"frame {number} carries the payload {_show(marker)} in clear")
        packet = Ether(frame)
        if TCP in packet:
            _collect(packet, streams)
            continue
        what, allowed = _other(packet)
        if allowed:
            permitted[what] += 1
        else:
            problems.append(f"frame {number} is {what}, which nothing here should send")
    total = 0
    every = [(flow, stream) for flow, held in streams.items() for stream in held]
    for flow, stream in every:
        data, hole = _join(stream)
        if hole is not None:
            problems.append(f"{flow}: byte {hole} was not captured, so the stream cannot be judged")
        for marker in markers:
            if marker in data:
                problems.append(f"{flow} carries the payload {_show(marker)} in clear")
        fault = _not_tls(data)
        if fault:
            problems.append(f"{flow} is not TLS: {fault}")
        total += len(data)
    return Report(
        frames=number,
        tls_streams=sum(1 for _, stream in every if stream.parts),
        tls_bytes=total,
        permitted=tuple(sorted(permitted.items())),
        problems=tuple(dict.fromkeys(problems)),
    )


def _show(marker: bytes) -> str:
    return marker[:24].decode("ascii", "backslashreplace")


def _collect(packet: Packet, streams: dict[Flow, list[_Stream]]) -> None:
    network = packet[IP] if IP in packet else packet[IPv6]
    segment = packet[TCP]
    flow = Flow(network.src, segment.sport, network.dst, segment.dport)
    held = streams.setdefault(flow, [])
    first = segment.seq
    if segment.flags.S:
        first = (segment.seq + 1) & 0xFFFFFFFF
        # The same SYN once more, before anything was sent, is no second stream.
        if not held or held[-1].start != first or held[-1].parts:
            held.append(_Stream(start=first))
    elif not held:
        held.append(_Stream())
    payload = _payload(network, segment)
    stream = held[-1]
    if not payload:
        return
    if stream.start is None:
        stream.start = first
    offset = (first - stream.start) & 0xFFFFFFFF
    if offset >= 1 << 31:  # before the start: a keep-alive probe repeats one byte
        return
    known = stream.parts.get(offset, b"")
    if len(payload) > len(known):
        stream.parts[offset] = payload


def _payload(network: Packet, segment: Packet) -> bytes:
    """The segment's bytes, without the padding of a short Ethernet frame."""
    if isinstance(network, IP):
        length = network.len - network.ihl * 4 - segment.dataofs * 4
    else:
        length = network.plen - segment.dataofs * 4
    data = bytes(segment.payload)
    # A length of 0 in the header is an offloaded super-frame (BIG TCP): all of it is payload.
    return data[:length] if 0 <= length <= len(data) else data


def _join(stream: _Stream) -> tuple[bytes, int | None]:
    """The stream's bytes up to the first hole, and where that is."""
    joined = bytearray()
    for offset in sorted(stream.parts):
        part = stream.parts[offset]
        if offset > len(joined):
            return bytes(joined), len(joined)
        if offset + len(part) > len(joined):
            joined += part[len(joined) - offset :]
    return bytes(joined), None


def _not_tls(data: bytes) -> str | None:
    """Why data is not a sequence of TLS records, or None. An incomplete last record is one, as far
    as what is there of its header says so."""
    at = 0
    while at < len(data):
        header = data[at : at + 5]
        kind, length = header[0], int.from_bytes(header[3:].ljust(2, b"\0"), "big")
        if (
            kind not in TLS_RECORD_TYPES
            or header[1:2] not in (b"", b"\x03")
            or length > TLS_RECORD_BYTES_MAX
        ):
            return f"no record header at byte {at}"
        if at == 0 and kind not in (21, 22):
            return "it does not begin with a handshake"
        at += 5 + length
    if 0 < len(data) < 5:
        return f"it ends after {len(data)} bytes, before its first record's header"
    return None


def _other(packet: Packet) -> tuple[str, bool]:
    """What a frame that is not TCP is, and whether it may be there."""
    if ARP in packet:
        return "ARP", True
    if ICMP in packet:
        kind = packet[ICMP].type
        return ICMP_PERMITTED.get(kind, f"ICMP type {kind}"), kind in ICMP_PERMITTED
    if IPv6 in packet and packet[IPv6].nh in (0, 58):
        kind = _icmpv6_type(packet)
        return (
            f"ICMPv6 type {kind} (neighbour discovery)"
            if kind in ICMPV6_PERMITTED
            else f"ICMPv6 type {kind}"
        ), kind in ICMPV6_PERMITTED
    if UDP in packet:
        return f"UDP to port {packet[UDP].dport}", False
    return f"EtherType {packet.type:#06x}" if hasattr(packet, "type") else "no Ethernet", False


def _icmpv6_type(packet: Packet) -> int:
    """The type, also behind a hop-by-hop header (multicast listener reports); -1 = none."""
    payload = bytes(packet[IPv6].payload)
    if packet[IPv6].nh == 58:
        return payload[0] if payload else -1
    if len(payload) >= 2 and payload[0] == 58:
        at = (payload[1] + 1) * 8
        return payload[at] if len(payload) > at else -1
    return -1
