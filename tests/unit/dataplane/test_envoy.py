"""Envoy, whose TLS is not OpenSSL's, as the peer of our records: it opens mesh links to the engine
and takes ours, in TLS 1.3 and 1.2, with each suite that it has, full and resumed."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from appliance.agent import link
from dataplane import binding, events
from dataplane import snapshot as s
from perf.peers.envoy import API, binary
from perf.pki import Authority, Pair
from perf.process import readable_by_nobody
from tests.unit.dataplane.material import DEADLINE_S, until

OURS, THEIRS = Authority("a.bench"), Authority("b.bench")
WEB, SERVICE = "ns/default/sa/web", "ns/default/sa/echo"
HOST, VIP = "127.0.1.1", "127.77.0.1"
ALPN, VERSION = "sluice-l4/2", 2
BULK = bytes(range(256)) * 4096


@dataclass(frozen=True)
class Case:
    """What Envoy is set to and what comes of it; the engine's profile prefers the same version."""

    name: str
    tls: str
    cipher: str  # of TLS 1.2, as Envoy calls it; TLS 1.3's it chooses itself
    result: str

    @property
    def tls12(self) -> bool:
        return self.tls == "TLSv1_2"

    def params(self) -> dict[str, Any]:
        limits = {f"tls_{end}_protocol_version": self.tls for end in ("minimum", "maximum")}
        return limits | ({"cipher_suites": [self.cipher]} if self.cipher else {})


CASES = (
    Case("tls13", "TLSv1_3", "", "TLS_AES_128_GCM_SHA256"),
    Case(
        "tls12-128",
        "TLSv1_2",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    ),
    Case(
        "tls12-256",
        "TLSv1_2",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    ),
)


def listen(address: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((address, 0), backlog=16)


def free_ports(count: int) -> list[int]:
    held = [listen() for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def at(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def envoys_tls(case: Case, kind: str, own: Pair, **more: Any) -> dict[str, Any]:
    common = {
        "tls_params": case.params(),
        "alpn_protocols": [ALPN],
        "tls_certificates": [
            {
                "certificate_chain": {"inline_string": own.certificate},
                "private_key": {"inline_string": own.key},
            }
        ],
        "validation_context": {"trusted_ca": {"inline_string": OURS.bundle}},
    }
    config = {
        "@type": f"{API}.transport_sockets.tls.v3.{kind}",
        "common_tls_context": common,
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": config | more}


def envoys_part(name: str, port: int, target: int, **more: Any) -> tuple[Any, Any]:
    """A listener and its cluster; down, up: transport sockets."""
    proxy = {
        "@type": f"{API}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name,
        "cluster": name,
    }
    chain = {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}
    cluster = {
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(target)}}]}],
        },
    }
    chain |= {"transport_socket": more["down"]} if "down" in more else {}
    cluster |= {"transport_socket": more["up"]} if "up" in more else {}
    return {"name": name, "address": at(port), "filter_chains": [chain]}, cluster


def echo(accepted: socket.socket, is_link: bool) -> None:
    """Everything back, and the end after the end; behind the link protocol if Envoy ends TLS."""
    with accepted:
        if is_link:
            data = b""
            while (found := link.decode_header(data)) is None:
                data += accepted.recv(65536)
            accepted.sendall(link.encode_reply(link.Reply(0, found[0].flow_id), VERSION))
            accepted.sendall(data[found[1] :])
        while data := accepted.recv(65536):
            accepted.sendall(data)


def serve(server: socket.socket, is_link: bool) -> None:
    while True:
        try:
            accepted, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=echo, args=(accepted, is_link), daemon=True).start()


class Bench:
    """An engine, Envoy before and behind it, and the service."""

    def __init__(self, directory: Path) -> None:
        self._service, self._far = listen(), listen()
        self.transparent, mesh = listen("0.0.0.0"), listen()
        self.port = self.transparent.getsockname()[1]
        self.sni = f"_.{self.port}.echo.default.a.bench"
        ports = free_ports(2 * len(CASES))
        self.to_engine = dict(zip(CASES, ports[: len(CASES)], strict=True))
        self.to_envoy = dict(zip(CASES, ports[len(CASES) :], strict=True))
        for server, is_link in ((self._service, False), (self._far, True)):
            threading.Thread(target=serve, args=(server, is_link), daemon=True).start()
        self.engine = binding.Engine(
            binding.Settings(workers=1, streams_max=64, sessions_max=16, pin=False)
        )
        self.engine.add_transparent(self.transparent.fileno(), 0)
        self.engine.add_mesh(mesh.fileno(), 0)
        self.engine.start()
        self._certificates, self._version = binding.Certificates(), 0
        path = readable_by_nobody(
            directory / "envoy.json", json.dumps(self._config(mesh.getsockname()[1]))
        )
        mesh.close()
        self._envoy = subprocess.Popen(
            (
                *(binary(), "-c", str(path), "--concurrency", "1"),
                *("--disable-hot-restart", "--log-level", "error"),
            )
        )
        until(lambda: all(map(self._is_open, ports)), "Envoy's listeners")

    def _is_open(self, port: int) -> bool:
        assert self._envoy.poll() is None, "Envoy ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def _config(self, mesh_port: int) -> dict[str, Any]:
        parts = []
        client = THEIRS.leaf(WEB, "l2")
        server = THEIRS.leaf(SERVICE)
        for case in CASES:
            up = envoys_tls(case, "UpstreamTlsContext", client, sni=self.sni, max_session_keys=1)
            down = envoys_tls(case, "DownstreamTlsContext", server, require_client_certificate=True)
            name = f"{case.name}-client"
            parts.append(envoys_part(name, self.to_engine[case], mesh_port, up=up))
            far_port = self._far.getsockname()[1]
            name = f"{case.name}-server"
            parts.append(envoys_part(name, self.to_envoy[case], far_port, down=down))
        listeners, clusters = zip(*parts, strict=True)
        return {"static_resources": {"listeners": listeners, "clusters": clusters}}

    def publish(self, case: Case, prefer: s.Prefer) -> None:
        def leaf(key: str, path: str, grade: str = "") -> s.Leaf:
            pair = OURS.leaf(path, grade)
            return s.Leaf(key, f"spiffe://a.bench/{path}", pair.certificate, pair.key)

        here = s.Endpoint(
            "here", s.EndpointKind.PLAIN, IPv4Address("127.0.0.1"), self._service.getsockname()[1]
        )
        there = s.Endpoint(
            "there",
            s.EndpointKind.MESH,
            IPv4Address("127.0.0.1"),
            self.to_envoy[case],
            sni="_.5432.echo.default.b.bench",
            expected=(f"spiffe://b.bench/{SERVICE}",),
        )
        self._version += 1
        snapshot = s.Snapshot(
            version=self._version,
            trust_domain="a.bench",
            bundles=(s.Bundle("a.bench", OURS.bundle), s.Bundle("b.bench", THEIRS.bundle)),
            leaves=(leaf("web", WEB, "l2"), leaf("echo", SERVICE)),
            appliance_leaf="echo",
            hosts=(s.Host("a1", s.Grade.L2, "web", address=IPv4Address(HOST)),),
            services=(
                s.Service("echo.default", "default", self.port, (), None, leaf="echo"),
                s.Service(
                    "away.default",
                    "default",
                    self.port,
                    vips=(IPv4Address(VIP),),
                    outbound_set=2,
                    leaf="echo",
                ),
            ),
            inbound=(s.Inbound(self.sni, "echo.default", self.port, 1),),
            sets=(
                s.EndpointSet(1, "echo.default", (here,)),
                s.EndpointSet(2, "away.default", (there,)),
            ),
            offload=s.Offload(prefer, s.Tls12.PREFER if case.tls12 else s.Tls12.NEVER),
        )
        sequence = self.engine.publish(binding.build(snapshot, self._certificates))
        until(lambda: self.engine.applied >= sequence, "the snapshot")

    def closed(self) -> events.FlowEvent:
        """The next stream that was established and ended. (Others were only looked whether Envoy
        is there.)"""
        found: list[events.FlowEvent] = []

        def ended() -> bool:
            for each in events.decode(self.engine.read_events(), "dp"):
                if each.kind is events.EventKind.CLOSE:
                    found.append(each)
            return bool(found)

        until(ended, "the end of a stream")
        (event,) = found
        return event

    def close(self) -> None:
        self._envoy.terminate()
        self._envoy.wait(DEADLINE_S)
        self.engine.close()
        for each in (self._service, self._far, self.transparent):
            each.close()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as directory:
        made = Bench(Path(directory))
        yield made
        made.close()


def both_ways(client: socket.socket) -> None:
    """BULK there and back at once, then the end there and back."""

    def send() -> None:
        client.sendall(BULK)
        client.shutdown(socket.SHUT_WR)

    client.settimeout(DEADLINE_S)
    sender = threading.Thread(target=send)
    sender.start()
    got = bytearray()
    while data := client.recv(65536):
        got += data
    sender.join()
    assert got == BULK


def read_reply(client: socket.socket) -> None:
    data = b""
    while (found := link.decode_reply(data, VERSION)) is None:
        byte = client.recv(1)
        assert byte, "the link ended without a reply"
        data += byte
    assert found[0].reason == 0, found[0].detail


@pytest.mark.parametrize("prefer", [s.Prefer.USER, s.Prefer.OPENSSL])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_envoy_opens_a_link(bench: Bench, case: Case, prefer: s.Prefer) -> None:
    bench.publish(case, prefer)
    header = link.Header(IPv4Address("198.18.0.1"), 4000, IPv4Address("198.18.0.2"), bench.port)
    for resumed in (False, True):
        with closing(socket.create_connection(("127.0.0.1", bench.to_engine[case]))) as client:
            client.settimeout(DEADLINE_S)
            client.sendall(link.encode_header(header))
            read_reply(client)
            both_ways(client)
        event = bench.closed()
        assert (event.reason, event.detail) == (events.Reason.NONE, "")
        assert event.down_layer == getattr(events.RecordLayer, prefer.name)
        assert event.down_cipher == case.result
        assert event.src_id == f"spiffe://b.bench/{WEB}"
        assert event.down_resumed or not resumed
        assert (event.bytes_up, event.bytes_down) == (len(BULK), len(BULK))


@pytest.mark.parametrize("prefer", [s.Prefer.USER, s.Prefer.OPENSSL])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_envoy_takes_a_link(bench: Bench, case: Case, prefer: s.Prefer) -> None:
    bench.publish(case, prefer)
    for resumed in (False, True):
        with closing(
            socket.create_connection((VIP, bench.port), source_address=(HOST, 0))
        ) as client:
            both_ways(client)
        event = bench.closed()
        assert (event.reason, event.detail) == (events.Reason.NONE, "")
        assert event.up_layer == getattr(events.RecordLayer, prefer.name)
        assert event.up_cipher == case.result
        assert event.dst_id == f"spiffe://b.bench/{SERVICE}"
        assert event.up_resumed == resumed
        assert (event.bytes_up, event.bytes_down) == (len(BULK), len(BULK))
