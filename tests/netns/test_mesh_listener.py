"""The mesh listener under attack from the link: certificates, ALPN, headers, sessions, garbage.

The attacker stands in appliance a's place on the link (its namespace) or on a host, and has keys
that the tests make: by site a's CA, by site b's, by nobody's. Whatever it says, it is refused,
counted and the data plane goes on.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.agent import link
from appliance.agent.state import Directory
from appliance.ca.issue import Authority, pem, random_serial, self_signed, time_of
from appliance.demo.topology import APPLIANCE
from dataplane.events import Reason
from tests.netns.helpers import Answer, TlsClient, connect, ended, header, reset, until
from tests.netns.mesh import Credentials, Mesh, write

PORT = 15008
SNI = "_.8080.payments.default.b.example"
WEB = "spiffe://a.example/ns/default/sa/web"


class Attacker:
    """Speaks to site b's mesh listener from the link."""

    def __init__(self, mesh: Mesh, directory: Path) -> None:
        self.mesh, self.directory = mesh, directory
        self.site_a, self.site_b = mesh.authority(mesh.a), mesh.authority(mesh.b)
        self.target = mesh.b.mesh[0]
        self.pids = processes(mesh)

    def forge(self, authority: Authority, spiffe_id: str, **more: object) -> Credentials:
        return self.mesh.forge(authority, spiffe_id, self.directory, **more)  # type: ignore[arg-type]

    def good(self) -> Credentials:
        return self.forge(self.site_a, WEB)

    def header(self) -> bytes:
        return header(self.mesh.a.hosts["a1"].ipv4, self.mesh.vip(self.mesh.a, "payments"), 8080)

    def speak(
        self,
        client: TlsClient,
        sni: str | None = SNI,
        data: bytes = b"",
        session: ssl.SSLSession | None = None,
    ) -> Answer:
        namespace = self.mesh.a.namespace
        return client.speak(namespace, self.target, PORT, sni, data or self.header(), session)


def processes(mesh: Mesh) -> dict[str, int]:
    return {each.name: each.pid for each in mesh.status(mesh.b).processes}


@pytest.fixture
def attacker(mesh: Mesh, tmp_path: Path) -> Iterator[Attacker]:
    made = Attacker(mesh, tmp_path)
    yield made
    assert mesh.ask("a1", "files", 9000).startswith("files")
    assert processes(mesh) == made.pids, "a process was started anew"


def test_the_forger_is_a_good_one(attacker: Attacker) -> None:
    """What follows would be worth nothing if these certificates were refused for another reason."""
    since = time.time()
    answer = attacker.speak(TlsClient(attacker.good().files))
    assert answer.reason == link.CONNECTED, answer
    flow = attacker.mesh.flow(attacker.mesh.b, since, service="payments.default")
    assert (flow.source, flow.grade) == (WEB, "l2")


def test_a_certificate_of_an_unknown_trust_domain(attacker: Attacker) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    stranger = Authority("c.example", key, self_signed("c.example", key, int(time.time())))
    shown = attacker.forge(stranger, "spiffe://c.example/ns/default/sa/web")
    refused(attacker, shown, "peer_identity", "c.example, which is no peer of this site")


def test_a_peers_ca_that_names_our_own_trust_domain(attacker: Attacker) -> None:
    """Site a's CA, stolen, cannot make anyone of site b; nor the other way round."""
    shown = attacker.forge(attacker.site_a, "spiffe://b.example/ns/default/sa/files")
    refused(attacker, shown, "peer_identity", "not signed by a CA of trust domain b.example")
    shown = attacker.forge(attacker.site_b, WEB)
    refused(attacker, shown, "peer_identity", "not signed by a CA of trust domain a.example")


def test_a_self_made_ca_of_a_known_name(attacker: Attacker) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    fake = Authority("a.example", key, self_signed("a.example", key, int(time.time())))
    refused(attacker, attacker.forge(fake, WEB), "peer_identity", "not signed by a CA of")


def test_an_expired_certificate_and_one_of_tomorrow(attacker: Attacker) -> None:
    shown = attacker.forge(attacker.site_a, WEB, now=time.time() - 120, ttl_s=60)
    refused(attacker, shown, "expired", "expired at")
    shown = attacker.forge(attacker.site_a, WEB, now=time.time() + 7200, ttl_s=3600)
    refused(attacker, shown, "peer_identity", "is not valid before")


def leaf(
    attacker: Attacker, names: list[x509.GeneralName] | None, usage: bool = True
) -> Credentials:
    """Signed by site a's CA, with names as one likes."""
    authority, key = attacker.site_a, ec.generate_private_key(ec.SECP256R1())
    now = int(time.time())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(random_serial())
        .not_valid_before(time_of(now - 60))
        .not_valid_after(time_of(now + 3600))
    )
    if usage:
        builder = builder.add_extension(
            x509.KeyUsage(True, False, False, False, False, False, False, False, False),
            critical=True,
        )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.sign(authority.key, hashes.SHA256())
    return write(attacker.directory, key, pem(signed))


URI = x509.UniformResourceIdentifier


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (None, "no SPIFFE ID"),
        ([x509.DNSName("web.default.a.example")], "no SPIFFE ID"),
        ([URI(WEB), URI("spiffe://a.example/ns/default/sa/orders")], "more than one"),
        ([URI("https://a.example/ns/default/sa/web")], "malformed SPIFFE ID"),
        ([URI("spiffe://A.EXAMPLE/ns/default/sa/web")], "malformed SPIFFE ID"),
        ([URI(WEB + "/../batch")], "malformed SPIFFE ID"),
    ],
)
def test_a_certificate_whose_identity_is_none(
    attacker: Attacker, names: list[x509.GeneralName] | None, says: str
) -> None:
    refused(attacker, leaf(attacker, names), "peer_identity", says)


def test_a_certificate_that_may_not_sign_handshakes(attacker: Attacker) -> None:
    refused(attacker, leaf(attacker, [URI(WEB)], usage=False), "peer_identity", "key usage")


def test_a_ca_certificate_shown_as_a_leaf(attacker: Attacker) -> None:
    authority = attacker.site_a
    assert isinstance(authority.key, ec.EllipticCurvePrivateKey)
    shown = write(attacker.directory, authority.key, authority.bundle_pem)
    refused(attacker, shown, "peer_identity", "certificate")


def refused(attacker: Attacker, shown: Credentials, reason: str, says: str) -> None:
    """The handshake fails, site b counts it and says why in its flows."""
    since = time.time()
    with attacker.mesh.counts(attacker.mesh.b, f"reason_{reason}"):
        answer = attacker.speak(TlsClient(shown.files))
        assert answer.reply is None
    flow = attacker.mesh.flow(attacker.mesh.b, since, reason=reason, state="refused")
    assert says in flow.detail


def test_no_certificate(attacker: Attacker) -> None:
    with attacker.mesh.counts(attacker.mesh.b, "handshakes_failed"):
        answer = attacker.speak(TlsClient(None))
        assert answer.reply is None
        assert "CERTIFICATE_REQUIRED" in answer.error.upper()


@pytest.mark.parametrize("alpn", [(), ("h2", "http/1.1"), ("sluice-l4/9",)])
def test_no_common_link_protocol(attacker: Attacker, alpn: tuple[str, ...]) -> None:
    with attacker.mesh.counts(attacker.mesh.b, "handshakes_failed"):
        answer = attacker.speak(TlsClient(attacker.good().files, alpn))
        assert answer.reply is None


def test_a_peer_one_link_version_older_works(attacker: Attacker) -> None:
    answer = attacker.speak(TlsClient(attacker.good().files, ("sluice-l4/1",)))
    assert answer.reason == link.CONNECTED


def test_tls_1_2_is_not_spoken(attacker: Attacker) -> None:
    with attacker.mesh.counts(attacker.mesh.b, "handshakes_failed"):
        client = TlsClient(attacker.good().files, version=ssl.TLSVersion.TLSv1_2)
        assert attacker.speak(client).reply is None


@pytest.mark.parametrize(
    "sni",
    [
        None,
        "_.8080.nothing.default.b.example",
        "_.8080.web.default.a.example",
        "_.1.payments.default.b.example",
        "v9.8080.payments.default.b.example",
        "payments.default.mesh",
        "x" * 63 + ".example",
    ],
)
def test_a_name_that_is_not_exported(attacker: Attacker, sni: str | None) -> None:
    """Either there is no leaf to show for it, or no route."""
    failed = attacker.mesh.counter(attacker.mesh.b, "handshakes_failed")
    routed = attacker.mesh.counter(attacker.mesh.b, "reason_no_route")
    answer = attacker.speak(TlsClient(attacker.good().files), sni)
    assert answer.reason in (None, link.NO_ROUTE)
    until(
        "the refusal being counted",
        lambda: (
            attacker.mesh.counter(attacker.mesh.b, "handshakes_failed") > failed
            or attacker.mesh.counter(attacker.mesh.b, "reason_no_route") > routed
        ),
    )


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\xff\xff" + b"\0" * 300,
    b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    b"\x80\x2e\x01\x00\x02" + b"\0" * 60,
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12),
    os.urandom(4096),
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_bytes_that_are_no_handshake(attacker: Attacker, data: bytes) -> None:
    with attacker.mesh.counts(attacker.mesh.b, "reason_handshake"):
        with connect(attacker.mesh.a.namespace, attacker.target, PORT) as sock:
            sock.sendall(data)
            assert ended(sock) in ("closed", "ECONNRESET")


def test_many_connections_that_are_reset_in_the_middle(attacker: Attacker) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(32)
    for cut in range(1, len(hello), 4):
        sock = connect(attacker.mesh.a.namespace, attacker.target, PORT)
        sock.sendall(hello[:cut])
        reset(sock)
    until(
        "all of them being gone",
        lambda: attacker.mesh.counter(attacker.mesh.b, "streams_now") == 0,
    )


GOOD = header("198.18.0.11", "198.19.0.1", 8080)
HEADERS = {
    "no signature": b"x" * 100,
    "version 1": b"PROXY TCP4 198.18.0.11 198.19.0.1 40000 8080\r\n",
    "local command": GOOD[:12] + b"\x20\x00\x00\x00",
    "unknown family": GOOD[:13] + b"\x31" + GOOD[14:],
    "udp": GOOD[:13] + b"\x12" + GOOD[14:],
    "too short": GOOD[:14] + b"\x00\x04" + bytes(4),
    "too long": GOOD[:14] + b"\xff\xff" + bytes(1000),
    "a field cut off": GOOD[:14] + b"\x00\x0f" + GOOD[16:28] + b"\x05\xff\xff",
    "a flow id too short": GOOD[:14] + b"\x00\x13" + GOOD[16:28] + b"\x05\x00\x04" + bytes(4),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_malformed_header(attacker: Attacker, name: str) -> None:
    with attacker.mesh.counts(attacker.mesh.b, "reason_bad_header"):
        answer = attacker.speak(TlsClient(attacker.good().files), data=HEADERS[name])
        assert answer.reason == link.BAD_HEADER


def test_a_header_that_never_ends_is_cut_off(attacker: Attacker) -> None:
    since = time.time()
    client = TlsClient(attacker.good().files)
    with (
        attacker.mesh.counts(attacker.mesh.b, "reason_bad_header"),
        client.open(attacker.mesh.a.namespace, attacker.target, PORT, SNI) as tls,
    ):
        tls.sendall(GOOD[:-1])
        assert link.decode_reply(tls.recv(4096), 2)[0].reason == link.BAD_HEADER  # type: ignore[index]
    flow = attacker.mesh.flow(attacker.mesh.b, since, reason="bad_header")
    assert "in time" in flow.detail


# -- a host's own leaf -----------------------------------------------------------------------------


def agent(mesh: Mesh) -> TlsClient:
    """a3's, with the key that it enrolled with."""
    directory = Directory(mesh.agent_state(mesh.a, mesh.a.hosts["a3"]))
    return TlsClient((directory.leaf, directory.key))


def test_a_host_may_speak_for_its_own_address_only(mesh: Mesh) -> None:
    a3 = mesh.a.hosts["a3"]
    vip = mesh.vip(mesh.a, "web")
    good = header(a3.ipv4, vip, 8080)
    client = agent(mesh)
    assert client.speak(a3.namespace, APPLIANCE[0], PORT, None, good).reason == link.CONNECTED
    for source in (mesh.a.hosts["a1"].ipv4, APPLIANCE[0], "127.0.0.1", a3.ipv6, vip):
        since = time.time()
        with mesh.counts(mesh.a, "reason_forged_header"):
            answer = client.speak(a3.namespace, APPLIANCE[0], PORT, None, header(source, vip, 8080))
            assert answer.reason == Reason.FORGED_HEADER
        flow = mesh.flow(mesh.a, since, reason="forged_header")
        assert flow.source_address.startswith(str(a3.ipv4)), "shown as the one it came from"


def test_a_hosts_own_leaf_is_nothing_at_another_site(mesh: Mesh) -> None:
    """Only appliances speak to peers: b knows no host a3."""
    mesh_header = header(mesh.a.mesh[0], mesh.vip(mesh.a, "payments"), 8080)
    with mesh.counts(mesh.b, "reason_peer_identity"):
        answer = agent(mesh).speak(mesh.a.namespace, mesh.b.mesh[0], PORT, SNI, mesh_header)
        assert answer.reason == Reason.PEER_IDENTITY


def test_a_host_cannot_go_round_the_appliance_to_anothers_agent(mesh: Mesh) -> None:
    """b3's agent takes streams from its appliance only, not from another host's own leaf."""
    b3 = mesh.b.hosts["b3"]
    stranger = mesh.forge(
        mesh.authority(mesh.b), "spiffe://b.example/ns/default/sa/payments",
        mesh.b.directory, grade=None,
    )  # fmt: skip
    answer = TlsClient(stranger.files).speak(
        mesh.b.namespace, b3.ipv4, 15009, None, header(APPLIANCE[0], b3.ipv4, 8080)
    )
    assert answer.reason is None


# -- sessions --------------------------------------------------------------------------------------


def test_a_session_resumes_for_its_own_client(attacker: Attacker) -> None:
    client = TlsClient(attacker.good().files)
    first = attacker.speak(client)
    assert (first.reason, first.reused) == (link.CONNECTED, False)
    with attacker.mesh.counts(attacker.mesh.b, "handshakes_resumed"):
        again = attacker.speak(client, session=first.session)
    assert (again.reason, again.reused) == (link.CONNECTED, True)


DENY_WEB = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-web, namespace: default}
spec:
  selector: {matchLabels: {app: payments}}
  action: DENY
  rules: [{from: [{source: {principals: [a.example/ns/default/sa/web]}}]}]
"""


def test_anothers_session_makes_nobody_else_of_its_owner(attacker: Attacker) -> None:
    """A client with batch's leaf and web's session is web, or does not resume: never batch with
    web's rights, nor web with batch's."""
    client = TlsClient(attacker.good().files)
    stolen = attacker.speak(client).session
    attacker.mesh.apply(attacker.mesh.b, DENY_WEB)
    batch = attacker.forge(attacker.site_a, "spiffe://a.example/ns/default/sa/batch")
    client.show(batch.files)
    answer = attacker.speak(client, session=stolen)
    assert (answer.reason, answer.reused) == (Reason.DENIED, True)
    assert "no-web" in answer.reply.detail  # type: ignore[union-attr]
    fresh = attacker.speak(client)
    assert (fresh.reason, fresh.reused) == (link.CONNECTED, False)


def test_a_session_is_of_no_use_for_another_service(attacker: Attacker) -> None:
    """Then the handshake is a full one, and the certificate counts."""
    since = time.time()
    client = TlsClient(attacker.good().files)
    stolen = attacker.speak(client).session
    batch = attacker.forge(attacker.site_a, "spiffe://a.example/ns/default/sa/batch")
    client.show(batch.files)
    answer = attacker.speak(client, "_.9000.files.default.b.example", session=stolen)
    assert (answer.reason, answer.reused) == (link.CONNECTED, False)
    flow = attacker.mesh.flow(attacker.mesh.b, since, service="files.default")
    assert flow.source == "spiffe://a.example/ns/default/sa/batch"


def test_a_session_dies_with_the_leaf(attacker: Attacker) -> None:
    short = attacker.forge(attacker.site_a, WEB, now=time.time() - 50, ttl_s=60)
    client = TlsClient(short.files)
    first = attacker.speak(client)
    assert first.reason == link.CONNECTED
    until("the leaf running out", lambda: time.time() > short.not_after)
    with attacker.mesh.counts(attacker.mesh.b, "reason_expired"):
        again = attacker.speak(client, session=first.session)
        assert again.reply is None


def test_a_session_dies_with_a_deny(attacker: Attacker) -> None:
    mesh = attacker.mesh
    identity = "spiffe://a.example/ns/default/sa/fallen"
    with mesh.guest("198.18.0.74", "fallen"):
        client = TlsClient(attacker.forge(attacker.site_a, identity).files)
        first = attacker.speak(client)
        assert first.reason == link.CONNECTED
        told = mesh.call(mesh.a, lambda c: c.revoke_host("fallen"))
        assert list(told.peers_told) == ["site-b"]
        with mesh.counts(mesh.b, "reason_revoked", by=2):
            for session in (first.session, None):
                assert attacker.speak(client, session=session).reply is None


def test_a_ticket_that_was_tampered_with_is_ignored(attacker: Attacker) -> None:
    """Python's ssl hides a ticket's bytes; one of site a's is as good as random for site b."""
    own = TlsClient(attacker.good().files)
    vip = attacker.mesh.vip(attacker.mesh.b, "web")
    data = header(attacker.mesh.b.hosts["b1"].ipv4, vip, 8080)
    first = own.speak(
        attacker.mesh.b.namespace, attacker.mesh.a.mesh[0], PORT, "_.8080.web.default.a.example",
        data,
    )  # fmt: skip
    answer = attacker.speak(own, session=first.session)
    assert (answer.reason, answer.reused) == (link.CONNECTED, False)
