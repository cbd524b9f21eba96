"""What the CA answers to whom: roles, counters, audit, limits. No socket here."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.ca import key, table
from appliance.ca.issue import Approval
from appliance.ca.server import REFUSAL_AUDIT_RATE, Ca, Roles, grade_from
from appliance.ca.table import Table
from appliance.errors import Conflict, Denied, InvalidInput, LimitReached, NotFound
from appliance.rate import Rate
from appliance.system.credentials import Peer
from dataplane.snapshot import Grade

NOW = 1_800_000_000
DAEMON = Peer(6410, 6410, 1, frozenset({6410}))
ROOT = Peer(0, 0, 2, frozenset({0}))
ADMIN = Peer(1000, 1000, 3, frozenset({1000, 6413}))
STRANGER = Peer(1001, 1001, 4, frozenset({1001}))
DAEMON_IN_ADMIN = Peer(6410, 6410, 5, frozenset({6410, 6413}))
WEB = "spiffe://a.example/ns/default/sa/web"
GATEWAY = "spiffe://a.example/sluice/appliance/gw"


def csr(private: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(private or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.DER)


@pytest.fixture
def store(tmp_path: Path):
    opened = Table(tmp_path / "ca.db")
    yield opened
    opened.close()


def ca_of(tmp_path: Path, store: Table, rate: Rate | None = None) -> Ca:
    authority = key.load_or_create(tmp_path, "a.example", NOW)
    more = {} if rate is None else {"sign_rate": rate}
    return Ca(tmp_path, authority, store, Roles(6410, 6413), "gw", lambda: NOW, **more)


def test_daemon_signs_what_is_approved(tmp_path: Path, store: Table) -> None:
    ca = ca_of(tmp_path, store)
    ca.approve(ADMIN, WEB, Grade.L2)
    signed = ca.sign(DAEMON, csr(), WEB, Grade.L2, 3600)
    assert signed.not_after == NOW + 3600
    assert ca.counters["signed"] == 1
    said = store.audit_entries(1)[0]
    assert (said.who, said.what) == ("uid 6410", "sign")
    assert signed.serial in said.detail


@pytest.mark.parametrize("peer", [ROOT, ADMIN, STRANGER])
def test_nobody_else_signs(tmp_path: Path, store: Table, peer: Peer) -> None:
    ca = ca_of(tmp_path, store)
    ca.approve(ADMIN, WEB, Grade.KEY)
    with pytest.raises(Denied):
        ca.sign(peer, csr(), WEB, None, 3600)


@pytest.mark.parametrize("peer", [DAEMON, DAEMON_IN_ADMIN, STRANGER])
def test_neither_daemon_nor_stranger_approves(tmp_path: Path, store: Table, peer: Peer) -> None:
    ca = ca_of(tmp_path, store)
    with pytest.raises(Denied):
        ca.approve(peer, WEB, Grade.KEY)
    store.approve(Approval(WEB, Grade.KEY))
    with pytest.raises(Denied):
        ca.withdraw(peer, WEB)
    with pytest.raises(Denied):
        ca.approvals(peer)
    with pytest.raises(Denied):
        ca.audit_list(peer, 1)
    assert store.approval(WEB) is not None


def test_unapproved_above_its_grade_or_withdrawn_is_refused(tmp_path: Path, store: Table) -> None:
    ca = ca_of(tmp_path, store)
    with pytest.raises(Denied, match="not approved"):
        ca.sign(DAEMON, csr(), WEB, Grade.L3, 3600)
    ca.approve(ROOT, WEB, Grade.L3)
    with pytest.raises(Denied, match="up to grade l3"):
        ca.sign(DAEMON, csr(), WEB, Grade.KEY, 3600)
    with pytest.raises(Denied, match="key of its own"):
        ca.sign(DAEMON, csr(), WEB, None, 3600)
    ca.withdraw(ROOT, WEB)
    with pytest.raises(Denied, match="not approved"):
        ca.sign(DAEMON, csr(), WEB, Grade.L3, 3600)
    with pytest.raises(NotFound):
        ca.withdraw(ROOT, WEB)


def test_appliance_signs_for_itself_without_grade_and_with_a_name(
    tmp_path: Path, store: Table
) -> None:
    ca = ca_of(tmp_path, store)
    signed = ca.sign(DAEMON, csr(), GATEWAY, None, 3600)
    leaf = x509.load_pem_x509_certificate(signed.chain_pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gw.sluice.a.example"]
    with pytest.raises(Denied):
        ca.sign(DAEMON, csr(), GATEWAY, Grade.KEY, 3600)
    with pytest.raises(InvalidInput):
        ca.sign(DAEMON, csr(), GATEWAY + "2", None, 3600)
    with pytest.raises(InvalidInput):
        ca.approve(ROOT, GATEWAY, Grade.KEY)


def test_signing_has_a_rate_limit(tmp_path: Path, store: Table) -> None:
    ca = ca_of(tmp_path, store, Rate(burst=2, per_second=0))
    ca.approve(ROOT, WEB, Grade.KEY)
    for _ in range(2):
        ca.sign(DAEMON, csr(), WEB, None, 3600)
    with pytest.raises(LimitReached):
        ca.sign(DAEMON, csr(), WEB, None, 3600)


def test_refusals_are_counted_and_cannot_flood_the_audit(tmp_path: Path, store: Table) -> None:
    ca = ca_of(tmp_path, store)
    often = int(REFUSAL_AUDIT_RATE.burst) + 50
    for _ in range(often):
        ca.refused(STRANGER, "sign", Denied("no"))
    assert ca.counters["refused_sign"] == often
    written = len(store.audit_entries(1000))
    assert written + ca.counters["refusals_not_audited"] == often
    assert written < often


def test_import_only_by_root_and_only_before_hosts(tmp_path: Path, store: Table) -> None:
    ca = ca_of(tmp_path, store)
    for peer in (DAEMON, ADMIN, STRANGER):
        with pytest.raises(Denied):
            ca.import_key(peer, b"", b"")
    ca.sign(DAEMON, csr(), GATEWAY, None, 3600)
    with pytest.raises(InvalidInput):  # the appliance's own leaf is no hindrance
        ca.import_key(ROOT, b"", b"")
    ca.approve(ROOT, WEB, Grade.KEY)
    ca.sign(DAEMON, csr(), WEB, None, 3600)
    with pytest.raises(Conflict):
        ca.import_key(ROOT, b"", b"")


def test_grades_by_name() -> None:
    assert grade_from("port") is Grade.PORT
    for bad in ("", "none", "L3", "4", "key "):
        with pytest.raises(InvalidInput):
            grade_from(bad)


def test_table_survives_reopening_and_keeps_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.db"
    first = Table(path)
    first.approve(Approval(WEB, Grade.L2, "uid 0", NOW))
    first.issued("a1", WEB, Grade.L2, NOW + 10, NOW)
    first.close()
    second = Table(path)
    assert second.approvals() == (Approval(WEB, Grade.L2, "uid 0", NOW),)
    assert second.live(NOW, but="") == 1
    assert second.live(NOW + 11, but="") == 0
    monkeypatch.setattr(table, "APPROVALS_MAX", 1)
    second.approve(Approval(WEB, Grade.KEY))  # a change of one is no addition
    with pytest.raises(LimitReached):
        second.approve(Approval(WEB + "2", Grade.KEY))
    monkeypatch.setattr(table, "AUDIT_ROWS_MAX", 10)
    for number in range(table._TRIM_EVERY):
        second.audit(number, "x", "y", "z" * 5000)
    entries = second.audit_entries(100_000)
    assert len(entries) == 10
    assert len(entries[0].detail) == 1000
    second.close()


OPERATOR = "spiffe://a.example/sluice/admin/eva"


@pytest.mark.parametrize("kind", ["admin", "viewer"])
def test_admins_sign_their_own_kind(tmp_path: Path, store: Table, kind: str) -> None:
    ca = ca_of(tmp_path, store)
    identity = f"spiffe://a.example/sluice/{kind}/eva"
    signed = ca.sign(ADMIN, csr(), identity, None, 10**6)
    leaf = x509.load_pem_x509_certificate(signed.chain_pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity]
    assert signed.not_after == NOW + 24 * 3600


@pytest.mark.parametrize("peer", [DAEMON, DAEMON_IN_ADMIN, STRANGER])
def test_nobody_else_makes_an_admin(tmp_path: Path, store: Table, peer: Peer) -> None:
    with pytest.raises(Denied):
        ca_of(tmp_path, store).sign(peer, csr(), OPERATOR, None, 3600)


def test_an_admin_signs_no_workload_and_no_grade(tmp_path: Path, store: Table) -> None:
    ca = ca_of(tmp_path, store)
    ca.approve(ADMIN, WEB, Grade.KEY)
    for identity, grade in ((WEB, None), (OPERATOR, Grade.KEY), (GATEWAY, None)):
        with pytest.raises(Denied):
            ca.sign(ADMIN, csr(), identity, grade, 3600)


@pytest.mark.parametrize("path", ["admin/", "admin/a/b", "admin/UP", "root/eva", "admin"])
def test_odd_operators_are_no_workloads_either(tmp_path: Path, store: Table, path: str) -> None:
    for peer in (ADMIN, DAEMON):
        with pytest.raises((Denied, InvalidInput)):
            ca_of(tmp_path, store).sign(peer, csr(), f"spiffe://a.example/sluice/{path}", None, 60)


def test_admins_certificates_are_found_by_name(tmp_path: Path, store: Table) -> None:
    ca = ca_of(tmp_path, store)
    signed = [ca.sign(ADMIN, csr(), OPERATOR, None, 3600) for _ in range(2)]
    signed.append(ca.sign(ROOT, csr(), OPERATOR.replace("admin", "viewer"), None, 60))
    ca.sign(ADMIN, csr(), OPERATOR + "-2", None, 3600)
    found = ca.operator_leaves(ADMIN, "eva")
    assert {each.serial for each in found} == {each.serial for each in signed}
    ca._clock = lambda: NOW + 61
    assert {e.serial for e in ca.operator_leaves(ROOT, "eva")} == {s.serial for s in signed[:2]}
    assert ca.operator_leaves(ROOT, "ev") == ()
    for peer in (DAEMON, DAEMON_IN_ADMIN, STRANGER):
        with pytest.raises(Denied):
            ca.operator_leaves(peer, "eva")
    with pytest.raises(InvalidInput):
        ca.operator_leaves(ROOT, "eva/../x")
