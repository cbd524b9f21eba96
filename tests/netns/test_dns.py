"""DNS of a running site, as its hosts ask it: mesh names, and nothing else."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from appliance.demo.topology import APPLIANCE
from tests.netns.helpers import LIMIT_S, connect, inside, until
from tests.netns.mesh import Mesh

Ask = Callable[..., dns.message.Message]
AT_ONCE_S = 4.0  # below any resolver's timeout, and of a busy machine


@contextmanager
def datagrams(namespace: str, address: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(namespace):
        sock = socket.socket(family, socket.SOCK_DGRAM)
    with sock:
        yield sock


def udp(mesh: Mesh, name: str, kind: str, server: str = str(APPLIANCE[0])) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    with datagrams(mesh.a.hosts["a1"].namespace, server) as sock:
        return dns.query.udp(query, server, timeout=LIMIT_S, sock=sock)


def tcp(mesh: Mesh, name: str, kind: str, server: str = str(APPLIANCE[0])) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    with connect(mesh.a.hosts["a1"].namespace, server, 53) as sock:
        return dns.query.tcp(query, server, timeout=LIMIT_S, sock=sock)


def addresses(reply: dns.message.Message) -> list[str]:
    assert reply.rcode() == dns.rcode.NOERROR
    return [str(record) for rrset in reply.answer for record in rrset]


@pytest.mark.parametrize("ask", [udp, tcp])
@pytest.mark.parametrize("server", [str(each) for each in APPLIANCE])
def test_names_of_both_sites_have_an_address_of_each_family(
    mesh: Mesh, ask: Ask, server: str
) -> None:
    for service in ("web", "payments"):
        for name in (f"{service}.default.mesh", f"{service}.default.svc.cluster.local"):
            assert addresses(ask(mesh, name, "A", server)) == [mesh.vip(mesh.a, service)]
            assert addresses(ask(mesh, name, "AAAA", server)) == [mesh.vip(mesh.a, service, 6)]


@pytest.mark.parametrize("ask", [udp, tcp])
@pytest.mark.parametrize("name", ["example.com", "mesh.example.com", "payments", "."])
def test_foreign_names_are_refused_at_once_and_counted(mesh: Mesh, ask: Ask, name: str) -> None:
    with mesh.counts(mesh.a, "dns_replies_refused"):
        began = time.monotonic()
        reply = ask(mesh, name, "A")
        took = time.monotonic() - began
    assert reply.rcode() == dns.rcode.REFUSED
    assert not reply.answer
    assert took < AT_ONCE_S


def test_what_is_not_there_is_said_so_to_be_remembered_a_short_time(mesh: Mesh) -> None:
    reply = udp(mesh, "nothing.default.mesh", "A")
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert [rrset.rdtype for rrset in reply.authority] == [dns.rdatatype.SOA]
    nodata = udp(mesh, "payments.default.mesh", "TXT")
    assert nodata.rcode() == dns.rcode.NOERROR
    assert not nodata.answer
    assert [rrset.rdtype for rrset in nodata.authority] == [dns.rdatatype.SOA]


def test_a_withdrawn_service_loses_its_name(mesh: Mesh) -> None:
    with mesh.guest("198.18.0.72", "brief", services=["brief:7000"]):
        mesh.vip(mesh.a, "brief")
        assert addresses(udp(mesh, "brief.default.mesh", "A")) == [mesh.vip(mesh.a, "brief")]
    until(
        "the name being gone",
        lambda: udp(mesh, "brief.default.mesh", "A").rcode() == dns.rcode.NXDOMAIN,
    )


def test_garbage_is_dropped_and_counted_and_service_goes_on(mesh: Mesh) -> None:
    server = str(APPLIANCE[0])
    with (
        mesh.counts(mesh.a, "dns_dropped_malformed"),
        datagrams(mesh.a.hosts["a1"].namespace, server) as sock,
    ):
        for data in (b"", b"\0", b"\xff" * 11, b"\xff" * 4096, bytes(12)):
            sock.sendto(data, (server, 53))
    with connect(mesh.a.hosts["a1"].namespace, server, 53) as stream:
        stream.sendall(b"\xff\xff" + b"x" * 100)
        assert stream.recv(1) == b""  # closed: longer than a query may be
    assert udp(mesh, "payments.default.mesh", "A").answer


def test_a_hosts_own_resolver_finds_mesh_names(mesh: Mesh) -> None:
    """By resolv.conf, as any program does."""
    command = mesh.a.hosts["a1"].command("getent", "ahostsv4", "payments.default.mesh")
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout.split()[0] == mesh.vip(mesh.a, "payments")
