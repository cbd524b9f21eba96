"""Joining and being signed, on a running site: what is refused, in which words, and that it is
counted. The attacker is on the hosts' segment, or is the daemon itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.api._gen import admin_pb2 as pb
from appliance.ca.client import CaClient
from appliance.demo.topology import SiteSpace
from appliance.enroll import code as codes
from appliance.errors import Conflict, Denied, InvalidInput
from tests.netns.enrol import csr, post, secret
from tests.netns.helpers import run, unprivileged
from tests.netns.mesh import Mesh

DAEMON, CA, DATAPLANE, NOBODY = 6410, 6411, 6412, 65534


@pytest.fixture
def source(mesh: Mesh) -> Iterator[str]:
    """An address that has asked for nothing before: refusals use up a source's rate."""
    with mesh.address(f"198.18.0.{next(_fresh)}") as address:
        yield address


_fresh = count(100)


@contextmanager
def invited(mesh: Mesh, name: str) -> Iterator[pb.AddHostReply]:
    """A host with an agent that has not joined yet."""
    reply = mesh.add(mesh.a, name, agent=True)
    try:
        yield reply
    finally:
        mesh.call(mesh.a, lambda client: client.remove_host(name))


def state(mesh: Mesh, name: str) -> str:
    hosts = mesh.call(mesh.a, lambda client: client.hosts())
    return next(host.state for host in hosts if host.name == name)


def test_a_wrong_code_is_refused_counted_and_audited(mesh: Mesh, source: str) -> None:
    since = time.time()
    with invited(mesh, "late1"):
        before = mesh.status(mesh.a).counters["enrol_refused_join"]
        status, said = post(mesh, source, "/v1/join", {"secret": "0" * 20, "csr": csr()})
        assert status == 403
        assert said == {"error": "the code is not good here: check it, or ask for a new one"}
        assert mesh.status(mesh.a).counters["enrol_refused_join"] == before + 1
        assert mesh.audited(mesh.a, since, "refused join")
        assert state(mesh, "late1") == "pending"


def test_a_code_is_good_once_but_for_the_same_key(mesh: Mesh, source: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with invited(mesh, "once1") as added:
        good = {"secret": secret(added.code), "csr": csr(key=key)}
        status, said = post(mesh, source, "/v1/join", good)
        assert status == 200
        assert said["config"]["spiffe_id"] == "spiffe://a.example/ns/default/sa/once1"
        assert (
            post(mesh, source, "/v1/join", good)[0] == 200
        )  # the answer was lost: the key may retry
        status, said = post(mesh, source, "/v1/join", {"secret": secret(added.code), "csr": csr()})
        assert status == 403
        assert "used already" in said["error"]
        assert state(mesh, "once1") == "active"


def test_an_expired_code_is_refused(mesh: Mesh, source: str) -> None:
    with invited(mesh, "slow1") as added:
        assert 0 < added.code_expires - time.time() <= 15 * 60
        # Sixteen minutes pass: for the store, they have.
        with closing(sqlite3.connect(mesh.a.paths.database)) as db, db:
            changed = db.execute(
                "UPDATE codes SET expires = expires - 960 WHERE subject = 'slow1'"
            ).rowcount
        assert changed == 1
        status, said = post(mesh, source, "/v1/join", {"secret": secret(added.code), "csr": csr()})
        assert status == 403
        assert "expired" in said["error"]
        assert state(mesh, "slow1") == "pending"


def test_a_newer_code_ends_the_older_and_a_removed_host_its_own(mesh: Mesh, source: str) -> None:
    with invited(mesh, "again1") as added:
        first = added.code
    status, said = post(mesh, source, "/v1/join", {"secret": secret(first), "csr": csr()})
    assert (status, "not good" in said["error"]) == (403, True)


@pytest.mark.parametrize(
    "wanted",
    [
        "spiffe://a.example/ns/default/sa/web",
        "spiffe://b.example/ns/default/sa/thief1",
        "spiffe://a.example/sluice/appliance/edge-a",
        "spiffe://a.example",
    ],
)
def test_a_csr_for_another_identity_is_refused_and_the_code_stays_good(
    mesh: Mesh, source: str, wanted: str
) -> None:
    with invited(mesh, "thief1") as added:
        asked = {"secret": secret(added.code), "csr": csr(wanted)}
        status, said = post(mesh, source, "/v1/join", asked)
        assert status == 403
        assert "names another identity" in said["error"]
        own = csr("spiffe://a.example/ns/default/sa/thief1")
        assert post(mesh, source, "/v1/join", {"secret": secret(added.code), "csr": own})[0] == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"secret": 7, "csr": ""}', "secret"),
        (b'{"secret": "00000000000000000000"}', "csr"),
        (b'{"secret": "00000000000000000000", "csr": "", "admin": true}', "admin"),
        (b'{"secret": "00000000000000000000", "csr": "AAAA"}', "CSR"),
        (b"[" * 60_000, "not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_requests_are_told_what_is_wrong(
    mesh: Mesh, source: str, body: bytes, says: str
) -> None:
    status, said = post(mesh, source, "/v1/join", body)
    assert status == 400
    assert says in said["error"]
    assert "\n" not in said["error"]


def test_guessing_is_slowed_down_and_counted(mesh: Mesh, source: str) -> None:
    before = mesh.status(mesh.a).counters["enrol_refused_join"]
    answers = [
        post(mesh, source, "/v1/join", {"secret": f"{number:020x}", "csr": csr()})[0]
        for number in range(20)
    ]
    assert answers[0] == 403
    assert set(answers) == {403, 429}
    assert mesh.status(mesh.a).counters["enrol_refused_join"] == before + 20


def test_the_agent_says_in_one_line_why_it_cannot_join(mesh: Mesh) -> None:
    a2 = mesh.a.hosts["a2"]
    with invited(mesh, "a2") as added:
        wrong = str(codes.make(codes.HOST, codes.parse(added.code).pin))
        done = mesh.paste(mesh.a, a2, added.join_line, wrong)
        assert done.returncode != 0
        assert "the code is not good here" in done.stderr
        stranger = str(codes.Code(codes.HOST, codes.parse(added.code).secret, bytes(16)))
        done = mesh.paste(mesh.a, a2, added.join_line, stranger)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert state(mesh, "a2") == "pending"


def test_a_wrong_or_used_peer_code_adds_no_peer(mesh: Mesh) -> None:
    invited_ = mesh.call(mesh.b, lambda client: client.invite_peer("site-c"))
    parsed = codes.parse(invited_.code)
    wrong = str(codes.make(codes.PEER, parsed.pin))
    host = str(codes.Code(codes.HOST, parsed.secret, parsed.pin))

    def add(code: str) -> None:
        mesh.call(mesh.a, lambda client: client.add_peer("site-x", invited_.address, code))

    for bad in (wrong, host):
        with pytest.raises((Denied, InvalidInput)):
            add(bad)
    with pytest.raises(Conflict, match=r"a\.example is a peer already: site-a"):
        add(invited_.code)
    assert [p.name for p in mesh.call(mesh.a, lambda c: c.peers())] == ["site-b"]


# -- the CA against a daemon that was taken over ---------------------------------------------------

ASK_CA = """
import asyncio, sys
from pathlib import Path
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from appliance.ca.client import CaClient
from appliance.ca.issue import GRADE_OF
from appliance.errors import ApplianceError

async def main(path, verb, spiffe_id, grade):
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    der = csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    async with CaClient(Path(path)) as ca:
        try:
            if verb == "sign":
                await ca.sign(der, spiffe_id, GRADE_OF.get(grade), 3600)
            elif verb == "approve":
                await ca.approve(spiffe_id, GRADE_OF[grade])
            elif verb == "withdraw":
                await ca.withdraw(spiffe_id)
            elif verb == "approvals":
                await ca.approvals()
            else:
                await ca.import_key(b"", b"")
        except ApplianceError as error:
            print(type(error).__name__, error)
        else:
            print("done")

asyncio.run(main(*sys.argv[1:]))
"""


def ask_ca(
    site: SiteSpace, uid: int, verb: str, spiffe_id: str = "", grade: str = "l3", *groups: int
) -> str:
    """What the CA answers to a user of the box."""
    command = site.python(
        "-c", ASK_CA, str(site.paths.ca_socket), verb, spiffe_id, grade,
        run_as=unprivileged(uid, *groups),
    )  # fmt: skip
    done = run(command, env=site.environment(), cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ca_counters(site: SiteSpace) -> dict[str, int]:
    async def go() -> dict[str, int]:
        async with CaClient(site.paths.ca_socket) as ca:
            return dict((await ca.info()).counters)

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("spiffe_id", "says"),
    [
        ("spiffe://a.example/ns/default/sa/stranger", "is not approved"),
        ("spiffe://b.example/ns/default/sa/payments", "not of this site's trust domain"),
        ("spiffe://a.example/sluice/admin/me", "with `sluice ca admin`"),
        ("spiffe://a.example/sluice/appliance/edge-z", "is no workload"),
        ("spiffe://a.example", "is no workload"),
        ("nonsense", "nonsense"),
    ],
)
def test_the_daemon_gets_no_identity_that_is_not_approved(
    mesh: Mesh, spiffe_id: str, says: str
) -> None:
    before = ca_counters(mesh.a).get("refused_sign", 0)
    said = ask_ca(mesh.a, DAEMON, "sign", spiffe_id)
    assert said.startswith(("Denied", "InvalidInput"))
    assert says in said
    assert ca_counters(mesh.a)["refused_sign"] == before + 1


def test_the_daemon_gets_what_is_approved_and_its_own(mesh: Mesh) -> None:
    assert ask_ca(mesh.a, DAEMON, "sign", "spiffe://a.example/ns/default/sa/web", "l2") == "done"
    own = "spiffe://a.example/sluice/appliance/edge-a"
    assert ask_ca(mesh.a, DAEMON, "sign", own, "none") == "done"
    assert ask_ca(mesh.a, DAEMON, "sign", own, "key").startswith("Denied")


@pytest.mark.parametrize("verb", ["approve", "withdraw", "approvals", "import"])
def test_the_daemon_may_not_approve_even_in_the_admin_group(mesh: Mesh, verb: str) -> None:
    web = "spiffe://a.example/ns/default/sa/web"
    for groups in ((), (6413,), (DAEMON, 6413)):
        assert ask_ca(mesh.a, DAEMON, verb, web, "key", *groups).startswith("Denied"), groups
    assert ask_ca(mesh.a, DAEMON, "sign", web, "l2") == "done"


def test_only_the_daemon_has_certificates_signed_and_only_admins_approve(mesh: Mesh) -> None:
    web = "spiffe://a.example/ns/default/sa/web"
    for uid in (0, NOBODY, DATAPLANE):
        assert ask_ca(mesh.a, uid, "sign", web).startswith("Denied"), uid
    for uid in (NOBODY, DATAPLANE):
        assert ask_ca(mesh.a, uid, "approve", web).startswith("Denied"), uid
    assert ask_ca(mesh.a, NOBODY, "approve", web, "key", 6413) == "done"


def test_a_document_with_a_new_identity_needs_an_admin_at_the_box(mesh: Mesh) -> None:
    """The daemon alone cannot give a ServiceEntry an identity; `sluice apply` by an admin can."""
    text = """\
apiVersion: sluice.dev/v1
kind: Host
metadata: {name: printer, namespace: office}
spec: {addresses: [198.18.0.90], serviceAccount: printer}
"""
    reply = mesh.apply(mesh.a, text, dry_run=True)
    assert list(reply.identities) == ["spiffe://a.example/ns/office/sa/printer"]
    asked = ask_ca(mesh.a, DAEMON, "sign", "spiffe://a.example/ns/office/sa/printer")
    assert "is not approved" in asked
    mesh.apply(mesh.a, text)
    hosts = mesh.call(mesh.a, lambda client: client.hosts())
    assert any(host.name == "printer" and host.not_after for host in hosts)
