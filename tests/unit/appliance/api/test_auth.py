"""appliance.api.auth: who may do what, and whose certificate is believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from appliance.api import auth, peercred
from appliance.api.auth import Caller, Revoked, Role
from appliance.ca.leaf import read
from appliance.errors import Denied
from appliance.system.credentials import Peer
from dataplane.snapshot import Leaf
from tests.unit.appliance.api.pki import Pki

A, B = Pki("a.example"), Pki("b.example")
BUNDLES = {"a.example": A.bundle, "b.example": B.bundle}
NOBODY = Revoked()


class Shown:
    """A gRPC handler's context after a handshake with this leaf."""

    def __init__(self, leaf: Leaf | None, name: str = "ipv4:198.18.0.1:1") -> None:
        self.leaf, self.name = leaf, name

    def peer(self) -> str:
        return self.name

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        if self.leaf is None:
            return {}
        first = self.leaf.chain_pem.split("-----END CERTIFICATE-----")[0]
        return {"x509_pem_cert": [f"{first}-----END CERTIFICATE-----\n".encode()]}


def test_an_appliance_is_believed_for_its_own_trust_domain() -> None:
    facts = auth.remote_appliance(Shown(B.appliance("edge")), BUNDLES, NOBODY)
    assert str(facts.spiffe_id) == "spiffe://b.example/sluice/appliance/edge"


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (None, "no client certificate"),
        (B.leaf("/ns/default/sa/web"), "is not an appliance"),
        (B.leaf("/sluice/appliance/a/b"), "is not an appliance"),
        (Pki("b.example").appliance("edge"), "not issued by its own trust domain's CA"),
        (Pki("c.example").appliance("edge"), "trust domain c.example is not known"),
        (B.forged("spiffe://a.example/sluice/appliance/edge"), "not issued by its own"),
        (B.forged("spiffe://b.example/sluice/appliance/e", hours=(-2, -1)), "not valid now"),
        (B.forged("spiffe://b.example/sluice/appliance/e", hours=(1, 2)), "not valid now"),
        (B.forged(), "has no SPIFFE ID"),
        (B.forged("https://b.example/"), "has no SPIFFE ID"),
        (B.forged("spiffe://b.example/x", "spiffe://b.example/y"), "one SPIFFE ID"),
        (B.forged("spiffe://b.example/sluice/appliance/e", ca=True), "is no leaf"),
    ],
)
def test_other_certificates_are_not(leaf: Leaf | None, said: str) -> None:
    with pytest.raises(Denied, match=said):
        auth.remote_appliance(Shown(leaf), BUNDLES, NOBODY)


def test_what_is_revoked_is_not_believed() -> None:
    leaf = B.appliance("edge")
    serial = read(leaf.chain_pem.encode()).serial
    for revoked in (Revoked(serials=[("b.example", serial)]), Revoked(ids=[leaf.spiffe_id])):
        with pytest.raises(Denied, match="is revoked"):
            auth.remote_appliance(Shown(leaf), BUNDLES, revoked)
    auth.remote_appliance(Shown(leaf), BUNDLES, Revoked(serials=[("a.example", serial)]))


@pytest.mark.parametrize(
    ("path", "role"), [("/sluice/admin/ann", Role.WRITE), ("/sluice/viewer/bob", Role.READ)]
)
def test_admins_write_and_viewers_read(path: str, role: Role) -> None:
    caller = auth.remote_caller(Shown(A.leaf(path)), "a.example", A.bundle, NOBODY)
    assert caller == Caller(f"spiffe://a.example{path}", role)


@pytest.mark.parametrize(
    "leaf",
    [
        A.leaf("/ns/default/sa/admin"),
        A.leaf("/sluice/admin/"),
        A.leaf("/sluice/admin/a/b"),
        A.appliance("edge"),
        B.leaf("/sluice/admin/ann"),
        B.forged("spiffe://a.example/sluice/admin/ann"),
    ],
)
def test_hosts_peers_and_forgers_are_no_admins(leaf: Leaf) -> None:
    with pytest.raises(Denied):
        auth.remote_caller(Shown(leaf), "a.example", A.bundle, NOBODY)


@pytest.mark.parametrize(
    ("uid", "groups", "role"),
    [
        (0, {0}, Role.WRITE),
        (1000, {1000, 6413}, Role.WRITE),
        (1000, {1000}, Role.READ),
        (6410, {6410}, Role.READ),
    ],
)
def test_on_the_box_root_and_the_admin_group_write(
    monkeypatch: pytest.MonkeyPatch, uid: int, groups: set[int], role: Role
) -> None:
    peer = Peer(uid, uid, 1, frozenset(groups))
    monkeypatch.setitem(peercred._live, "sluice/x/1", peer)
    caller = auth.local_caller(Shown(None, "unix-abstract:sluice/x/1"), 6413)
    assert caller == Caller(f"uid {uid}", role)
    if role is Role.READ:
        with pytest.raises(Denied, match="may only read"):
            auth.need_write(caller)
    else:
        auth.need_write(caller)


def test_without_credentials_nothing_is_allowed() -> None:
    with pytest.raises(Denied):
        auth.local_caller(Shown(None, "unix:"), 6413)
