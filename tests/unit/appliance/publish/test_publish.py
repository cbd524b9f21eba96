"""appliance.publish and leaves: what is wanted gets to the data plane, in as little as it takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance import publish
from appliance.ca.issue import Asked, Signed
from appliance.compile import Mesh
from appliance.config.model import Model
from appliance.errors import ApplianceError, Conflict, Denied, Unavailable
from appliance.leaves import TTL_S
from appliance.registry.hosts import host_of
from appliance.registry.model import Registry
from tests.unit.appliance.publish.world import World, until
from tests.unit.appliance.sites import SITE, model, own

SERVICE = model(own("Service", "shop", "{ports: [{port: 80}], serviceAccount: shop}"))
SHOP = Mesh.of(SERVICE, Registry(), SITE)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.start()
    return world


async def test_a_host_is_published_with_its_leaf_and_service(world: World) -> None:
    world.add("web1", "198.18.0.11", "web:80>8080")
    await world.publisher.settle()
    now = world.plane.now
    assert [(h.name, str(h.address)) for h in now.hosts] == [("web1", "198.18.0.11")]
    assert now.hosts[0].leaf in {leaf.key for leaf in now.leaves}
    assert [s.name for s in now.services] == ["web.default"]
    assert str(now.services[0].vips[0]) == "198.19.0.1"


async def test_changes_that_come_together_are_published_once(world: World) -> None:
    before = len(world.plane.snapshots)
    runner = asyncio.ensure_future(world.publisher.run())
    for number in range(20):
        world.add(f"web{number}", f"198.18.0.{number + 11}")
    await until(lambda: len(world.plane.now.hosts) == 20)
    runner.cancel()
    assert len(world.plane.snapshots) - before <= 2


@pytest.mark.parametrize("turns", range(8))
async def test_its_end_is_not_lost_when_a_change_comes_at_the_same_time(
    world: World, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python 3.11's wait_for loses it.

    No time is waited for: a sleep of 0 is one turn of the loop, and it is lost in some orders only.
    """
    monkeypatch.setattr(world.publisher, "problem", "wait for a time")
    runner = asyncio.ensure_future(world.publisher.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    world.publisher.touch()
    for _ in range(turns):
        await asyncio.sleep(0)
    runner.cancel()
    done, _ = await asyncio.wait([runner], timeout=20)
    assert done, "it goes on"


async def test_an_endpoints_health_swaps_its_set_alone(world: World) -> None:
    world.add("web1", "198.18.0.11", "web:80")
    world.add("db1", "198.18.0.12", "db:5432")
    await world.publisher.settle()
    whole = len(world.plane.snapshots)
    world.view.set_health([("web.default", ip_address("198.18.0.11"), False)])
    await world.publisher.settle()
    assert len(world.plane.snapshots) == whole
    assert {each.service for each in world.plane.sets} == {"web.default"}
    assert not any(e.healthy for each in world.plane.sets for e in each.endpoints)
    assert {each.id for each in world.plane.sets} <= {each.id for each in world.plane.now.sets}
    world.plane.sets.clear()
    world.view.set_health([("web.default", ip_address("198.18.0.11"), False)])
    await world.publisher.settle()
    assert world.plane.sets == []


async def test_what_a_set_missed_a_whole_snapshot_brings(world: World) -> None:
    world.add("web1", "198.18.0.11", "web:80")
    await world.publisher.settle()
    world.plane.silent = True
    world.view.set_health([("web.default", ip_address("198.18.0.11"), False)])
    await world.publisher.settle()
    assert "does not answer" in world.publisher.problem
    world.plane.silent = False
    await world.publisher.settle()
    assert not any(e.healthy for each in world.plane.now.sets for e in each.endpoints)
    assert world.publisher.problem == ""


async def test_what_is_refused_is_not_wanted(world: World) -> None:
    world.plane.refuse = "too large"
    with pytest.raises(Conflict, match="the data plane refused it: too large"):
        await world.publisher.replace(SHOP)
    assert world.publisher.model == Model()
    world.plane.refuse = ""
    await world.publisher.settle()  # brings the old one back, with a higher version
    assert world.plane.now.services == ()


async def test_silence_is_said(world: World) -> None:
    world.plane.silent = True
    with pytest.raises(Unavailable, match="the data plane does not answer"):
        await world.publisher.replace(SHOP)


async def test_versions_rise_over_restarts_and_above_what_the_data_plane_has(
    world: World, tmp_path: Path
) -> None:
    last = world.plane.now.version
    again = World(tmp_path)
    await again.start()
    assert again.plane.now.version > last
    again.publisher.seen(5000)
    await again.publisher.settle()
    assert again.plane.now.version == 5001


async def test_an_identity_that_is_not_approved_has_no_leaf_and_stops_nobody_else(
    world: World,
) -> None:
    world.ca.refused.add("spiffe://a.example/ns/default/sa/bad")
    world.add("bad", "198.18.0.11")
    world.add("good", "198.18.0.12")
    await world.publisher.settle()
    leaves = {host.name: host.leaf for host in world.plane.now.hosts}
    assert leaves["bad"] is None
    assert leaves["good"] is not None
    assert list(world.leaves.refused) == ["spiffe://a.example/ns/default/sa/bad|l3"]


async def test_documents_that_need_what_is_not_approved_are_refused(world: World) -> None:
    world.ca.refused.add("spiffe://a.example/ns/default/sa/shop")
    with pytest.raises(Denied, match="sa/shop is not approved at the CA"):
        await world.publisher.replace(SHOP)
    world.ca.refused.clear()
    world.ca.silent = True
    with pytest.raises(Unavailable, match="the CA does not answer"):
        await world.publisher.replace(SHOP)
    world.ca.silent = False
    await world.publisher.replace(SHOP)
    assert world.publisher.model == SERVICE


async def test_another_ca_signs_all_leaves_anew(world: World) -> None:
    world.add("web1", "198.18.0.11")
    await world.publisher.settle()
    assert world.view.set_bundle("FIRST") is False  # there was none
    assert world.view.set_bundle("FIRST") is False
    before = dict(Counter(world.ca.signed))
    assert world.view.set_bundle("SECOND") is True
    await world.leaves.renew_all()
    assert dict(Counter(world.ca.signed)) == {each: 2 * count for each, count in before.items()}


async def test_many_leaves_are_asked_for_in_a_few_calls(world: World) -> None:
    bad = "spiffe://a.example/ns/default/sa/h150"
    world.ca.refused.add(bad)
    asked: list[int] = []
    sign_each = world.ca.sign_each

    async def counted(some: Sequence[Asked]) -> list[Signed | ApplianceError]:
        asked.append(len(some))
        return await sign_each(some)

    world.ca.sign_each = counted  # type: ignore[method-assign]
    for number in range(200):
        world.hosts.add(host_of(name=f"h{number}", addresses=[f"198.18.0.{number + 10}"]), ())
    world.view.changed()
    await world.publisher.settle()
    assert sorted(asked) == [8, 64, 64, 64]
    assert {host.name for host in world.plane.now.hosts if host.leaf is None} == {"h150"}
    assert list(world.leaves.refused) == [f"{bad}|l3"]


async def test_one_silence_of_the_ca_is_enough(world: World) -> None:
    world.ca.silent = True
    for number in range(200):
        world.hosts.add(host_of(name=f"h{number}", addresses=[f"198.18.0.{number + 10}"]), ())
    world.view.changed()
    await world.publisher.settle()
    assert world.leaves.unanswered == 200
    world.ca.silent = False
    await world.leaves.renew()
    assert world.leaves.unanswered == 0
    await world.publisher.settle()
    assert all(host.leaf for host in world.plane.now.hosts)


async def test_leaves_are_renewed_at_half_life_and_kept_while_the_ca_is_silent(
    world: World,
) -> None:
    world.add("web1", "198.18.0.11")
    await world.publisher.settle()
    need = next(key for key in world.leaves._held if "web1" in key)
    first = world.leaves.get(need)
    world.time += TTL_S * 0.4
    await world.leaves.renew()
    assert world.leaves.get(need) is first
    world.ca.silent = True
    world.time += TTL_S * 0.11
    await world.leaves.renew()
    assert world.leaves.get(need) is first
    world.ca.silent = False
    await world.leaves.renew()
    second = world.leaves.get(need)
    assert first is not None
    assert second is not None
    assert second.not_after > first.not_after
    await world.publisher.settle()
    assert second.leaf in world.plane.now.leaves


async def test_keys_do_not_show(world: World) -> None:
    world.add("web1", "198.18.0.11")
    await world.publisher.settle()
    assert "PRIVATE KEY" not in repr(world.publisher.published)
    assert "PRIVATE KEY" not in repr(world.plane.now)


async def test_what_could_not_be_published_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "RETRY_S", 0.01)
    world.plane.silent = True
    runner = asyncio.ensure_future(world.publisher.run())
    world.add("web1", "198.18.0.11")
    await until(lambda: world.publisher.failures >= 3)
    world.plane.silent = False
    await until(lambda: len(world.plane.now.hosts) == 1)
    runner.cancel()
    assert world.publisher.problem == ""
