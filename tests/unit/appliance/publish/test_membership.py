"""appliance.membership, registry.enrolment and peerbook: who belongs, and what the peers hear."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest

from appliance.enroll import code as codes
from appliance.enroll.admit import PeerOffer
from appliance.errors import Conflict, InvalidInput, LimitReached, NotFound
from appliance.peerbook import PeerBook
from appliance.registry import hosts
from appliance.registry.allocations import Allocator
from appliance.registry.enrolment import Enrolment
from appliance.registry.hosts import host_of
from appliance.registry.model import HostState, ImportedService, PeerState, ServicePort
from appliance.site import Vip
from dataplane.snapshot import Grade, Host
from tests.unit.appliance.api.pki import Pki
from tests.unit.appliance.publish.world import World
from tests.unit.appliance.sites import SITE, model, own

B = Pki("b.example")
OFFER = PeerOffer(
    "b.example", "spiffe://b.example/sluice/appliance/edge", B.bundle,
    (ip_address("198.18.255.2"),), 15008, ip_address("198.18.255.2"), 15010,
)  # fmt: skip
WEB = ImportedService("pay", "default", (ServicePort(443, 443),),
                      ("spiffe://b.example/ns/default/sa/pay",))  # fmt: skip


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.start()
    return world


def enrolment(world: World) -> Enrolment:
    return Enrolment(
        "a.example", world.hosts, world.peers, world.codes, world.view, world.audit,
        world.catalog.ports, world.clock,
    )  # fmt: skip


def book(world: World) -> PeerBook:
    return PeerBook(
        SITE, world.peers, world.revocations, world.view, world.catalog, world.audit,
        lambda: world.publisher.settled, world.clock,
    )  # fmt: skip


def admitted(world: World) -> list[Host]:
    """As sources; revoked ones are known to be just that."""
    return [host for host in world.plane.now.hosts if host.grade is not Grade.NONE]


async def agent(world: World, name: str, account: str = "") -> str:
    host = host_of(name=name, agent=True, service_account=account)
    made = await world.membership.add_host(host, ["db:5432"], "t")
    assert made is not None
    return codes.parse(made.text).hash()


async def joined(world: World, name: str, serial: str, address: str) -> None:
    await enrolment(world).joined(
        name, f"key of {name}", serial, int(world.time) + 86_400, ip_address(address)
    )
    await world.publisher.settle()


@pytest.mark.parametrize(
    ("address", "interface", "problem"),
    [
        (str(SITE.spec.hosts.addresses[0]), "", "the appliance's own"),
        (str(SITE.spec.mesh.addresses[0]), "", "the appliance's own"),
        (str(SITE.spec.vip.ipv4[9]), "", "a virtual one"),
        (str(SITE.spec.vip.ipv6[9]), "", "a virtual one"),
        ("198.18.0.77", "nosuch0", "no interface that hosts are on"),
    ],
)
async def test_a_host_is_where_hosts_can_be(
    world: World, address: str, interface: str, problem: str
) -> None:
    host = host_of(name="web1", addresses=[address], interface=interface)
    with pytest.raises(InvalidInput, match=problem):
        await world.membership.add_host(host, [], "t")
    assert world.hosts.all() == ()


async def test_a_host_of_a_document_is_the_documents(world: World) -> None:
    world.publisher.wanted(model(own("Host", "hh", "{addresses: [198.18.0.77]}")))
    for name, address in (("hh", "198.18.0.78"), ("hi", "198.18.0.77")):
        with pytest.raises(Conflict, match="Host default/hh"):
            await world.membership.add_host(host_of(name=name, addresses=[address]), [], "t")
    for act in (world.membership.revoke_host, world.membership.remove_host):
        with pytest.raises(Conflict, match="sluice delete host hh"):
            await act("hh", "t")


async def test_a_code_is_consumed_by_one_key_and_only_the_newest_is_good(world: World) -> None:
    store = enrolment(world)
    first = await agent(world, "db1")
    record = await store.code(first)
    assert record is not None
    assert (record.subject, record.expires) == ("db1", int(world.time) + 900)
    assert await store.consume(first, "key one")
    assert not await store.consume(first, "key two")
    assert await store.consume(first, "key one")
    assert not await store.consume("unknown", "key one")
    await world.membership.remove_host("db1", "t")
    await agent(world, "db1")
    used = await store.code(first)
    assert used is None or used.expires < world.time, "its key had to join with the new code"
    one = (await world.membership.invite_peer("b", "t")).text
    two = (await world.membership.invite_peer("b", "t")).text
    assert await store.code(codes.parse(one).hash()) is None
    assert await store.code(codes.parse(two).hash()) is not None


@pytest.mark.parametrize("name", [SITE.name, "site", "document"])
async def test_a_peer_is_not_named_as_this_site(world: World, name: str) -> None:
    with pytest.raises(InvalidInput, match="means this site"):
        await world.membership.invite_peer(name, "t")
    with pytest.raises(InvalidInput, match="means this site"):
        await world.membership.add_peer(name, "192.0.2.1", "code", "t")


async def test_a_host_that_joined_is_served_with_its_own_grade(world: World) -> None:
    await agent(world, "db1")
    assert world.plane.now.hosts == ()
    await joined(world, "db1", "aa", "198.18.0.21")
    assert [h.agent_id for h in world.plane.now.hosts] == ["spiffe://a.example/ns/default/sa/db1"]
    record = await enrolment(world).host_by_key("key of db1")
    assert record is not None
    assert record.ports == (5432,)
    await enrolment(world).renewed("db1", "bb", 5)
    assert (world.hosts.get("db1").serial, world.hosts.key_hash("db1")) == ("bb", "key of db1")
    await agent(world, "db2")
    with pytest.raises(Conflict, match="another host's address"):
        await enrolment(world).check_joins("db2", ip_address("198.18.0.21"))
    with pytest.raises(Conflict, match="another host's address"):
        await joined(world, "db2", "cc", "198.18.0.21")


async def test_revocation_denies_leaf_and_identity_and_withdraws_the_code(world: World) -> None:
    code = await agent(world, "db1")
    await joined(world, "db1", "aa", "198.18.0.21")
    revoked = await world.membership.revoke_host("db1", "t")
    assert revoked.host.name == "db1"
    assert admitted(world) == []
    denied = {(each.serial, each.spiffe_id) for each in world.plane.now.denied}
    assert denied == {("aa", None), (None, "spiffe://a.example/ns/default/sa/db1")}
    assert await enrolment(world).serial_denied("aa")
    assert await enrolment(world).code(code) is None
    assert not any("db1" in leaf.spiffe_id for leaf in world.plane.now.leaves)
    with pytest.raises(Conflict, match="revoked already"):
        await world.membership.revoke_host("db1", "t")


async def test_others_of_the_same_identity_go_on(world: World) -> None:
    for name, address in (("db1", "198.18.0.21"), ("db2", "198.18.0.22")):
        await agent(world, name, "db")
        await joined(world, name, f"{name[-1]}a", address)
    await world.membership.revoke_host("db1", "t")
    assert [(d.serial, d.spiffe_id) for d in world.plane.now.denied] == [("1a", None)]
    assert len(admitted(world)) == 1


@pytest.mark.parametrize("act", ["revoke_host", "remove_host"])
async def test_the_leaves_before_a_renewal_are_denied_too(world: World, act: str) -> None:
    for name, address in (("db1", "198.18.0.21"), ("db2", "198.18.0.22")):
        await agent(world, name, "db")
        await joined(world, name, f"{name[-1]}a", address)
    await enrolment(world).renewed("db1", "1b", int(world.time) + 86_400)
    world.time += 43_200
    await enrolment(world).renewed("db1", "1c", int(world.time) + 86_400)
    await getattr(world.membership, act)("db1", "t")
    denied = {(d.serial, d.spiffe_id) for d in world.plane.now.denied}
    assert denied == {("1a", None), ("1b", None), ("1c", None)}


async def test_a_host_has_a_bounded_number_of_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "LEAVES_MAX", 2)
    await agent(world, "db1")
    await joined(world, "db1", "a", "198.18.0.21")
    await enrolment(world).renewed("db1", "b", int(world.time) + 86_400)
    with pytest.raises(LimitReached, match="renews so often"):
        await enrolment(world).check_joins("db1", None)
    with pytest.raises(LimitReached, match="renews so often"):
        await enrolment(world).renewed("db1", "c", int(world.time) + 86_400)
    assert world.hosts.get("db1").serial == "b"
    world.time += 86_401
    await enrolment(world).renewed("db1", "d", int(world.time) + 86_400)
    assert world.hosts.leaves("db1", int(world.time)) == ("d",)


async def test_a_peer_that_uses_up_the_addresses_stops_no_revocation(world: World) -> None:
    world.allocator = world.publisher._allocator = Allocator(
        world.store, Vip(ipv4=IPv4Network("198.19.0.0/28"), ipv6=IPv6Network("fd53::/124"))
    )
    world.add("web1", "198.18.0.11", "web:80")
    await enrolment(world).peer_joined("b", OFFER)
    for turn in range(4):
        exports = tuple(replace(WEB, name=f"s{turn}-{number}") for number in range(8))
        book(world).exports_heard("b", exports)
        await world.publisher.settle()
    assert world.publisher.without_address == 8
    await world.membership.revoke_host("web1", "t")
    assert admitted(world) == []
    assert world.publisher.problem == ""


async def test_a_revoked_name_must_be_removed_before_it_comes_anew(world: World) -> None:
    world.add("web1", "198.18.0.11")
    await world.membership.revoke_host("web1", "t")
    anew = host_of(name="web1", addresses=["198.18.0.11"])
    with pytest.raises(Conflict, match="`sluice host remove` it first"):
        await world.membership.add_host(anew, [], "t")
    await world.membership.remove_host("web1", "t")
    assert world.plane.now.denied != ()
    await world.membership.add_host(anew, [], "t")
    assert world.plane.now.denied == ()
    assert "revocation lifted" in [entry.what for entry in world.audit.entries()]


async def test_a_removed_agents_leaf_is_denied(world: World) -> None:
    await agent(world, "db1")
    await joined(world, "db1", "aa", "198.18.0.21")
    await world.membership.remove_host("db1", "t")
    assert [(d.serial, d.spiffe_id) for d in world.plane.now.denied] == [("aa", None)]
    with pytest.raises(NotFound):
        world.hosts.get("db1")


async def test_a_revocation_that_could_not_be_published_is_said_and_kept(world: World) -> None:
    world.add("web1", "198.18.0.11")
    await world.publisher.settle()
    world.plane.silent = True
    with pytest.raises(Conflict, match="is revoked, but the data plane has not heard"):
        await world.membership.revoke_host("web1", "t")
    assert world.hosts.get("web1").state is HostState.REVOKED
    world.plane.silent = False
    await world.publisher.settle()
    assert admitted(world) == []


async def test_documents_that_revert_lift_no_revocation(world: World, tmp_path: Path) -> None:
    world.add("web1", "198.18.0.11")
    await world.membership.revoke_host("web1", "t")
    again = World(tmp_path)
    await again.start()
    assert again.plane.now.denied == world.plane.now.denied
    assert admitted(again) == []


# -- peers ----------------------------------------------------------------------------------------


async def test_a_peers_exports_become_services_and_go_when_it_is_stale(world: World) -> None:
    await enrolment(world).peer_joined("b", OFFER)
    notes = book(world)
    notes.exports_heard("b", (WEB,))
    await world.publisher.settle()
    assert [s.name for s in world.plane.now.services] == ["pay.default"]

    class Link:
        alive = True

        def connected(self, name: str) -> bool:
            return self.alive

        def last_seen(self, name: str) -> int:
            return int(world.time) if self.alive else 0

    link = Link()
    notes.look(link)  # type: ignore[arg-type]
    assert world.view.now.peers[0].state is PeerState.CONNECTED
    link.alive = False
    world.time += SITE.spec.peers.stale_seconds - 1
    notes.look(link)  # type: ignore[arg-type]
    assert world.view.now.peers[0].state is PeerState.CONNECTING
    world.time += 2
    notes.look(link)  # type: ignore[arg-type]
    await world.publisher.settle()
    assert world.view.now.peers[0].state is PeerState.STALE
    assert world.plane.now.services == ()
    link.alive = True
    notes.look(link)  # type: ignore[arg-type]
    await world.publisher.settle()
    assert [s.name for s in world.plane.now.services] == ["pay.default"]


async def test_imports_outlive_a_restart_that_hears_nothing_at_first(
    world: World, tmp_path: Path
) -> None:
    await enrolment(world).peer_joined("b", OFFER)
    book(world).exports_heard("b", (WEB,))
    again = World(tmp_path)
    again.time = world.time + 10_000  # long asleep: the peer gets its time to answer
    await again.start()
    assert [s.name for s in again.plane.now.services] == ["pay.default"]


async def test_a_peer_that_joins_again_on_a_living_stream_keeps_its_services(world: World) -> None:
    store, notes = enrolment(world), book(world)
    await store.peer_joined("b", OFFER)
    notes.exports_heard("b", (WEB,))
    world.peers.set_heard("b", 7)
    await store.peer_joined("b", replace(OFFER, mesh_port=15009))
    await world.publisher.settle()
    assert [s.name for s in world.plane.now.services] == ["pay.default"]
    assert (world.peers.get("b").mesh_port, world.peers.heard()["b"]) == (15009, 7)


async def test_a_peer_that_moved_is_reached_where_it_is(world: World) -> None:
    await enrolment(world).peer_joined("b", OFFER)
    notes, new = book(world), ip_address("198.18.255.9")
    old = OFFER.mesh_addresses
    notes.greeted("b", old, 15008)
    assert world.audit.entries() == ()
    notes.greeted("b", (*old, new), 15999)  # one more: peering stays where it was
    peer = world.peers.get("b")
    assert (peer.mesh_addresses, peer.mesh_port) == ((*old, new), 15999)
    assert peer.peering_address == old[0]
    notes.greeted("b", (new,), 15999)
    peer = world.peers.get("b")
    assert (peer.mesh_addresses, peer.peering_address) == ((new,), new)
    assert [entry.what for entry in world.audit.entries()] == ["moved", "moved"]
    notes.greeted("stranger", (new,), 1)


async def test_a_peers_bundle_is_replaced_only_by_one_of_its_own(world: World) -> None:
    await enrolment(world).peer_joined("b", OFFER)
    notes, new = book(world), Pki("b.example")
    with pytest.raises(InvalidInput):
        notes.bundle_heard("b", "b.example", Pki("a.example").bundle)
    with pytest.raises(InvalidInput):
        notes.bundle_heard("b", "b.example", "")
    notes.bundle_heard("b", "b.example", new.bundle)
    await world.publisher.settle()
    bundles = {each.trust_domain: each.certs_pem for each in world.plane.now.bundles}
    assert bundles["b.example"] == new.bundle


async def test_a_peers_revocations_hold_here_and_go_with_it(world: World) -> None:
    await enrolment(world).peer_joined("b", OFFER)
    await world.publisher.settle()
    notes = book(world)
    assert notes.in_force()
    notes.revocations_heard("b", "b.example", (("ab", None),))
    assert not notes.in_force()  # not before the data plane has it
    await world.publisher.settle()
    assert notes.in_force()
    assert [(d.trust_domain, d.serial) for d in world.plane.now.denied] == [("b.example", "ab")]
    assert book(world).facts().denied == ()  # not ours to tell
    await world.membership.remove_peer("b", "t")
    assert world.plane.now.denied == ()
    assert [b.trust_domain for b in world.plane.now.bundles] == []


async def test_a_trust_domain_is_one_peers(world: World) -> None:
    await enrolment(world).peer_joined("b", OFFER)
    with pytest.raises(Conflict, match=r"peer b .* is there already"):
        await enrolment(world).peer_joined("c", OFFER)
    await enrolment(world).peer_joined("b", OFFER)  # joined again


async def test_a_revocation_waits_for_connected_peers_only(world: World) -> None:
    await enrolment(world).peer_joined("b", OFFER)
    notes = book(world)
    async with asyncio.timeout(60):
        await notes.hear(3, 1000, lambda name: False)
        waiting = asyncio.ensure_future(notes.hear(3, 1000, lambda name: True))
        await asyncio.sleep(0)
        notes.acknowledged("b", 2)
        await asyncio.sleep(0)
        assert not waiting.done()
        notes.acknowledged("b", 3)
        await waiting
        await notes.hear(4, 0.01, lambda name: True)  # gives up
    assert world.peers.heard() == {"b": 3}


async def test_an_admins_certificates_are_refused_at_once(world: World) -> None:
    await world.membership.revoke_operator("eva", ["ab12", "cd"], "root")
    assert set(world.view.now.denied_serials) == {("a.example", "ab12"), ("a.example", "cd")}
    await world.membership.revoke_operator("eva", ["cd"], "root")  # again, as after a lost answer
    assert len(world.view.now.denied_serials) == 2
    assert world.audit.entries()[0].detail == "eva: 1 certificates"
    for name, serials in (("e/a", ["ab"]), ("eva", ["AB"]), ("eva", [""]), ("eva", ["1"] * 1001)):
        with pytest.raises(InvalidInput):
            await world.membership.revoke_operator(name, serials, "root")
