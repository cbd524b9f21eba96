"""A host that is revoked: its streams end at once, at both sites, and it is said who has heard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.agent import link
from appliance.demo.topology import APPLIANCE, SiteSpace
from appliance.errors import Conflict, NotFound
from tests.netns.enrol import csr, join, post
from tests.netns.helpers import (
    REFUSED,
    Answer,
    Answerer,
    TlsClient,
    ask,
    connect,
    ended,
    header,
    line,
    sh,
    until,
)
from tests.netns.mesh import Mesh

PORT = 15008
SNI = "_.8080.payments.default.b.example"


def test_streams_end_at_the_local_site_and_at_the_peer(mesh: Mesh) -> None:
    namespace = mesh.a.hosts["a2"].namespace
    vips = {name: mesh.vip(mesh.a, name) for name in ("payments", "web")}
    address = "198.18.0.91"
    with mesh.guest(address, "lost1"):
        since = time.time()
        with (
            connect(namespace, vips["payments"], 8080, address) as far,
            connect(namespace, vips["web"], 8080, address) as near,
        ):
            assert line(far).startswith("payments")
            assert line(near).startswith("web")
            until(
                "both streams being known",
                lambda: len(mesh.flows(mesh.a, since, state="open")) >= 2,
            )
            reply = mesh.call(mesh.a, lambda client: client.revoke_host("lost1"))
            assert ended(far) in REFUSED
            assert ended(near) in REFUSED
        assert (list(reply.peers_told), list(reply.peers_not_told)) == (["site-b"], [])
        assert reply.streams_closed == 2
        until(
            "both ends being recorded",
            lambda: len(ended_streams(mesh, mesh.a, since, "lost1")) >= 2,
        )
        until("the peer's end", lambda: ended_streams(mesh, mesh.b, since, "lost1"))
        for service in vips:
            assert mesh.ask("a2", service, 8080, source=address) in REFUSED
        with pytest.raises(Conflict, match="revoked already"):
            mesh.call(mesh.a, lambda client: client.revoke_host("lost1"))


def ended_streams(mesh: Mesh, site: SiteSpace, since: float, account: str) -> list[object]:
    source = f"spiffe://a.example/ns/default/sa/{account}"
    return [
        flow
        for flow in mesh.flows(site, since, source=source, state="closed")
        if flow.reason in ("revoked", "reauthorized", "reset", "truncated")
    ]


def test_a_host_with_a_key_is_out_with_its_own_leaf(mesh: Mesh, tmp_path: Path) -> None:
    """Its key and leaf are still there; nobody takes them."""
    namespace, address = mesh.a.hosts["a2"].namespace, "198.18.0.92"
    with mesh.guest(address, "lost2", agent=True) as added:
        client = TlsClient(join(mesh, address, added.code, tmp_path).files)
        head = header(address, mesh.vip(mesh.a, "payments"), 8080)

        def speak() -> Answer:
            return client.speak(namespace, APPLIANCE[0], PORT, None, head, source=address)

        until("the host being known", lambda: speak().reason == link.CONNECTED)
        with client.open(namespace, APPLIANCE[0], PORT, source=address) as tls:
            tls.sendall(head)
            reply = link.decode_reply(tls.recv(4096), 2)
            assert reply is not None
            assert reply[0].reason == link.CONNECTED
            mesh.call(mesh.a, lambda c: c.revoke_host("lost2"))
            assert ended(tls) != "timeout"
        with mesh.counts(mesh.a, "reason_revoked"):
            assert speak().reply is None
        body = {"csr": csr()}
        assert post(mesh, address, "/v1/renew", body)[0] == 403


def test_a_peer_that_has_not_heard_is_named_and_hears_when_it_is_back(
    mesh: Mesh, tmp_path: Path
) -> None:
    stolen = mesh.forge(mesh.authority(mesh.a), "spiffe://a.example/ns/default/sa/lost3", tmp_path)
    client = TlsClient(stolen.files)

    def speak() -> link.Reply | None:
        vip = mesh.vip(mesh.a, "payments")
        head = header("198.18.0.93", vip, 8080)
        return client.speak(mesh.a.namespace, mesh.b.mesh[0], PORT, SNI, head).reply

    with mesh.guest("198.18.0.93", "lost3"):
        assert speak() is not None
        with silent(mesh.b):
            reply = mesh.call(mesh.a, lambda c: c.revoke_host("lost3"))
            assert (list(reply.peers_told), list(reply.peers_not_told)) == ([], ["site-b"])
            vip = mesh.vip(mesh.a, "web")
            assert ask(mesh.a.hosts["a2"].namespace, vip, 8080, "198.18.0.93") in REFUSED
        until("the peer hearing of it", lambda: speak() is None, 90)
    until("the sites being peers again", lambda: connected(mesh), 90)


def connected(mesh: Mesh) -> bool:
    return all(mesh.status(site).peers_connected == 1 for site in (mesh.a, mesh.b))


@contextmanager
def silent(site: SiteSpace) -> Iterator[None]:
    """Its side of the mesh link answers nothing: peering's port, so that the rest goes on."""
    port = site.site.spec.ports.peering
    script = (
        "add table inet silence; "
        "add chain inet silence in { type filter hook input priority -300; }; "
        "add chain inet silence out { type filter hook output priority -300; }; "
        f"add rule inet silence in tcp dport {port} drop; "
        f"add rule inet silence in tcp sport {port} drop; "
        f"add rule inet silence out tcp dport {port} drop; "
        f"add rule inet silence out tcp sport {port} drop"
    )
    nft = ("ip", "netns", "exec", site.namespace, "nft")
    sh(*nft, script)
    try:
        yield
    finally:
        sh(*nft, "delete table inet silence")


def test_a_removed_host_is_gone_and_its_address_free(mesh: Mesh) -> None:
    address = "198.18.0.94"
    with mesh.guest(address, "brief1"):
        assert mesh.ask("a2", "web", 8080, source=address).startswith("web")
    with mesh.guest(address, "brief2"):
        since = time.time()
        assert mesh.ask("a2", "web", 8080, source=address).startswith("web")
        flow = mesh.flow(mesh.a, since, service="web.default", state="closed")
        assert flow.source == "spiffe://a.example/ns/default/sa/brief2"
    with pytest.raises(NotFound):
        mesh.call(mesh.a, lambda client: client.revoke_host("brief1"))


def test_a_service_of_a_revoked_host_is_served_nowhere(mesh: Mesh) -> None:
    address = "198.18.0.95"
    with (
        mesh.guest(address, "shop", services=["shop:7000"]),
        Answerer(mesh.a.hosts["a2"].namespace, "shop", 7000),
    ):
        assert mesh.ask("b1", "shop", 7000).startswith("shop")
        mesh.call(mesh.a, lambda client: client.revoke_host("shop"))

        def healthy() -> bool:
            services = mesh.call(mesh.b, lambda client: client.services())
            return any(each.healthy for s in services if s.name == "shop" for each in s.endpoints)

        until("the peer knowing that nobody serves it", lambda: not healthy())
        listed = mesh.call(mesh.a, lambda client: client.services())
        assert [e.revoked for s in listed if s.name == "shop" for e in s.endpoints] == [True]
        for host, site in (("a1", mesh.a), ("b1", mesh.b)):
            since = time.time()
            assert mesh.ask(host, "shop", 7000) in REFUSED
            flow = mesh.flow(site, since, service="shop.default", state="refused")
            assert flow.reason == "no_endpoint"


PERMISSIVE = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: lax, namespace: default}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: PERMISSIVE}}
"""


def test_a_revoked_host_is_out_where_strangers_are_let_in(mesh: Mesh) -> None:
    stranger, address = "198.18.0.96", "198.18.0.97"
    mesh.apply(mesh.a, PERMISSIVE)
    try:
        with mesh.address(stranger), mesh.guest(address, "lost4"):
            for source in (stranger, address):
                assert mesh.ask("a2", "web", 8080, source=source).startswith("web")
            namespace, vip = mesh.a.hosts["a2"].namespace, mesh.vip(mesh.a, "web")
            with connect(namespace, vip, 8080, address) as open_:
                assert line(open_).startswith("web")
                mesh.call(mesh.a, lambda client: client.revoke_host("lost4"))
                assert ended(open_) in REFUSED
            since = time.time()
            assert mesh.ask("a2", "web", 8080, source=address) in REFUSED
            flow = mesh.flow(mesh.a, since, service="web.default", state="refused")
            assert flow.reason == "revoked"
            assert mesh.ask("a2", "web", 8080, source=stranger).startswith("web")
    finally:
        mesh.call(mesh.a, lambda c: c.delete("PeerAuthentication", "default", "lax"))
