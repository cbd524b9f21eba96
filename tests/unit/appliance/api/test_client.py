"""The admin's client approves at the CA what the admin wrote, and nothing that the daemon adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from appliance.api import client as module
from appliance.api.client import AdminClient, pb, read_sources
from appliance.api.remote import Remote
from appliance.ca.issue import Approval
from appliance.config.load import Source, load
from appliance.config.notes import DocumentErrors
from appliance.errors import Conflict, Denied, Unavailable
from dataplane.snapshot import Grade

TD = "spiffe://a.example"
DOCUMENT = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay.shop.mesh]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: tcp, protocol: TCP}]
  endpoints: [{address: 192.0.2.7, serviceAccount: payer}]
"""


class FakeCa:
    """Remembers what was approved and withdrawn."""

    def __init__(self) -> None:
        self.held: dict[str, Grade] = {}

    def __call__(self, path: object) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    async def approvals(self) -> tuple[Approval, ...]:
        return tuple(Approval(spiffe_id, grade) for spiffe_id, grade in self.held.items())

    async def approve(self, spiffe_id: str, grade: Grade) -> None:
        self.held[spiffe_id] = grade

    async def approve_each(self, spiffe_ids: Sequence[str], grade: Grade) -> None:
        self.held.update(dict.fromkeys(spiffe_ids, grade))

    async def withdraw(self, spiffe_id: str) -> None:
        del self.held[spiffe_id]


class FakeStub:
    """A daemon that wants `identities` approved for any apply."""

    def __init__(self, *identities: str) -> None:
        self.identities = identities
        self.applied = 0
        self.hosts = [
            pb.Host(name="db1", spiffe_id=f"{TD}/ns/default/sa/db"),
            pb.Host(name="web1", spiffe_id=f"{TD}/ns/default/sa/web"),
            pb.Host(name="web2", spiffe_id=f"{TD}/ns/default/sa/web"),
        ]

    async def Apply(self, request: pb.ApplyRequest, **options: float) -> pb.ApplyReply:
        if request.dry_run or request.approve_first:
            return pb.ApplyReply(identities=self.identities)
        self.applied += 1
        return pb.ApplyReply()

    async def GetStatus(self, request: Any, **options: float) -> pb.Status:
        return pb.Status(trust_domain="a.example")

    async def AddHost(self, request: pb.AddHostRequest, **options: float) -> pb.AddHostReply:
        return pb.AddHostReply()

    async def ListHosts(self, request: Any, **options: float) -> pb.HostList:
        return pb.HostList(hosts=self.hosts)

    async def ListServices(self, request: Any, **options: float) -> pb.ServiceList:
        return pb.ServiceList()

    async def RevokeHost(self, request: pb.NameRequest, **options: float) -> pb.RevokeReply:
        return pb.RevokeReply()


def client_of(stub: FakeStub) -> AdminClient:
    client = AdminClient()
    client._make, client._make_stub = lambda options: None, lambda channel: stub  # type: ignore
    return client


@pytest.fixture
def ca(monkeypatch: pytest.MonkeyPatch) -> FakeCa:
    fake = FakeCa()
    monkeypatch.setattr(module, "CaClient", fake)
    return fake


async def test_apply_approves_what_the_documents_name(ca: FakeCa) -> None:
    stub = FakeStub(f"{TD}/ns/shop/sa/payer")
    await client_of(stub).apply([("pay.yaml", DOCUMENT)])
    assert ca.held == {f"{TD}/ns/shop/sa/payer": Grade.PORT}
    assert stub.applied == 1


@pytest.mark.parametrize("strange", ["ns/shop/sa/root", "ns/default/sa/payer"])
async def test_apply_refuses_what_the_daemon_adds(ca: FakeCa, strange: str) -> None:
    stub = FakeStub(f"{TD}/ns/shop/sa/payer", f"{TD}/{strange}")
    with pytest.raises(Denied, match="does not name"):
        await client_of(stub).apply([("pay.yaml", DOCUMENT)])
    assert ca.held == {}
    assert stub.applied == 0


async def test_documents_that_cannot_be_read_have_nothing_approved(ca: FakeCa) -> None:
    stub = FakeStub(f"{TD}/ns/shop/sa/payer")
    with pytest.raises(DocumentErrors):
        await client_of(stub).apply([("pay.yaml", "kind: [")])
    assert ca.held == {}
    assert stub.applied == 0


def test_a_file_without_an_end_is_refused_by_its_length() -> None:
    sources = [Source(*each) for each in read_sources([Path("/dev/zero")])]
    with pytest.raises(DocumentErrors, match="longer than"):
        load(sources)


async def test_from_elsewhere_nothing_is_approved(ca: FakeCa) -> None:
    stub = FakeStub(f"{TD}/ns/shop/sa/payer")
    client = client_of(stub)
    client._remote = Remote("192.0.2.1:15011", Path("none"))
    await client.apply([("pay.yaml", DOCUMENT)])
    assert ca.held == {}
    assert stub.applied == 1


async def test_an_approval_never_gets_weaker(ca: FakeCa) -> None:
    ca.held[f"{TD}/ns/shop/sa/payer"] = Grade.KEY
    await client_of(FakeStub(f"{TD}/ns/shop/sa/payer")).apply([("pay.yaml", DOCUMENT)])
    assert ca.held == {f"{TD}/ns/shop/sa/payer": Grade.KEY}


@pytest.mark.parametrize(
    ("fields", "grade"),
    [
        ({"agent": True}, Grade.KEY),
        ({"interface": "eth3", "mac": "02:00:00:00:00:01"}, Grade.PORT),
        ({"mac": "02:00:00:00:00:01"}, Grade.L2),
        ({}, Grade.L3),
    ],
)
async def test_a_host_is_approved_for_its_own_grade(
    ca: FakeCa, fields: dict[str, Any], grade: Grade
) -> None:
    await client_of(FakeStub()).add_host(pb.AddHostRequest(name="db1", **fields))
    assert ca.held == {f"{TD}/ns/default/sa/db1": grade}


async def test_revoking_withdraws_unless_another_host_is_the_same(ca: FakeCa) -> None:
    ca.held = {f"{TD}/ns/default/sa/db": Grade.KEY, f"{TD}/ns/default/sa/web": Grade.L2}
    client = client_of(FakeStub())
    await client.revoke_host("web1")
    assert f"{TD}/ns/default/sa/web" in ca.held
    await client.revoke_host("db1")
    assert f"{TD}/ns/default/sa/db" not in ca.held


@pytest.mark.parametrize("before", [None, Grade.L3])
async def test_a_host_that_was_not_added_is_not_approved(
    ca: FakeCa, monkeypatch: pytest.MonkeyPatch, before: Grade | None
) -> None:
    identity = f"{TD}/ns/default/sa/db9"
    ca.held = {identity: before} if before is not None else {}
    held = dict(ca.held)
    stub = FakeStub()

    async def refuse(request: pb.AddHostRequest, **options: float) -> pb.AddHostReply:
        assert ca.held == {identity: Grade.KEY}
        raise Conflict("host db9 is there already")

    monkeypatch.setattr(stub, "AddHost", refuse)
    with pytest.raises(Conflict):
        await client_of(stub).add_host(pb.AddHostRequest(name="db9", agent=True))
    assert ca.held == held


async def test_a_revocation_is_done_when_the_ca_does_not_answer(
    ca: FakeCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent() -> tuple[Approval, ...]:
        raise Unavailable("the CA does not answer")

    monkeypatch.setattr(ca, "approvals", silent)
    client = client_of(FakeStub())
    assert await client.revoke_host("db1") == pb.RevokeReply()
    (line,) = client.left_undone
    assert f"sluice ca withdraw {TD}/ns/default/sa/db" in line
