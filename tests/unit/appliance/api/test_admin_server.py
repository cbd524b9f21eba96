"""appliance.api.server over its real Unix socket: who may, what is answered, what is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from appliance.api import server as admin_server
from appliance.api._gen import admin_pb2 as pb
from appliance.api._gen import admin_pb2_grpc
from appliance.api.auth import Caller, Role, local_caller
from appliance.api.client import AdminClient
from appliance.api.peercred import PeerCredFront, inner_directory
from appliance.api.server import DETAILS_MAX, AdminService, details
from appliance.errors import Conflict, Denied, InvalidInput, NotFound, Unavailable
from appliance.observe.flows import Flows
from appliance.observe.traffic import Traffic
from appliance.paths import Paths
from appliance.registry.health import Health
from appliance.registry.nic_settings import NicSettings
from appliance.report import Reporter, Troubles
from appliance.system.credentials import Seats
from appliance.system.offload import Offload
from dataplane.events import EventKind, Fallback, FlowKind, Reason, RecordLayer
from dataplane.snapshot import Grade
from dataplane.stats import StatsReport
from tests.unit.appliance.observe.events import event
from tests.unit.appliance.publish.world import World
from tests.unit.appliance.sites import SITE, own


class Supervisor:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def call(self, verb: str, timeout_s: float = 120.0, **arguments: Any) -> dict[str, Any]:
        self.asked.append(verb)
        if verb == "status":
            return {"processes": [{"name": "ca", "pid": 7, "state": "serving", "since": 1}]}
        return {}


class Desk:
    """A served admin API over a World."""

    def __init__(self, path: Path) -> None:
        self.world = world = World(path)
        self.flows, self.traffic, self.troubles = Flows(), Traffic(), Troubles({})
        self.supervisor = Supervisor()
        self.offload = Offload(
            SITE, lambda: "auto", self.supervisor, NicSettings(world.store), world.audit.record
        )
        self.paths = Paths(path / "state", path / "run")
        self.paths.daemon_run.mkdir(parents=True)
        reporter = Reporter(
            SITE, world.revisions, world.view, world.publisher, world.catalog, world.leaves,
            self.traffic, self.flows, world.audit, Health(world.view.set_health), self.troubles,
            self.supervisor, ca_not_after=lambda: int(world.time) + 86_400 * 10,
            dropped=lambda: 3, refusals=lambda: {"nft_spoofed": 7}, checks=self.checks,
            clock=world.clock,
        )  # fmt: skip
        self.caller: Caller | None = None
        self.service = AdminService(
            SITE,
            lambda context: self.caller or local_caller(context, 6413),
            applier=world.applier,
            membership=world.membership,
            publisher=world.publisher,
            revisions=world.revisions,
            view=world.view,
            catalog=world.catalog,
            leaves=world.leaves,
            flows=self.flows,
            audit=world.audit,
            reporter=reporter,
            supervisor=self.supervisor,
            peer_detail=lambda name: "",
            dropped=lambda: 3,
            offload=self.offload,
        )
        self.reporter = reporter

    async def checks(self) -> list[tuple[str, str, str]]:
        return [("error", "nft is missing", "install nftables")]

    def client(self) -> AdminClient:
        return AdminClient(self.paths)


@contextlib.asynccontextmanager
async def served(path: Path) -> AsyncIterator[tuple[Desk, AdminClient, Any]]:
    """The desk, the project's client, and a bare stub."""
    desk = Desk(path)
    await desk.world.start()
    grpc_server = grpc.aio.server(options=admin_server.OPTIONS)
    admin_pb2_grpc.add_AdminServicer_to_server(desk.service, grpc_server)
    inner = inner_directory(desk.paths.daemon_run / "inner") / "admin.sock"
    grpc_server.add_insecure_port(f"unix:{inner}")
    await grpc_server.start()
    try:
        async with (
            PeerCredFront(desk.paths.admin_socket, inner, Seats(64)),
            grpc.aio.insecure_channel(f"unix:{desk.paths.admin_socket}") as channel,
            desk.client() as client,
        ):
            yield desk, client, admin_pb2_grpc.AdminStub(channel)
    finally:
        await grpc_server.stop(None)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[tuple[Desk, AdminClient, Any]]:
    async with served(tmp_path) as parts:
        yield parts


ONE = ("one.yaml", own("Service", "one", "{ports: [{port: 80}]}"))
Api = tuple[Desk, AdminClient, Any]


def writes(stub: Any) -> dict[str, Any]:
    """Every call that changes something."""
    name = pb.NameRequest(name="x")
    return {
        "apply": stub.Apply(pb.ApplyRequest(sources=[pb.Source(file=ONE[0], text=ONE[1])])),
        "apply offload": stub.ApplyOffload(pb.ListRequest()),
        "revert offload": stub.RevertOffload(pb.ListRequest()),
        "delete": stub.Delete(pb.DeleteRequest(kind="Service", name="one")),
        "rollback": stub.Rollback(pb.RollbackRequest(revision=1)),
        "confirm": stub.Confirm(pb.ConfirmRequest()),
        "add host": stub.AddHost(pb.AddHostRequest(name="x", addresses=["198.18.0.9"])),
        "remove host": stub.RemoveHost(name),
        "revoke host": stub.RevokeHost(name),
        "invite peer": stub.InvitePeer(name),
        "add peer": stub.AddPeer(pb.AddPeerRequest(name="x", address="198.18.0.9", code="c")),
        "remove peer": stub.RemovePeer(name),
        "revoke operator": stub.RevokeOperator(pb.RevokeOperatorRequest(name="x")),
        "restart": stub.RestartDataplane(pb.ListRequest()),
    }


async def test_readers_change_nothing(api: Api) -> None:
    desk, client, stub = api
    desk.caller = Caller("uid 1000", Role.READ)
    for what, call in writes(stub).items():
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED, what
        assert "may only read" in (failure.value.details() or "")
    assert desk.world.revisions.list() == ()
    assert desk.world.audit.entries() == ()
    assert "status" not in desk.supervisor.asked
    plan = await client.apply([ONE], dry_run=True)
    assert [change.what for change in plan.changes] == ["created"]


async def test_readers_may_try_what_a_change_would_do(api: Api) -> None:
    desk, client, stub = api
    desk.caller = Caller("ann", Role.WRITE)
    two = own("Service", "two", "{ports: [{port: 80}]}")
    first = (await stub.Apply(pb.ApplyRequest(sources=[pb.Source(text=ONE[1])]))).revision
    await stub.Apply(pb.ApplyRequest(sources=[pb.Source(text=two)]))
    before = desk.world.revisions.current
    desk.caller = Caller("uid 1000", Role.READ)
    plan = await client.delete("service", "default", "one", dry_run=True)
    assert [(change.name, change.what) for change in plan.changes] == [("one", "deleted")]
    plan = await client.rollback(first, dry_run=True)
    assert [(c.name, c.what) for c in plan.changes if c.what != "unchanged"] == [("two", "deleted")]
    assert desk.world.revisions.current == before


async def last(updates: AsyncIterator[pb.Update]) -> None:
    async for _ in updates:
        pass


async def test_a_watcher_that_is_revoked_sees_no_more(api: Api) -> None:
    desk, client, _ = api
    desk.caller = Caller("ann", Role.READ)
    updates = client.watch(status=True, interval_ms=100)
    await anext(updates)

    def refuse(context: object) -> Caller:
        raise Denied("ann is revoked")

    desk.service.caller = refuse
    with pytest.raises(Denied, match="ann is revoked"):
        await asyncio.wait_for(last(updates), 20)


@pytest.mark.skipif(os.getuid() != 0, reason="only root writes without a group")
async def test_root_is_believed_by_its_credentials(api: Api) -> None:
    desk, _, stub = api
    await stub.AddHost(pb.AddHostRequest(name="web1", addresses=["198.18.0.11"]))
    assert [(e.who, e.what) for e in desk.world.audit.entries()] == [("uid 0", "host add")]


async def test_documents_go_in_and_come_out(api: Api) -> None:
    desk, client, stub = api
    desk.caller = Caller("ann", Role.WRITE)
    reply = await stub.Apply(
        pb.ApplyRequest(sources=[pb.Source(file=ONE[0], text=ONE[1])], confirm_seconds=60)
    )
    assert reply.confirm_deadline == int(desk.world.time) + 60
    (document,) = await client.documents("services")
    assert (document.generation, document.status) == (1, "waits to be confirmed")
    assert document.yaml.startswith("apiVersion: sluice.dev/v1\n")
    assert (await client.status()).pending.by == "ann"
    await client.confirm()
    assert (await client.documents("Service", "default", "one"))[0].status == "applied"
    assert await client.documents("Service", "other") == []
    assert await client.documents("authorizationpolicies") == []
    with pytest.raises(NotFound, match="no Service 'two'"):
        await client.documents("service", "", "two")
    with pytest.raises(InvalidInput, match="is no kind of document: write one of"):
        await client.documents("nonsense")
    (revision,) = await client.history()
    assert (revision.by, revision.state) == ("ann", "applied")
    await client.delete("service", "default", "one")
    assert await client.documents() == []
    assert "-kind: Service" in await client.diff()


@pytest.mark.parametrize(
    ("ask", "kind", "said"),
    [
        (lambda c: c.remove_host("nobody"), NotFound, "no host 'nobody'"),
        (lambda c: c.rollback(7), NotFound, "no revision 7"),
        (lambda c: c.confirm(), Conflict, "nothing waits"),
        (lambda c: c.flows(state="bad"), InvalidInput, "is no state"),
        (lambda c: c.add_peer("X Y", "h", "c"), InvalidInput, "cannot be a peer's name"),
        (lambda c: c.add_peer("b", "h", "c"), Conflict, "CA has not answered"),
        (lambda c: c.apply([("x.yaml", "kind: [")], dry_run=True), InvalidInput, r"^x\.yaml:"),
        (lambda c: anext(aiter(c.watch())), InvalidInput, "say what to watch"),
    ],
)
async def test_errors_come_back_as_they_were(api: Api, ask: Any, kind: type, said: str) -> None:
    api[0].caller = Caller("ann", Role.WRITE)
    with pytest.raises(kind, match=said):
        await ask(api[1])


async def test_the_data_planes_silence_is_told_from_the_daemons(api: Api) -> None:
    desk, client, stub = api
    desk.caller = Caller("ann", Role.WRITE)
    desk.world.plane.silent = True
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Apply(pb.ApplyRequest(sources=[pb.Source(file=ONE[0], text=ONE[1])]))
    with pytest.raises(Unavailable, match="the data plane does not answer"):
        await client.rollback(1)  # the one that was not taken
    async with AdminClient(Paths(desk.paths.state, desk.paths.run / "none")) as nowhere:
        with pytest.raises(Unavailable, match="the daemon does not answer"):
            await nowhere.status()


async def test_a_fault_of_ours_shows_no_details(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, _, stub = api

    def broken() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(desk.world.audit, "entries", broken)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.ListAudit(pb.ListRequest())
    assert failure.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (failure.value.details() or "")


async def test_hosts_and_services_are_listed_as_they_are(api: Api) -> None:
    desk, client, stub = api
    desk.caller = Caller("ann", Role.WRITE)
    reply = await stub.AddHost(
        pb.AddHostRequest(
            name="web1", addresses=["198.18.0.11"], mac="02:00:00:00:00:01",
            services=["web:80>8080"], labels={"tier": "front"},
        )
    )  # fmt: skip
    assert reply.code == ""
    assert reply.route_linux.startswith("ip route add 198.19.0.0/16 via 198.18.0.1")
    assert "mask 255.255.0.0 198.18.0.1" in reply.route_windows
    assert reply.route_dhcp == "dhcp-option=121,198.19.0.0/16,198.18.0.1"
    (host,) = await client.hosts()
    assert (host.spiffe_id, host.grade) == ("spiffe://a.example/ns/default/sa/web1", "l2")
    assert (list(host.services), dict(host.labels)) == (["web.default"], {"tier": "front"})
    assert host.not_after > desk.world.time
    (service,) = await client.services()
    assert (service.name, service.mtls, service.origin) == ("web", "strict", "site")
    (end,) = service.endpoints
    assert (end.address, end.port, end.kind, end.healthy) == ("198.18.0.11", 8080, "plain", True)
    status = await client.status()
    assert (status.hosts, status.services, status.published) == (1, 1, status.applied)
    assert [(p.name, p.state) for p in status.processes] == [("ca", "serving")]
    assert any("runs out in 10 days" in text for text in status.warnings)


async def test_an_agents_host_gets_a_code_that_is_kept_as_its_hash_only(api: Api) -> None:
    desk, _, stub = api
    desk.caller = Caller("ann", Role.WRITE)
    reply = await stub.AddHost(pb.AddHostRequest(name="db1", agent=True))
    assert reply.code_expires == int(desk.world.time) + 900
    assert reply.code not in reply.join_line
    assert "sha256sum" in reply.join_line
    for path in desk.world.store.path.parent.glob("state.db*"):
        data = path.read_bytes()
        assert reply.code.encode() not in data
        assert reply.code.replace("-", "").encode() not in data
    assert reply.code not in "".join(entry.detail for entry in desk.world.audit.entries())


async def test_doctor_says_what_is_wrong_and_what_to_do(api: Api) -> None:
    desk, client, _ = api
    desk.world.add("web1", "198.18.0.11")
    desk.troubles.set("network", "nft failed")
    found = await client.doctor()
    assert [(f.level, f.fix) for f in found if "nft is missing" in f.what] == [
        ("error", "install nftables")
    ]
    assert any("network: nft failed" in f.what for f in found)
    assert any("no agent (web1)" in f.what and "plain text" in f.what for f in found)


async def test_offload_is_told_with_a_ledger_and_the_profile(api: Api) -> None:
    desk, client, _ = api
    counters = {"records_user": 3, "records_ktls": 1, "fallback_none": 2, "fallback_small": 2}
    desk.traffic.take(StatsReport("dp-1", 0, counters, {}, 1, 1, False))
    told = await client.offload()
    assert (told.prefer, list(told.nics), list(told.drifted)) == ("", [], [])
    assert sum(each.legs for each in told.layers) == sum(each.legs for each in told.reasons) == 4
    text = own("OffloadProfile", "default", "{prefer: ktls, minimumBytes: 7}")
    await client.apply([("p.yaml", text)])
    told = await client.offload()
    assert (told.prefer, told.minimum_bytes, told.min_version) == ("ktls", 7, "1.3")
    assert list(await client.plan_offload()) == []
    assert list(await client.apply_offload()) == []
    assert ("apply offload", "changed nothing") in {(e.what, e.detail) for e in
                                                    await client.audit()}  # fmt: skip


async def test_a_flow_says_why_its_encrypted_leg_is_elsewhere(api: Api) -> None:
    desk, client, _ = api
    legs = {"down_fallback": Fallback.SMALL, "up_fallback": Fallback.PEER}
    desk.flows.take(event(flow_id="01", flow=FlowKind.OUTBOUND, up_tls="TLSv1.3", **legs))
    desk.flows.take(event(flow_id="02", flow=FlowKind.INBOUND, down_tls="TLSv1.3", **legs))
    desk.flows.take(event(flow_id="03", flow=FlowKind.OUTBOUND, up_tls="TLSv1.3"))
    flows = (await client.flows()).flows
    assert {each.flow_id: each.fallback for each in flows} == {
        "01": "peer", "02": "small", "03": "",
    }  # fmt: skip


async def test_flows_are_listed_and_watched(api: Api) -> None:
    desk, client, _ = api
    desk.flows.take(event(flow_id="01", service="web.default"))
    desk.flows.take(
        event(
            flow_id="02", kind=EventKind.REFUSED, reason=Reason.DENIED, detail="policy p",
            flow=FlowKind.INBOUND, down_tls="TLSv1.3", down_cipher="X", grade=Grade.L2,
            down_layer=RecordLayer.OPENSSL, service="db.default",
        )
    )  # fmt: skip
    listed = await client.flows(state="refused")
    (refused,) = listed.flows
    assert (refused.reason, refused.detail, refused.kind) == ("denied", "policy p", "inbound")
    assert (refused.tls_version, refused.cipher, refused.down_layer) == ("TLSv1.3", "X", "openssl")
    assert listed.dropped_events == 3
    assert [f.flow_id for f in (await client.flows(service="web")).flows] == ["01"]

    updates = client.watch(status=True, flows=True, audit=True, interval_ms=100)
    async with asyncio.timeout(20):
        assert (await anext(updates)).status.site == "a"
        desk.world.audit.record("ann", "test")
        desk.flows.take(event(flow_id="03", bytes_up=5))
        desk.flows.take(event(flow_id="03", bytes_up=9))
        seen: list[pb.Update] = []
        while not {"flows", "audit"} <= {update.WhichOneof("what") for update in seen}:
            seen.append(await anext(updates))
    flows = [update.flows.flows[0] for update in seen if update.WhichOneof("what") == "flows"]
    assert [(f.flow_id, f.bytes_up) for f in flows] == [("03", 9)]
    await updates.aclose()


async def test_watchers_are_limited_and_leave(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, client, _ = api
    monkeypatch.setattr(admin_server, "WATCHERS_MAX", 1)
    first = client.watch(status=True)
    await anext(first)
    with pytest.raises(Exception, match="watch already"):
        await anext(client.watch(status=True))
    await first.aclose()
    async with asyncio.timeout(20):
        while desk.service._watchers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_revocation_says_who_has_heard(api: Api) -> None:
    desk, client, _ = api
    desk.caller = Caller("ann", Role.WRITE)
    desk.world.add("web1", "198.18.0.11", "web:80")
    desk.flows.take(event(flow_id="01", src_id="spiffe://a.example/ns/default/sa/web1"))
    reply = await client.revoke_host("web1")
    assert (list(reply.peers_told), list(reply.peers_not_told)) == ([], [])
    assert reply.streams_closed == 1
    assert [(h.name, h.grade) for h in desk.world.plane.now.hosts] == [("web1", Grade.NONE)]
    (listed,) = await client.services()
    assert [(e.name, e.revoked) for e in listed.endpoints] == [("web1", True)]
    (set_,) = {each.endpoints for each in desk.world.plane.now.sets}
    assert set_ == ()
    denied = [each.spiffe_id for each in desk.world.plane.now.denied]
    assert denied == ["spiffe://a.example/ns/default/sa/web1"]


async def test_the_data_plane_is_restarted_by_the_supervisor(api: Api) -> None:
    desk, client, _ = api
    desk.caller = Caller("ann", Role.WRITE)
    await client.restart_dataplane()
    assert "restart-dataplane" in desk.supervisor.asked


def test_long_errors_are_cut_at_a_line() -> None:
    lines = [f"file.yaml:{n}: spec.x: {'é' * 40}" for n in range(200)]
    text = details(InvalidInput("\n".join(lines)))
    assert len(text.encode()) <= DETAILS_MAX
    kept = text.splitlines()
    assert kept[-1] == f"… and {200 - len(kept) + 1} more"
    assert kept[:-1] == lines[: len(kept) - 1]
    assert len(details(Denied("x" * 10_000)).encode()) <= DETAILS_MAX
