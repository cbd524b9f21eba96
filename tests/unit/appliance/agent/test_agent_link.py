"""The link protocol in Python: as the C side speaks it, and strict with what it reads."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.agent import link

CORPUS = Path(__file__).resolve().parents[3] / "fuzz" / "corpus"
ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6)
PORTS = st.integers(0, 65535)
FLOWS = st.binary(min_size=16, max_size=16)


def plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


@given(ADDRESSES, PORTS, ADDRESSES, PORTS, FLOWS, st.binary(max_size=20))
def test_headers_are_read_back(source, source_port, target, target_port, flow, rest) -> None:
    header = link.Header(plain(source), source_port, plain(target), target_port, flow)
    data = link.encode_header(header)
    assert link.decode_header(data + rest) == (header, len(data))
    for cut in range(len(data)):
        assert link.decode_header(data[:cut]) is None


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=255)


@given(st.integers(0, link.REASON_COUNT - 1), FLOWS, PRINTABLE, st.sampled_from([1, 2]))
def test_replies_are_read_back(reason: int, flow: bytes, detail: str, version: int) -> None:
    data = link.encode_reply(link.Reply(reason, flow, detail), version)
    expected = link.Reply(reason, flow, detail if version == 2 else "")
    assert link.decode_reply(data + b"payload", version) == (expected, len(data))
    for cut in range(len(data)):
        assert link.decode_reply(data[:cut], version) is None


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    for decode in (link.decode_header, lambda d: link.decode_reply(d, 2)):
        for given_bytes in (data, b"\r\n\r\n\0\r\nQUIT\n" + data, b"SL\x02\x00" + data):
            try:
                decode(given_bytes)
            except link.Malformed:
                continue


GOOD = link.encode_header(
    link.Header(ip_address("198.18.0.5"), 40000, ip_address("198.19.0.1"), 80, b"f" * 16)
)


def changed(at: int, value: bytes) -> bytes:
    return GOOD[:at] + value + GOOD[at + len(value) :]


@pytest.mark.parametrize(
    "bad",
    [
        changed(0, b"G"),
        changed(12, b"\x20"),  # LOCAL: no addresses
        changed(12, b"\x11"),  # PROXY version 1's number
        changed(13, b"\x12"),  # UDP
        changed(13, b"\x31"),  # a Unix socket
        changed(14, b"\xff\xff"),  # longer than we read
        changed(14, b"\x00\x0b"),  # too short for its addresses
        changed(14, b"\x00\x0d"),  # a field is cut off
        changed(29, b"\x00\x11"),  # the flow id is longer than what is left
        GOOD[:14] + b"\x00\x32" + GOOD[16:] + GOOD[28:],  # two flow ids
    ],
)
def test_malformed_headers(bad: bytes) -> None:
    with pytest.raises(link.Malformed):
        link.decode_header(bad)


REPLY = link.encode_reply(link.Reply(5, b"f" * 16, "no"), 2)


@pytest.mark.parametrize(
    "bad",
    [
        b"HTTP/1.1 400 Bad",
        REPLY[:2] + b"\x01" + REPLY[3:],
        REPLY[:3] + b"\x01" + REPLY[4:],
        REPLY[:4] + b"\x00\x1b" + REPLY[6:],
        REPLY[:4] + b"\xff\xff" + REPLY[6:],
        REPLY[:-1] + b"\x1b",
    ],
)
def test_malformed_replies(bad: bytes) -> None:
    with pytest.raises(link.Malformed):
        link.decode_reply(bad, 2)


def test_a_reason_of_a_newer_peer_is_a_refusal() -> None:
    data = link.encode_reply(link.Reply(link.REASON_COUNT + 5, b"f" * 16), 2)
    assert link.decode_reply(data, 2) == (link.Reply(link.REMOTE, b"f" * 16), link.REPLY_FIXED)


def test_every_reason_has_a_text_and_the_c_sides_number() -> None:
    header = (Path(__file__).resolve().parents[4] / "native/include/dp.h").read_text()
    assert f"DP_REASON_COUNT = {link.REASON_COUNT}" in header
    assert len(link.REASON_TEXT) == link.REASON_COUNT
    for name in ("NO_ROUTE", "CONNECT_FAILED", "BAD_HEADER", "POOL_FULL", "REMOTE"):
        assert f"DP_REASON_{name} = {getattr(link, name)}," in header


@pytest.mark.parametrize("path", sorted((CORPUS / "link").iterdir()), ids=lambda p: p.name)
def test_the_c_sides_corpus_breaks_nothing(path: Path) -> None:
    try:
        found = link.decode_header(path.read_bytes())
    except link.Malformed:
        return
    assert found is None or found[1] <= link.HEADER_MAX
