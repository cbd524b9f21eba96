"""events: numbers and layout as in the header; good records decoded, bad ones refused."""

from __future__ import annotations

import re
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane import binding, events, snapshot
from dataplane._native import ffi, lib
from tests.unit.dataplane.material import ROOT

HEADER = (ROOT / "native" / "include" / "dp.h").read_text(encoding="utf-8")


def numbers(prefix: str) -> dict[str, int]:
    """Every enum constant with the prefix, as the compiler sees it."""
    names = set(re.findall(rf"\b{prefix}(\w+)\s*=", HEADER))
    return {name: getattr(lib, prefix + name) for name in names}


@pytest.mark.parametrize(
    ("enum", "prefix", "other"),
    [
        (events.EventKind, "DP_EVENT_", ()),
        (events.FlowKind, "DP_FLOW_", ()),
        (events.RecordLayer, "DP_RECORD_", ()),
        (events.Reason, "DP_REASON_", ("COUNT",)),
        (events.Fallback, "DP_FALLBACK_", ("COUNT",)),
        (snapshot.Prefer, "DP_PREFER_", ()),
        (snapshot.Tls12, "DP_TLS12_", ()),
        (snapshot.Grade, "DP_GRADE_", ()),
        (snapshot.EndpointKind, "DP_ENDPOINT_", ()),
        (snapshot.Balance, "DP_BALANCE_", ()),
        (snapshot.MtlsMode, "DP_MTLS_", ()),
        (snapshot.SourceAddress, "DP_SOURCE_", ()),
        (snapshot.Part, "DP_PART_", ()),
        (snapshot.Field, "DP_FIELD_", ()),
        (snapshot.MatchOp, "DP_MATCH_", ()),
    ],
)
def test_enums_are_the_headers(enum: type, prefix: str, other: tuple[str, ...]) -> None:
    header = {name: n for name, n in numbers(prefix).items() if name not in other}
    assert header == {member.name: member.value for member in enum}  # type: ignore[attr-defined]


def test_actions_are_the_headers() -> None:
    assert (lib.DP_ALLOW, lib.DP_DENY) == (snapshot.Action.ALLOW, snapshot.Action.DENY)


def test_names_are_natives() -> None:
    for reason in events.Reason:
        assert binding.reason_name(reason) == reason.name.lower()
    for fallback in events.Fallback:
        assert binding.fallback_name(fallback) == fallback.name.lower()
    for cipher, name in events.CIPHERS.items():
        assert binding.cipher_name(cipher) == name


def record(texts: tuple[str, ...] = ("", "", "", "", ""), **fields: object) -> bytes:
    """A record as the C compiler lays it out."""
    head = ffi.new("dp_event *")
    head.kind = lib.DP_EVENT_CLOSE
    tail = b""
    for name, text in zip(
        ("src_id", "dst_id", "service", "endpoint", "detail"), texts, strict=True
    ):
        data = text.encode()
        setattr(head, f"{name}_len", len(data))
        tail += data
    tail += bytes(-(ffi.sizeof("dp_event") + len(tail)) % 8)
    for name, value in fields.items():
        if isinstance(value, bytes):
            ffi.buffer(getattr(head, name))[:] = value
        else:
            setattr(head, name, value)
    if "size" not in fields:
        head.size = ffi.sizeof("dp_event") + len(tail)
    return bytes(ffi.buffer(head)) + tail


def test_every_field_comes_through() -> None:
    assert ffi.sizeof("dp_event") == events.HEAD_BYTES
    data = record(
        (
            "spiffe://a/ns/x/sa/y",
            "spiffe://b/ns/x/sa/z",
            "db.default",
            "b",
            "AuthorizationPolicy p",
        ),
        worker=3,
        time_ns=1 << 60,
        flow_id=bytes(range(16)),
        src_addr=bytes(10) + b"\xff\xff\xc6\x12\x00\x0a",
        dst_addr=ip_address("2001:db8::1").packed,
        peer_addr=ip_address("2001:db8::2").packed,
        src_port=1,
        dst_port=2,
        peer_port=65535,
        flow=1,
        grade=2,
        down_layer=1,
        up_layer=4,
        down_tls=0,
        up_tls=0x0304,
        down_cipher=0,
        up_cipher=0x1301,
        reason=5,
        resumed=2,
        retries=7,
        down_fallback=1,
        up_fallback=9,
        bytes_up=11,
        bytes_down=12,
        connect_ns=13,
        duration_ns=14,
    )
    (event,) = events.decode(data, "dp-1")
    assert event == events.FlowEvent(
        process="dp-1",
        kind=events.EventKind.CLOSE,
        worker=3,
        time_ns=1 << 60,
        flow_id=bytes(range(16)).hex(),
        src=ip_address("198.18.0.10"),
        src_port=1,
        dst=ip_address("2001:db8::1"),
        dst_port=2,
        peer=ip_address("2001:db8::2"),
        peer_port=65535,
        flow=events.FlowKind.OUTBOUND,
        grade=snapshot.Grade.L2,
        down_layer=events.RecordLayer.SPLICE,
        up_layer=events.RecordLayer.KTLS,
        down_tls="",
        up_tls="TLSv1.3",
        down_cipher="",
        up_cipher="TLS_AES_128_GCM_SHA256",
        reason=events.Reason.DENIED,
        down_resumed=False,
        up_resumed=True,
        retries=7,
        down_fallback=events.Fallback.NO_KERNEL_TLS,
        up_fallback=events.Fallback.PEER,
        bytes_up=11,
        bytes_down=12,
        connect_ns=13,
        duration_ns=14,
        src_id="spiffe://a/ns/x/sa/y",
        dst_id="spiffe://b/ns/x/sa/z",
        service="db.default",
        endpoint="b",
        detail="AuthorizationPolicy p",
    )


def test_records_end_to_end() -> None:
    data = record(("a", "bb", "ccc", "", "")) + record(kind=lib.DP_EVENT_OPEN) + record()
    kinds = [event.kind.name for event in events.decode(data, "dp-1")]
    assert kinds == ["CLOSE", "OPEN", "CLOSE"]


@pytest.mark.parametrize(
    "data",
    [
        record()[:-1],
        record()[:40],
        record(size=0),
        record(size=4096),
        record(size=events.HEAD_BYTES - 8),
        record(size=events.HEAD_BYTES + 1) + bytes(8),
        record(src_id_len=9),
        record(kind=99),
        record(reason=999),
        record(grade=9),
        record(down_layer=9),
    ],
)
def test_bad_records_are_refused(data: bytes) -> None:
    with pytest.raises(events.EventError):
        list(events.decode(data, "dp-1"))


@given(st.binary(max_size=600))
def test_garbage_raises_event_error_only(data: bytes) -> None:
    try:
        list(events.decode(data, "dp-1"))
    except events.EventError:
        return
