"""Joining and renewing over real TLS on loopback: what works, and what is refused how."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import ssl
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from appliance.enroll import code, listener, pinned, server
from appliance.enroll.messages import JoinRequest, Offer, PeerRequest, RenewRequest, read
from appliance.enroll.nonce import LIFE_S, USED_MAX, Nonces
from appliance.errors import Conflict, Denied, InvalidInput, LimitReached
from appliance.rate import Bucket, Buckets, Rate
from appliance.registry.model import HostState
from dataplane.snapshot import Grade
from tests.unit.appliance.enroll.fakes import DB, ROOT, HostKey, Need, Site1, leaf_of, running_site


@pytest.fixture
async def site(tmp_path: Path):
    async with running_site(tmp_path / "a") as running:
        yield running


def secret(text: str) -> str:
    return code.parse(text).secret.hex()


async def join(site: Site1, text: str, host: HostKey) -> dict[str, Any]:
    return await site.post("/v1/join", {"secret": secret(text), "csr": host.csr})


async def refused(status: int, says: str, attempt: Any) -> None:
    with pytest.raises(pinned.Refused, match=says) as caught:
        await attempt
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


async def test_a_host_joins_with_a_code(site: Site1) -> None:
    host = HostKey()
    answer = await join(site, site.add_host(ports=(5432,)), host)
    leaf = x509.load_pem_x509_certificate(answer["chain_pem"].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [DB]
    assert leaf.public_key() == host.key.public_key()
    config = answer["config"]
    assert config["appliance_id"] == "spiffe://a.example/sluice/appliance/gw"
    assert config["ports"] == [5432]
    assert config["mesh"] == [["127.0.0.1", 15008]]
    record = site.store.hosts["db1"]
    assert record.host.state is HostState.ACTIVE
    assert [str(a) for a in record.host.addresses] == ["127.0.0.1"]
    assert site.store.audited[-1][1] == "join"


async def test_a_used_code_is_refused_but_the_same_key_may_retry(site: Site1) -> None:
    text, host = site.add_host(), HostKey()
    first = await join(site, text, host)
    again = await join(site, text, host)
    assert first["chain_pem"] != again["chain_pem"]
    await refused(403, "used already", join(site, text, HostKey()))


async def test_the_answer_comes_when_the_data_plane_knows_the_host(
    site: Site1, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.published.done.clear()
    joining = asyncio.ensure_future(join(site, site.add_host(), HostKey()))
    await asyncio.wait_for(site.published.asked.wait(), 10)
    assert site.store.hosts["db1"].host.state is HostState.ACTIVE
    assert not joining.done()
    site.published.done.set()
    assert "chain_pem" in await asyncio.wait_for(joining, 10)

    site.published.done.clear()
    monkeypatch.setattr(server, "PUBLISHED_S", 0.01)  # it is away: the host is joined all the same
    assert "chain_pem" in await join(site, site.add_host("db2"), HostKey())
    assert site.server.counters["answered_unpublished"] == 1


async def test_nothing_is_signed_that_could_not_be_kept(site: Site1, tmp_path: Path) -> None:
    host, text = HostKey(), site.add_host()
    site.store.refuses = Conflict("198.18.0.9 is another host's address")
    with pytest.raises(pinned.Refused, match="another host's"):
        await join(site, text, host)
    assert site.ca.rules.counters["signed"] == 1  # the appliance's own
    site.store.refuses = None
    answer = await join(site, text, host)  # the code is good still
    site.store.refuses = LimitReached("64 certificates that live")
    with pytest.raises(pinned.Refused, match="that live"):
        await site.post("/v1/renew", {"csr": host.csr}, *host.files(tmp_path, answer["chain_pem"]))
    assert site.ca.rules.counters["signed"] == 2


async def test_two_keys_at_once_get_one_leaf(site: Site1) -> None:
    text = site.add_host()
    results = await asyncio.gather(
        *(join(site, text, HostKey()) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(r, dict) for r in results) == 1
    assert sum(isinstance(r, pinned.Refused) for r in results) == 3


async def test_wrong_and_expired_codes_are_refused(site: Site1) -> None:
    text = site.add_host()
    wrong = code.make(code.HOST, site.pin)
    await refused(403, "not good", join(site, str(wrong), HostKey()))
    peers = site.new_code(code.PEER, "db1")  # of the other purpose
    await refused(403, "not good", join(site, peers, HostKey()))
    site.clock.ahead = code.TTL_S
    await refused(403, "expired", join(site, text, HostKey()))
    assert site.server.counters["refused_join"] == 3
    assert [what for _, what, _ in site.store.audited] == ["refused join"] * 3


async def test_strangers_cannot_wash_out_the_audit(
    site: Site1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.server, "_refusals", Bucket(Rate(burst=2, per_second=0)))
    for _ in range(3):
        await refused(403, "not good", join(site, str(code.make(code.HOST, site.pin)), HostKey()))
    assert [what for _, what, _ in site.store.audited] == ["refused join"] * 2
    assert site.server.counters["refusals_not_audited"] == 1
    await join(site, site.add_host(), HostKey())
    assert site.store.audited[-1][1] == "join"


async def test_a_csr_for_another_identity_does_not_use_the_code_up(site: Site1) -> None:
    text, key = site.add_host(), HostKey()
    other = "spiffe://a.example/ns/default/sa/web"
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(other)]), critical=False
        )
        .sign(key.key, hashes.SHA256())
    )
    key.csr_der = csr.public_bytes(Encoding.DER)
    await refused(403, "another identity", join(site, text, key))
    assert await join(site, text, HostKey())


async def test_an_unapproved_identity_is_the_cas_to_refuse(site: Site1) -> None:
    text, key = site.add_host(), HostKey()
    site.ca.rules.withdraw(ROOT, DB)
    await refused(403, "not approved", join(site, text, key))
    site.ca.rules.approve(ROOT, DB, Grade.KEY)
    assert await join(site, text, key)  # the same key may retry


async def test_revoked_and_removed_hosts_are_refused(site: Site1, tmp_path: Path) -> None:
    text, key = site.add_host(), HostKey()
    chain = (await join(site, text, key))["chain_pem"]
    files = key.files(tmp_path / "db1", chain)
    record = site.store.hosts["db1"]
    site.store.hosts["db1"] = replace(record, host=replace(record.host, state=HostState.REVOKED))
    for path, body in (("/v1/renew", {"csr": key.csr}), ("/v1/config", {})):
        await refused(403, "revoked", site.post(path, body, *files))
    del site.store.hosts["db1"]
    await refused(403, "not .*known here", site.post("/v1/config", {}, *files))
    site.store.hosts["db1"] = record
    leaf = x509.load_pem_x509_certificate(chain.encode())
    site.store.denied.add(f"{leaf.serial_number:x}")
    await refused(403, "certificate is revoked", site.post("/v1/renew", {"csr": key.csr}, *files))


async def test_renewal_with_the_current_leaf(site: Site1, tmp_path: Path) -> None:
    text, key = site.add_host(), HostKey()
    first = await join(site, text, key)
    files = key.files(tmp_path / "db1", first["chain_pem"])
    answer = await site.post("/v1/renew", {"csr": key.csr}, *files)
    assert answer["chain_pem"] != first["chain_pem"]
    serial = x509.load_pem_x509_certificate(answer["chain_pem"].encode()).serial_number
    assert site.store.hosts["db1"].host.serial == f"{serial:x}"
    other = HostKey()
    await refused(403, "another key", site.post("/v1/renew", {"csr": other.csr}, *files))
    await refused(403, "current certificate", site.post("/v1/renew", {"csr": key.csr}))
    await refused(403, "current certificate", site.post("/v1/config", {}))


async def test_a_leaf_that_is_no_enrolled_hosts_cannot_renew(site: Site1, tmp_path: Path) -> None:
    """A delegated leaf has the right CA, and even the right identity, but not the key."""
    site.add_host()
    leaf = await leaf_of(site.ca, Need("x", DB, Grade.L3))
    (tmp_path / "l.pem").write_text(leaf.chain_pem)
    (tmp_path / "k.pem").write_text(leaf.key_pem)
    files = (str(tmp_path / "l.pem"), str(tmp_path / "k.pem"))
    await refused(403, "known here", site.post("/v1/renew", {"csr": HostKey().csr}, *files))


async def late(site: Site1, key: HostKey, **changes: Any) -> dict[str, Any]:
    nonce = changes.get("nonce") or (await site.post("/v1/nonce", {}))["nonce"]
    said = server.PROOF_PREFIX + bytes.fromhex(nonce) + hashlib.sha256(key.csr_der).digest()
    signer = changes.get("signer", key)
    signature = signer.key.sign(said, ec.ECDSA(hashes.SHA256()))
    body = {"csr": key.csr, "nonce": nonce, "signature": base64.b64encode(signature).decode()}
    return await site.post("/v1/renew", body)


async def test_a_lapsed_leaf_renews_by_proof_of_its_key_inside_the_window(site: Site1) -> None:
    text, key = site.add_host(), HostKey()
    await join(site, text, key)
    site.clock.ahead = 3 * 86_400
    assert (await late(site, key))["chain_pem"]
    assert site.store.audited[-1][1] == "renew late"
    site.clock.ahead += 86_400 + 7 * 86_400 + 60
    await refused(403, "longer ago", late(site, key))


async def test_false_proofs_are_refused(site: Site1) -> None:
    text, key = site.add_host(), HostKey()
    await join(site, text, key)
    await refused(403, "proof", late(site, key, signer=HostKey()))
    await refused(403, "known here", late(site, HostKey()))
    nonce = (await site.post("/v1/nonce", {}))["nonce"]
    assert await late(site, key, nonce=nonce)
    await refused(403, "used already", late(site, key, nonce=nonce))
    await refused(403, "not ours", late(site, key, nonce="00" * 40))


def test_nonces_end_and_are_bounded() -> None:
    now = [100.0]
    nonces = Nonces(lambda: now[0])
    old = nonces.make()
    now[0] += LIFE_S
    with pytest.raises(Denied, match="too old"):
        nonces.use(old)
    for _ in range(USED_MAX):
        nonces.use(nonces.make())
    with pytest.raises(LimitReached):
        nonces.use(nonces.make())
    now[0] += LIFE_S
    nonces.use(nonces.make())


async def test_a_foreign_cas_client_certificate_is_refused(site: Site1, tmp_path: Path) -> None:
    async with running_site(tmp_path / "b", "b.example") as other:
        text, key = other.add_host(identity="spiffe://b.example/ns/default/sa/db"), HostKey()
        files = key.files(tmp_path / "k", (await join(other, text, key))["chain_pem"])
    with pytest.raises(pinned.Unreachable):
        await site.post("/v1/renew", {"csr": key.csr}, *files)


async def test_the_client_finds_a_man_in_the_middle(site: Site1, tmp_path: Path) -> None:
    async with running_site(tmp_path / "b") as impostor:  # same trust domain, another CA
        with pytest.raises(pinned.Unreachable, match="in between"):
            await asyncio.to_thread(pinned.fetch_site, "127.0.0.1", impostor.port, site.pin)
        known = pinned.Site("127.0.0.1", impostor.port, site.bundle_pem)
        with pytest.raises(pinned.Unreachable, match="not good"):
            await asyncio.to_thread(pinned.post, known, "/v1/nonce", {})


async def test_an_enrolled_host_cannot_pose_as_the_appliance(site: Site1, tmp_path: Path) -> None:
    """It has a leaf of the same CA; the client looks at whom it names before it says a word."""
    text, key = site.add_host(), HostKey()
    cert, private = key.files(tmp_path / "k", (await join(site, text, key))["chain_pem"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, private)
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.transport.abort()

    impostor = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
    async with impostor:
        port = impostor.sockets[0].getsockname()[1]
        known = pinned.Site("127.0.0.1", port, site.bundle_pem)
        with pytest.raises(pinned.Unreachable, match="no appliance's"):
            await asyncio.to_thread(pinned.post, known, "/v1/join", {"secret": "x"})
    assert b"".join(heard) == b""


async def test_agent_and_ca_are_public(site: Site1) -> None:
    def get(path: str) -> bytes:
        context = ssl._create_unverified_context()
        url = f"https://{site.address}{path}"
        with urllib.request.urlopen(url, context=context, timeout=10) as answer:
            return answer.read()

    assert await asyncio.to_thread(get, "/agent") == b"agent"
    assert (await asyncio.to_thread(get, "/ca.pem")).decode() == site.bundle_pem


async def raw(site: Site1, request: bytes) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=context)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


def http(path: str, body: bytes, kind: str = "application/json", more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (http("/v1/join", b"{}"), 400),
        (http("/v1/join", b"[" * 60_000), 400),
        (http("/v1/join", b"\xff\xfe"), 400),
        (http("/v1/join", b'{"secret": 1, "csr": []}'), 400),
        (http("/v1/join", b'{"secret": "' + b"a" * 20 + b'", "csr": "!"}'), 400),
        (http("/v1/join", b'{"secret": "' + b"a" * 20 + b'", "csr": "", "x": 1}'), 400),
        (http("/v1/join", b"{}", kind="text/plain"), 400),
        (http("/v1/join", b"x" * 200_000), 413),
        (http("/v1/nothing", b"{}"), 404),
        (http("/v1/join", b"{}").replace(b"POST", b"GET"), 405),
        (b"\x00\x01 garbage\r\n\r\n", 400),
        (b"GET /ca.pem HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 400),
    ],
)
async def test_bad_requests_get_a_status_and_one_line(
    site: Site1, request_bytes: bytes, status: int
) -> None:
    answer = await raw(site, request_bytes)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) or answer.startswith(
        f"HTTP/1.0 {status} ".encode()
    )
    assert b"Traceback" not in answer
    assert await site.known()  # it goes on


async def test_rates_hold_per_source(site: Site1) -> None:
    site.server._rates = Buckets(Rate(6, 0), Rate(100, 0))
    wrong = code.make(code.HOST, site.pin)
    await refused(403, "not good", join(site, str(wrong), HostKey()))  # 2, then 5 for the refusal
    with pytest.raises(pinned.Unreachable, match="429"):
        await site.known()
    assert site.server.counters["refused_ca"] == 1


async def test_connections_are_bounded(site: Site1, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "EACH_MAX", 2)
    silent = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(3)]
    try:
        loop = asyncio.get_running_loop()
        silent[2].setblocking(False)
        assert await asyncio.wait_for(loop.sock_recv(silent[2], 1), 10) == b""
        assert site.server.connections_refused == 1
    finally:
        for sock in silent:
            sock.close()


async def test_a_taken_port_is_an_error_and_leaves_nothing(site: Site1) -> None:
    again = server.EnrolServer(
        site.site, site.store, site.ca, site.bundle_pem, b"", site.published,
        addresses=("127.0.0.1",), port=site.port,
    )  # fmt: skip
    own = Need("own", site.site.appliance_id, None)
    again.set_leaf(await leaf_of(site.ca, own))
    with pytest.raises(OSError, match=r"enrolment on 127\.0\.0\.1"):
        await again.__aenter__()
    assert again.ports == ()
    assert await site.known()  # the first one serves on


async def test_silent_connections_end(site: Site1, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LIFE_S", 1.5)  # enough for a handshake
    assert await raw(site, b"POST /v1/join HTTP/1.1\r\n") == b""


async def test_the_leaf_can_be_replaced_while_it_serves(site: Site1) -> None:
    def serial() -> str:
        context = pinned.context_for(pinned.Site("", 0, site.bundle_pem), None, None)
        with socket.create_connection(("127.0.0.1", site.port)) as sock:
            with context.wrap_socket(sock) as tls:
                return str((tls.getpeercert() or {})["serialNumber"])

    before = await asyncio.to_thread(serial)
    own = Need("own", site.site.appliance_id, None)
    site.server.set_leaf(await leaf_of(site.ca, own))
    assert await asyncio.to_thread(serial) != before


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    for shape in (JoinRequest, RenewRequest, PeerRequest, Offer):
        with pytest.raises(InvalidInput) as caught:
            read(shape, body)
        assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["secret", "csr", "nonce", "signature", "x"]), JSON))
def test_any_object_is_read_or_refused(body: dict[str, Any]) -> None:
    for shape in (JoinRequest, RenewRequest):
        try:
            message = read(shape, json.dumps(body))
        except InvalidInput:
            continue
        assert isinstance(message.csr, str)


def test_a_refused_secret_is_not_in_the_message() -> None:
    with pytest.raises(InvalidInput) as caught:
        read(JoinRequest, json.dumps({"secret": "S3CRET", "csr": ""}))
    assert "S3CRET" not in str(caught.value)
