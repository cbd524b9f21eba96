"""The wire audit must find plaintext however it is cut up, and nothing else."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from appliance.demo.audit import audit

MARKER = b"sluice-demo-marker-7f3a"
ISN = 0xFFFFFFF0  # close to the end, so that the numbers wrap


def segment(seq: int, data: bytes, flags: str = "PA") -> bytes:
    packet = Ether() / IP(src="198.18.255.1", dst="198.18.255.2")
    packet /= TCP(sport=40000, dport=15008, seq=seq & 0xFFFFFFFF, flags=flags)
    return bytes(packet / Raw(data)) if data else bytes(packet)


def stream(*parts: bytes) -> list[bytes]:
    frames, seq = [segment(ISN, b"", "S")], ISN + 1
    for part in parts:
        frames.append(segment(seq, part))
        seq += len(part)
    return frames


def record(kind: int, data: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(data).to_bytes(2, "big") + data


TLS = record(22, b"h" * 60) + record(23, b"\x91" * 500)


def test_tls_and_arp_are_clean() -> None:
    report = audit([*stream(TLS[:31], TLS[31:]), bytes(Ether() / ARP())], [MARKER])
    assert report.clean
    assert (report.tls_streams, report.tls_bytes) == (1, len(TLS))
    assert report.permitted == (("ARP", 1),)


@pytest.mark.parametrize("cut", [1, 7, len(MARKER) - 1])
def test_marker_cut_in_two_is_found(cut: int) -> None:
    body = record(22, b"h") + record(23, b"x" * 10 + MARKER)
    at = len(body) - len(MARKER) + cut
    report = audit(stream(body[:at], body[at:]), [MARKER])
    assert any("in clear" in problem for problem in report.problems)


def test_out_of_order_and_repeated_segments_are_joined() -> None:
    first, second, third = TLS[:100], TLS[100:200], TLS[200:]
    frames = stream(first, second, third)
    report = audit([frames[0], frames[2], frames[1], frames[2], frames[3]], [MARKER])
    assert report.clean
    assert report.tls_bytes == len(TLS)


def test_a_hole_cannot_be_judged() -> None:
    frames = stream(TLS[:100], TLS[100:200], TLS[200:])
    report = audit([frames[0], frames[1], frames[3]], [])
    assert any("was not captured" in problem for problem in report.problems)


@pytest.mark.parametrize("again", [ISN, ISN + 5000])
def test_a_second_stream_on_the_same_ports_hides_nothing_of_the_first(again: int) -> None:
    clear = b"nothing that is marked, but clear"
    later = [segment(again, b"", "S"), segment(again + 1, TLS)]
    assert any("is not TLS" in each for each in audit([*stream(clear), *later], []).problems)
    tidy = audit([*stream(TLS), *later], [])
    assert tidy.clean
    assert tidy.tls_streams == 2


def test_a_syn_that_is_sent_again_is_no_second_stream() -> None:
    report = audit([segment(ISN, b"", "S"), *stream(TLS)], [])
    assert (report.clean, report.tls_streams) == (True, 1)


def test_bytes_of_a_syn_are_judged_too() -> None:
    assert not audit([segment(ISN, b"clear at once", "S")], []).clean


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        record(23, b"a" * 9),
        TLS + b"hello!",
        b"hi",
        b"\x16",
        TLS[:4],
        TLS + b"h",
        TLS + b"\x17\x04",
    ],
)
def test_what_is_not_tls_is_named(data: bytes) -> None:
    assert any("is not TLS" in problem for problem in audit(stream(data), []).problems)


def test_udp_is_not_permitted() -> None:
    frame = bytes(Ether() / IP(dst="198.18.255.2") / UDP(dport=53) / Raw(b"x"))
    assert audit([frame], []).problems == (
        "frame 1 is UDP to port 53, which nothing here should send",
    )
