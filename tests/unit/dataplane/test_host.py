"""host: what is not signed, not newer or not whole changes nothing; the rest runs and is kept."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import pytest_asyncio

from dataplane import binding, seal, wire
from dataplane import snapshot as s
from dataplane.host import Answer, Host, without_leaves
from dataplane.slots import Slots
from tests.unit.dataplane.material import KEY, authority, endpoint_set, small

LEAF = authority().leaf("ns/default/sa/db")


def host_in(directory: Path) -> Host:
    engine = binding.Engine(binding.Settings(workers=2, streams_max=16, pin=False))
    return Host(engine, Slots(directory, KEY), KEY)


async def end(host: Host) -> None:
    host._engine.stop()
    host.close()
    host._engine.close()


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = host_in(tmp_path)
    yield host
    await end(host)


async def publish(host: Host, value: s.Snapshot) -> Answer:
    body = wire.encode_snapshot(value)
    return await host.publish(body, seal.mac(KEY, "snapshot", body))


async def publish_set(host: Host, version: int, sequence: int, value: s.EndpointSet) -> Answer:
    body = wire.encode_set_update(wire.SetUpdate(version, sequence, value))
    return await host.publish_set(body, seal.mac(KEY, "set", body))


async def test_a_snapshot_runs_on_every_worker_and_answers_names(host: Host) -> None:
    answer = await publish(host, small(5, (LEAF,)))
    assert (answer.accepted, answer.version, answer.reason) == (True, 5, "")
    assert answer.applied_ms > 0
    assert host.version == 5
    assert host._engine.applied == host._engine.published
    assert host.zone is not None
    assert host.counters["publishes_accepted"] == host.counters["slots_written"] == 1


async def test_the_same_bytes_again_are_accepted_and_nothing_is_done(host: Host) -> None:
    first = await publish(host, small(5))
    published = host._engine.published
    assert await publish(host, small(5)) == first
    assert host._engine.published == published


async def test_names_are_made_anew_only_when_they_differ(host: Host) -> None:
    await publish(host, small(5))
    first = host.zone
    await publish(host, small(6, port=5433))
    assert host.zone is first
    name = s.Name("web.default.mesh", (IPv4Address("198.19.0.2"),))
    await publish(host, replace(small(7), names=(name,)))
    assert host.zone is not None
    assert host.zone != first
    assert name.addresses in host.zone.addresses.values()
    await publish(host, replace(small(8), names=(name,), zones=("other",)))
    assert len(host.zone.apexes) == 1
    assert str(host.zone.apexes[0]) == "other."


@pytest.mark.parametrize("kind", ["snapshot", "set"])
async def test_what_is_not_signed_is_refused(host: Host, kind: str) -> None:
    await publish(host, small(5))
    body = wire.encode_snapshot(small(6))
    update = wire.encode_set_update(wire.SetUpdate(5, 1, endpoint_set(1, 2)))
    for key, sealed_as in ((bytes(32), kind), (KEY, "slot"), (KEY, {"snapshot": "set"}.get(kind))):
        if kind == "snapshot":
            answer = await host.publish(body, seal.mac(key, sealed_as or "slot", body))  # type: ignore[arg-type]
        else:
            answer = await host.publish_set(update, seal.mac(key, sealed_as or "slot", update))  # type: ignore[arg-type]
        assert not answer.accepted
        assert "not signed" in answer.reason
        assert answer.version == 5
    refused = "publishes_refused_mac" if kind == "snapshot" else "sets_refused"
    assert host.counters[refused] == 3


async def test_an_older_version_is_refused(host: Host) -> None:
    await publish(host, small(5))
    for version in (4, 5):
        answer = await publish(host, replace(small(version), zones=("other",)))
        assert not answer.accepted
        assert "not newer than 5" in answer.reason
    assert host.counters["publishes_refused_version"] == 2


async def test_what_is_not_good_changes_nothing(host: Host) -> None:
    await publish(host, small(5))
    zone, published = host.zone, host._engine.published
    for bad, says in (
        (replace(small(6), appliance_leaf="none"), "no leaf none"),
        (replace(small(6), names=(s.Name("a..b", ()),)), "DNS"),
        (replace(small(6), sets=()), ""),
        (replace(small(6), trust_domain=""), ""),
    ):
        answer = await publish(host, bad)
        assert not answer.accepted
        assert says in answer.reason
        assert "\n" not in answer.reason
        assert answer.reason
    garbage = await host.publish(b"\xff", seal.mac(KEY, "snapshot", b"\xff"))
    assert not garbage.accepted
    assert (host.version, host.zone, host._engine.published) == (5, zone, published)
    assert host.counters["publishes_refused_content"] == 5
    assert (await publish(host, small(6))).accepted


async def test_sets_swap_alone_and_in_order(host: Host) -> None:
    await publish(host, small(5))
    assert (await publish_set(host, 5, 2, endpoint_set(1, 3))).accepted
    assert (await publish_set(host, 5, 2, endpoint_set(1, 3))).accepted  # said again
    for version, sequence, id, says in (
        (5, 2, 1, "too late"),
        (5, 1, 1, "too late"),
        (4, 3, 1, "belongs to snapshot 4"),
        (6, 3, 1, "belongs to snapshot 6"),
        (5, 3, 99, "endpoint set 99"),
    ):
        answer = await publish_set(host, version, sequence, endpoint_set(id, 4))
        assert not answer.accepted
        assert says in answer.reason
    assert (await publish_set(host, 5, 3, endpoint_set(1, 0))).accepted
    assert (await publish(host, small(6))).accepted
    assert (await publish_set(host, 6, 1, endpoint_set(1, 1))).accepted


async def test_many_publishes_in_a_row(host: Host) -> None:
    for version in range(1, 40):
        assert (await publish(host, small(version, (LEAF,)))).accepted
        assert (await publish_set(host, version, 1, endpoint_set(1, version % 5))).accepted


async def test_a_new_process_runs_what_the_last_one_kept(host: Host, tmp_path: Path) -> None:
    await publish(host, small(5, (LEAF,)))
    other = host_in(tmp_path)
    await other.load()
    assert other.version == 5
    assert other.zone is not None
    assert (await publish(other, small(5, (LEAF,)))).accepted  # the daemon says it again
    assert (await publish(other, small(6, (LEAF,)))).accepted
    await end(other)


async def test_a_kept_snapshot_that_is_not_good_gives_way_to_the_one_before(
    host: Host, tmp_path: Path
) -> None:
    await publish(host, small(5))
    slots = Slots(tmp_path, KEY)
    body = wire.encode_snapshot(replace(small(6), appliance_leaf="none"))
    assert slots.write(6, body, seal.mac(KEY, "snapshot", body))
    slots.close()
    other = host_in(tmp_path)
    await other.load()
    assert other.version == 5
    await end(other)


async def test_an_expired_leaf_is_not_used_after_a_restart(host: Host, tmp_path: Path) -> None:
    old = authority().leaf("ns/default/sa/old", seconds=-1)
    await publish(host, small(5, (old, LEAF)))
    other = host_in(tmp_path)
    await other.load()
    assert other.version == 5
    assert list(other._certificates._leaves) == [LEAF]
    await end(other)


def test_without_leaves_takes_them_from_everywhere() -> None:
    value = small(1, (LEAF,))
    assert without_leaves(value, set()) is value
    bare = without_leaves(value, {LEAF.key})
    assert bare == replace(small(1), bundles=value.bundles)


async def test_a_full_disk_is_counted_and_the_workers_run_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert (await publish(host, small(5))).accepted
    assert host.counters["slots_failed"] == 1
    assert host.counters["slots_written"] == 0
    assert host.counters["slots_behind_now"] == 1
    monkeypatch.undo()
    assert (await publish(host, small(6))).accepted
    assert host.counters["slots_behind_now"] == 0


async def test_lost_links_are_taken_when_signed_and_whole(host: Host) -> None:
    lost = wire.LostLinks((IPv4Address("198.18.0.1"),), 7)
    body = wire.encode_lost_links(lost)
    assert (await host.lose_links(body, seal.mac(KEY, "lost", body))).accepted  # runs none yet
    await publish(host, small(5))
    published = host._engine.published
    answer = await host.lose_links(body, seal.mac(KEY, "lost", body))
    assert (answer.accepted, answer.version) == (True, 5)
    assert host._engine.applied == host._engine.published == published + 1
    empty = wire.encode_lost_links(wire.LostLinks((), 7))
    for bad, mac in (
        (body, seal.mac(KEY, "set", body)),
        (b"?", seal.mac(KEY, "lost", b"?")),
        (empty, seal.mac(KEY, "lost", empty)),
    ):
        assert not (await host.lose_links(bad, mac)).accepted
    assert (host.counters["links_lost"], host.counters["links_refused"]) == (2, 3)
