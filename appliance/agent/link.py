"""The link protocol's two messages, as native/src/link.c has them: bytes in, bytes out; no I/O.

Header: PROXY v2 (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt section 2.2) with a
unique ID. Reply: magic 2, version 1, zero 1, size 2, reason 2, capabilities 4, flow id 16, detail.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Union

Address = Union[IPv4Address, IPv6Address]  # noqa: UP007 - evaluated, and Python 3.9

HEADER_MAX = 536
REPLY_FIXED = 28
DETAIL_MAX = 255
FLOW_BYTES = 16
ALPN = ("sluice-l4/2", "sluice-l4/1")

# Of enum dp_reason (native/include/dp.h); the numbers cross the link and never change.
CONNECTED = 0
NO_ROUTE = 1
CONNECT_FAILED = 7
CONNECT_TIMEOUT = 8
POOL_FULL = 10
PEER_IDENTITY = 13
BAD_HEADER = 16
REASON_COUNT = 28
REMOTE = 19

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY, _LOCAL = 0x21, 0x20
_TCP4, _TCP6 = 0x11, 0x21
_UNIQUE_ID = 0x05


class Malformed(ValueError):
    """What came is not the link protocol."""


@dataclass(frozen=True)
class Header:
    source: Address
    source_port: int
    target: Address
    target_port: int
    flow_id: bytes = bytes(FLOW_BYTES)


@dataclass(frozen=True)
class Reply:
    reason: int
    flow_id: bytes
    detail: str = ""


def _plain(address: Address) -> Address:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _wide(address: Address) -> bytes:
    mapped = bytes(10) + b"\xff\xff"
    return mapped + address.packed if isinstance(address, IPv4Address) else address.packed


def encode_header(header: Header) -> bytes:
    source, target = _plain(header.source), _plain(header.target)
    if isinstance(source, IPv4Address) and isinstance(target, IPv4Address):
        family, addresses = _TCP4, source.packed + target.packed
    else:
        family, addresses = _TCP6, _wide(source) + _wide(target)
    body = addresses + struct.pack("!HH", header.source_port, header.target_port)
    body += struct.pack("!BH", _UNIQUE_ID, FLOW_BYTES) + header.flow_id
    return _SIGNATURE + struct.pack("!BBH", _PROXY, family, len(body)) + body


def decode_header(data: bytes) -> tuple[Header, int] | None:
    """The header and its length; None = more is needed. Raises Malformed."""
    seen = min(len(data), len(_SIGNATURE))
    if data[:seen] != _SIGNATURE[:seen]:
        raise Malformed("no PROXY v2 signature")
    if len(data) < 16:
        return None
    command, family, size = struct.unpack("!BBH", data[12:16])
    if command == _LOCAL:
        raise Malformed("a PROXY header without addresses")
    if command != _PROXY or family not in (_TCP4, _TCP6) or 16 + size > HEADER_MAX:
        raise Malformed("not a PROXY v2 header for TCP, or one that is too long")
    width = 4 if family == _TCP4 else 16
    if size < 2 * width + 4:
        raise Malformed("a PROXY header that is too short")
    if len(data) < 16 + size:
        return None
    body = data[16 : 16 + size]
    ports = struct.unpack("!HH", body[2 * width : 2 * width + 4])
    header = Header(
        source=_plain(ip_address(body[:width])),
        source_port=ports[0],
        target=_plain(ip_address(body[width : 2 * width])),
        target_port=ports[1],
        flow_id=_flow_id(body[2 * width + 4 :]),
    )
    return header, 16 + size


def _flow_id(tlvs: bytes) -> bytes:
    found = None
    while tlvs:
        if len(tlvs) < 3:
            raise Malformed("a PROXY field that is cut off")
        kind, size = struct.unpack("!BH", tlvs[:3])
        if size > len(tlvs) - 3:
            raise Malformed("a PROXY field that is cut off")
        if kind == _UNIQUE_ID:
            if found is not None or size != FLOW_BYTES:
                raise Malformed("a flow id that is malformed")
            found = tlvs[3 : 3 + size]
        tlvs = tlvs[3 + size :]
    return found or bytes(FLOW_BYTES)


def encode_reply(reply: Reply, version: int) -> bytes:
    detail = b""
    if version >= 2:
        text = "".join(c if " " <= c <= "~" else "?" for c in reply.detail)
        detail = text.encode("ascii")[:DETAIL_MAX]
    head = struct.pack("!2sBBHHI", b"SL", version, 0, REPLY_FIXED + len(detail), reply.reason, 0)
    return head + reply.flow_id + detail


def decode_reply(data: bytes, version: int) -> tuple[Reply, int] | None:
    """The reply and its length; None = more is needed. Raises Malformed."""
    expected = b"SL" + bytes([version, 0])
    seen = min(len(data), len(expected))
    if data[:seen] != expected[:seen]:
        raise Malformed("no link reply of this version")
    if len(data) < 6:
        return None
    (size,) = struct.unpack("!H", data[4:6])
    if not REPLY_FIXED <= size <= REPLY_FIXED + (DETAIL_MAX if version >= 2 else 0):
        raise Malformed("a link reply of an impossible size")
    if len(data) < size:
        return None
    (reason,) = struct.unpack("!H", data[6:8])
    detail = data[REPLY_FIXED:size]
    if any(not 0x20 <= c <= 0x7E for c in detail):
        raise Malformed("a link reply with unprintable text")
    if reason >= REASON_COUNT:  # of a newer peer: a refusal all the same
        reason = REMOTE
    return Reply(reason, data[12:28], detail.decode("ascii")), size


REASON_TEXT = (
    "connected", "no such service", "own address", "source has no identity", "grade too weak",
    "denied by policy", "no healthy endpoint", "connect failed", "connect timeout",
    "connection limit", "appliance is full", "TLS handshake failed", "TLS handshake timeout",
    "identity not as expected", "revoked", "expired", "bad header", "forged header", "bad reply",
    "refused by the far side", "idle", "too long", "draining", "reset", "truncated",
    "permission withdrawn", "internal error", "no identity in use",
)  # fmt: skip
