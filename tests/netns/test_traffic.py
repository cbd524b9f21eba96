"""Traffic of two whole sites as hosts see it: who reaches what, by which addresses, and what is
let alone.

Both sites have the same subnet: a1 and b1 have one address, and so on.
"""

from __future__ import annotations

import socket
import time

import pytest

from appliance.demo.topology import APPLIANCE, SiteSpace
from tests.netns.helpers import (
    LIMIT_S,
    REFUSED,
    Answerer,
    ask,
    connect,
    inside,
    line,
    name_of,
    nft_counters,
    until,
)
from tests.netns.mesh import Mesh


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("host", "service", "port"),
    [
        ("a1", "payments", 8080),
        ("a1", "files", 9000),
        ("a1", "ledger", 8080),
        ("a3", "payments", 8081),
        ("a3", "ledger", 8080),
        ("a3", "web", 8080),
        ("b1", "web", 8080),
        ("b3", "web", 8080),
        ("b1", "ledger", 8080),
        ("b3", "payments", 8080),
    ],
)
def test_hosts_of_every_grade_reach_services_of_every_grade(
    mesh: Mesh, host: str, service: str, port: int, version: int
) -> None:
    assert mesh.ask(host, service, port, version).split()[0] == service


def test_a_stream_is_the_same_at_both_sites_and_says_who_and_how(mesh: Mesh) -> None:
    since = time.time()
    assert mesh.ask("a1", "payments", 8080) == f"payments {APPLIANCE[0]}"
    flow = mesh.flow(mesh.a, since, service="payments.default", state="closed")
    assert (flow.source, flow.destination) == (
        "spiffe://a.example/ns/default/sa/web",
        "spiffe://b.example/ns/default/sa/payments",
    )
    assert (flow.kind, flow.grade, flow.tls_version) == ("outbound", "l2", "TLSv1.3")
    assert flow.source_address.startswith(str(mesh.a.hosts["a1"].ipv4))
    far = mesh.flow(mesh.b, since, flow_id=flow.flow_id, state="closed")
    assert (far.kind, far.source, far.destination, far.grade) == (
        "inbound", flow.source, flow.destination, "l2",
    )  # fmt: skip
    assert far.bytes_down == flow.bytes_down > 0
    # Which endpoint it was stays at its site.
    assert far.peer_address.startswith(str(mesh.b.hosts["b1"].ipv4))
    assert flow.peer_address.startswith(str(mesh.b.mesh[0]))


def test_a_keyed_host_shows_its_grade_across_sites(mesh: Mesh) -> None:
    since = time.time()
    assert mesh.ask("a3", "ledger", 8080).startswith("ledger")
    far = mesh.flow(mesh.b, since, service="ledger.default", state="closed")
    assert (far.source, far.grade) == ("spiffe://a.example/ns/default/sa/orders", "key")


def test_bytes_go_both_ways_and_an_end_is_passed_on(mesh: Mesh) -> None:
    data = bytes(range(256)) * 4096
    for host in ("a1", "a3"):
        with connect(mesh.a.hosts[host].namespace, mesh.vip(mesh.a, "files"), 9000) as sock:
            assert line(sock).startswith("files")
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            got = b""
            while more := sock.recv(65536):
                got += more
            assert got == data


# -- what is refused, or let alone -----------------------------------------------------------------


def send_udp(namespace: str, address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(namespace):
        sock = socket.socket(family, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(LIMIT_S)
        sock.connect((address, port))
        sock.send(b"x")
        try:
            sock.recv(1)
        except OSError as error:
            return name_of(error)
        return "answered"


@pytest.mark.parametrize("version", [4, 6])
def test_udp_to_a_virtual_address_is_rejected_at_once_and_counted(mesh: Mesh, version: int) -> None:
    before = nft_counters(mesh.a.namespace)["udp_refused"]
    vip = mesh.vip(mesh.a, "payments", version)
    assert send_udp(mesh.a.hosts["a1"].namespace, vip, 8080) == "ECONNREFUSED"
    assert nft_counters(mesh.a.namespace)["udp_refused"] == before + 1


def test_an_unknown_port_or_virtual_address_is_refused_and_named(mesh: Mesh) -> None:
    namespace = mesh.a.hosts["a1"].namespace
    with mesh.counts(mesh.a, "reason_no_route", by=2):
        assert ask(namespace, mesh.vip(mesh.a, "payments"), 1) in REFUSED
        assert ask(namespace, "198.19.255.254", 80) in REFUSED


def own_addresses(site: SiteSpace) -> list[str]:
    return [str(APPLIANCE[0]), str(APPLIANCE[1]), str(site.mesh[0])]


def test_the_transparent_listener_never_connects_to_itself(mesh: Mesh) -> None:
    since = time.time()
    port = mesh.a.site.spec.ports.transparent
    namespace = mesh.a.hosts["a1"].namespace
    with mesh.counts(mesh.a, "reason_own_address", by=2):
        for address in own_addresses(mesh.a)[:2]:
            assert ask(namespace, address, port) in REFUSED
    flow = mesh.flow(mesh.a, since, reason="own_address")
    assert flow.state == "refused"
    assert "the appliance itself" in flow.detail


def test_ssh_to_the_appliance_is_never_intercepted(mesh: Mesh) -> None:
    intercepted = nft_counters(mesh.a.namespace)["intercepted"]
    with Answerer(mesh.a.namespace, "sshd", 22):
        for host in ("a1", "a2", "a3"):
            space = mesh.a.hosts[host]
            assert ask(space.namespace, APPLIANCE[0], 22) == f"sshd {space.ipv4}"
            assert ask(space.namespace, APPLIANCE[1], 22) == f"sshd {space.ipv6}"
    assert nft_counters(mesh.a.namespace)["intercepted"] == intercepted


def test_hosts_of_a_site_still_talk_to_each_other_directly(mesh: Mesh) -> None:
    a1, a2 = mesh.a.hosts["a1"], mesh.a.hosts["a2"]
    assert ask(a2.namespace, a1.ipv4, 8080) == f"web {a2.ipv4}"


def test_a_service_that_is_down_is_said_at_the_sources_side(mesh: Mesh) -> None:
    """Nothing listens on the endpoint: site b says so, site a shows it."""
    host = mesh.b.hosts["b2"]
    with mesh.guest("198.18.0.71", "down", "b2", services=["down:7000"]):
        since = time.time()
        assert mesh.ask("a1", "down", 7000) in REFUSED
        flow = mesh.flow(mesh.a, since, service="down.default", state="refused")
        assert flow.reason == "connect_failed"
        with Answerer(host.namespace, "up", 7000):
            # It was put aside for a while, or not: then it answers.
            until(
                "the service answering", lambda: mesh.ask("a1", "down", 7000).startswith("up"), 60
            )


def test_a_keyed_hosts_leg_is_encrypted_and_an_agentless_ones_is_shown_plain(mesh: Mesh) -> None:
    for host, service, layers in (
        ("a1", "web", ("plain", "plain")),
        ("a3", "web", ("tls", "plain")),
        ("b1", "ledger", ("plain", "tls")),
    ):
        since = time.time()
        site = mesh.topology.sites[host[0]]
        assert mesh.ask(host, service, 8080).startswith(service)
        flow = mesh.flow(site, since, service=f"{service}.default", state="closed", kind="local")
        shown = (flow.down_layer, flow.up_layer)
        assert tuple("plain" if s in ("plain", "splice") else "tls" for s in shown) == layers
        assert bool(flow.cipher) == ("tls" in layers)


def test_sessions_are_resumed_for_the_source_that_made_them(mesh: Mesh) -> None:
    """To one destination, by the same workers: a newcomer never goes on with another's."""
    since, address = time.time(), "198.18.0.76"

    def resumed(source: str) -> list[bool]:
        flows = mesh.flows(mesh.a, since, source=source, service="ledger.default")
        return [flow.resumed for flow in reversed(flows) if flow.state == "closed"]

    def again() -> bool:
        assert mesh.ask("a1", "ledger", 8080).startswith("ledger")
        return any(resumed("spiffe://a.example/ns/default/sa/web"))

    until("a session being resumed", again)
    with mesh.guest(address, "newcomer"):
        assert mesh.ask("a2", "ledger", 8080, source=address).startswith("ledger")
        own = "spiffe://a.example/ns/default/sa/newcomer"
        assert until("the newcomer's stream", lambda: resumed(own)) == [False]
        far = mesh.flow(mesh.b, since, source=own, state="closed")
        assert not far.resumed
