"""Binary event records (dp_event in native/include/dp.h) to frozen values.

Pure: bytes in, FlowEvents out; both the data plane's process and its client may import it, since
it needs no cffi. A test holds its numbers and its layout against the header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address
from typing import Any

from dataplane.snapshot import Address, Grade


class EventKind(IntEnum):
    OPEN = 1  # established end to end
    UPDATE = 2  # a live stream's totals
    CLOSE = 3  # an established stream ended
    REFUSED = 4  # never established
    EJECTED = 5  # an endpoint was put aside: service, peer address, duration_ns
    RETURNED = 6


class FlowKind(IntEnum):
    LOCAL = 0
    OUTBOUND = 1
    INBOUND = 2


class RecordLayer(IntEnum):
    PLAIN = 0
    SPLICE = 1
    OPENSSL = 2
    USER = 3
    KTLS = 4
    NIC = 5


class Reason(IntEnum):
    NONE = 0
    NO_ROUTE = 1
    OWN_ADDRESS = 2
    UNIDENTIFIED = 3
    GRADE = 4
    DENIED = 5
    NO_ENDPOINT = 6
    CONNECT_FAILED = 7
    CONNECT_TIMEOUT = 8
    LIMIT = 9
    POOL_FULL = 10
    HANDSHAKE = 11
    HANDSHAKE_TIMEOUT = 12
    PEER_IDENTITY = 13
    REVOKED = 14
    EXPIRED = 15
    BAD_HEADER = 16
    FORGED_HEADER = 17
    BAD_REPLY = 18
    REMOTE = 19
    IDLE_TIMEOUT = 20
    DURATION = 21
    DRAIN = 22
    RESET = 23
    TRUNCATED = 24
    REAUTHORIZED = 25
    INTERNAL = 26
    NO_IDENTITY = 27


class Fallback(IntEnum):
    """Why a leg's records are not where the offload profile would have them."""

    NONE = 0
    NO_KERNEL_TLS = 1
    SOCKET = 2
    KERNEL_CIPHER = 3
    CIPHER = 4
    READ_AHEAD = 5
    MEMORY = 6
    HALF = 7
    VERSION = 8
    PEER = 9
    NO_DEVICE = 10
    KEY_UPDATE = 11
    SMALL = 12
    DEARER = 13
    BUSY = 14
    LINK_CHANGED = 15  # in the kernel since the NIC's link was lost
    SEALS_ONLY = 16  # the NIC seals, the kernel opens
    IN_DOUBT = 17


TLS_VERSIONS = {0: "", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}

# IANA's "TLS Cipher Suites", those that tls.c offers.
CIPHERS = {
    0: "",
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
    0xC02B: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    0xC02C: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    0xC02F: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    0xC030: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    0xCCA8: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    0xCCA9: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
}


class EventError(ValueError):
    """Not whole, well-formed event records."""


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """One record. Empty text = not known. Bytes are payload only, cumulative for the stream."""

    process: str  # "dp-3": which data plane process
    kind: EventKind
    worker: int
    time_ns: int  # CLOCK_REALTIME
    flow_id: str  # hex; the same at both ends of a mesh link
    src: Address  # client
    src_port: int
    dst: Address  # original target
    dst_port: int
    peer: Address  # next hop
    peer_port: int
    flow: FlowKind
    grade: Grade  # of the source
    down_layer: RecordLayer
    up_layer: RecordLayer
    down_tls: str  # "" = plain
    up_tls: str
    down_cipher: str
    up_cipher: str
    reason: Reason
    down_resumed: bool
    up_resumed: bool
    retries: int
    down_fallback: Fallback
    up_fallback: Fallback
    bytes_up: int  # client to service
    bytes_down: int
    connect_ns: int  # accept until established
    duration_ns: int
    src_id: str
    dst_id: str
    service: str
    endpoint: str
    detail: str  # why, e.g. the policy that denied


# Native byte order, no implied padding: the x's are the compiler's.
_HEAD = struct.Struct("=IHHQ16s16s16s16sHHHBBBBHHHHHBBBBQQQQHHHHH6x")
HEAD_BYTES = _HEAD.size


def decode(data: bytes, process: str) -> Iterator[FlowEvent]:
    """The events of whole records laid end to end. Raises EventError at the first bad one."""
    at = 0
    while at < len(data):
        if len(data) - at < HEAD_BYTES:
            raise EventError(f"{len(data) - at} bytes left, a record has at least {HEAD_BYTES}")
        head = _HEAD.unpack_from(data, at)
        size, lengths = head[0], head[-5:]
        if size % 8 or not HEAD_BYTES + sum(lengths) <= size <= len(data) - at:
            raise EventError(f"a record of {size} bytes in {len(data) - at}")
        yield _event(process, head, _texts(data, at + HEAD_BYTES, lengths))
        at += size


def _texts(data: bytes, at: int, lengths: tuple[int, ...]) -> list[str]:
    texts = []
    for length in lengths:
        texts.append(data[at : at + length].decode("utf-8", "replace"))
        at += length
    return texts


def _address(packed: bytes) -> Address:
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _event(process: str, head: tuple[Any, ...], texts: list[str]) -> FlowEvent:
    (_, kind, worker, time_ns, flow_id, src, dst, peer, src_port, dst_port, peer_port, flow,
     grade, down_layer, up_layer, down_tls, up_tls, down_cipher, up_cipher, reason, resumed,
     retries, down_fallback, up_fallback, bytes_up, bytes_down, connect_ns, duration_ns,
     *_) = head  # fmt: skip
    src_id, dst_id, service, endpoint, detail = texts
    try:
        return FlowEvent(
            process=process,
            kind=EventKind(kind),
            worker=worker,
            time_ns=time_ns,
            flow_id=flow_id.hex(),
            src=_address(src),
            src_port=src_port,
            dst=_address(dst),
            dst_port=dst_port,
            peer=_address(peer),
            peer_port=peer_port,
            flow=FlowKind(flow),
            grade=Grade(grade),
            down_layer=RecordLayer(down_layer),
            up_layer=RecordLayer(up_layer),
            down_tls=TLS_VERSIONS.get(down_tls, f"0x{down_tls:04x}"),
            up_tls=TLS_VERSIONS.get(up_tls, f"0x{up_tls:04x}"),
            down_cipher=CIPHERS.get(down_cipher, f"0x{down_cipher:04x}"),
            up_cipher=CIPHERS.get(up_cipher, f"0x{up_cipher:04x}"),
            reason=Reason(reason),
            down_resumed=bool(resumed & 1),
            up_resumed=bool(resumed & 2),
            retries=retries,
            down_fallback=Fallback(down_fallback),
            up_fallback=Fallback(up_fallback),
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            connect_ns=connect_ns,
            duration_ns=duration_ns,
            src_id=src_id,
            dst_id=dst_id,
            service=service,
            endpoint=endpoint,
            detail=detail,
        )
    except ValueError as error:
        raise EventError(str(error)) from error
