"""linkwatch: whoever lost a link is named with its addresses, also who did while nobody looked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance import linkwatch
from appliance.errors import LimitReached, Unavailable
from appliance.linkwatch import LinkWatch
from appliance.registry.store import Store
from appliance.system import links
from appliance.system.links import Change, Link
from dataplane.snapshot import Address

V4, V6 = ip_address("198.18.0.1"), ip_address("2001:db8::1")
MESH = Link("mesh0", 2, None, 1500, True, "", None, (V4, V6), 3)
HOSTS = Link("hosts0", 3, None, 1500, True, "", None, (), 0)
FIRST = Change(frozenset(), missed=True)
Lost = list[frozenset[Address]]
Step = tuple[Change, tuple[Link, ...]]


async def see(
    store: Store,
    steps: list[Step],
    monkeypatch: pytest.MonkeyPatch,
    unread: int = 0,
    switched_on: list[set[int]] | None = None,
) -> tuple[Lost, int, list[set[int]]]:
    """What a watch tells of these changes, each with the links that there are then: lost links,
    changes of ours, and who appeared. So many times they cannot be read at first."""
    told: Lost = []
    appeared: list[set[int]] = []
    changed = 0
    present: tuple[Link, ...] = ()
    began = time.monotonic_ns()

    async def changes() -> AsyncIterator[Change]:
        nonlocal present
        for change, present in steps:  # noqa: B007
            yield change
            await asyncio.gather(*watch._tasks._live)

    async def read() -> tuple[Link, ...]:
        nonlocal unread
        if unread:
            unread -= 1
            raise Unavailable("they changed")
        return present

    async def lost(addresses: frozenset[Address], seen_ns: int) -> None:
        assert began <= seen_ns <= time.monotonic_ns()
        told.append(addresses)

    def other() -> None:
        nonlocal changed
        changed += 1

    monkeypatch.setattr(links, "changes", changes)
    monkeypatch.setattr(links, "links", read)
    monkeypatch.setattr(linkwatch, "_RETRY_SECONDS", 0)

    async def came(indices: frozenset[int]) -> None:
        appeared.append(set(indices))

    async def on(indices: frozenset[int]) -> None:
        if switched_on is not None:
            switched_on.append(set(indices))

    hear = linkwatch.Told(other, came, on, lost)
    watch = LinkWatch(store, frozenset({"hosts0"}), hear)
    await watch.run()
    return told, changed, appeared


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "site.db")


async def test_a_lost_link_takes_its_addresses_with_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = replace(MESH, up=False, addresses=(V4,), losses=4)  # IPv6 goes with it
    lost = Change(frozenset({2}), missed=False)
    steps: list[Step] = [
        (FIRST, (MESH, HOSTS)),
        (Change(frozenset(), missed=False), (MESH, HOSTS)),
        (lost, (down, HOSTS)),
        (lost, (replace(MESH, losses=5), HOSTS)),  # over already
        (lost, (HOSTS,)),  # gone
        (Change(frozenset({3}), missed=False), (replace(HOSTS, up=False),)),
    ]
    told, changed, appeared = await see(store, steps, monkeypatch)
    assert told == [{V4, V6}] * 3
    assert changed == 1
    assert appeared == [{2, 3}]


async def test_a_renamed_interface_has_not_lost_its_link(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = replace(MESH, name="uplink")
    steps: list[Step] = [
        (FIRST, (MESH, HOSTS)),
        (Change(frozenset(), missed=False), (renamed, HOSTS)),
        (Change(frozenset(), missed=True), (renamed, HOSTS)),
    ]
    told, changed, _ = await see(store, steps, monkeypatch)
    assert (told, changed) == ([], 0)


async def test_what_nobody_saw_shows_by_the_carrier_also_after_a_restart(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed = Change(frozenset(), missed=True)
    later = replace(MESH, losses=4)
    told, *_ = await see(store, [(FIRST, (MESH,)), (missed, (MESH,))], monkeypatch)
    assert told == []
    told, *_ = await see(store, [(FIRST, (later,)), (missed, (later,))], monkeypatch)
    assert told == [{V4, V6}]
    last = replace(MESH, losses=5)
    told, _, appeared = await see(store, [(FIRST, (last, HOSTS))], monkeypatch, unread=2)
    assert told == [{V4, V6}]
    assert appeared == [{3}]


async def test_who_appears_is_told_once_and_all_after_a_reboot(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = Change(frozenset(), missed=False)
    anew = replace(MESH, index=9)  # the card was taken out and put in again
    steps: list[Step] = [(FIRST, (MESH, HOSTS)), (more, (HOSTS,)), (more, (HOSTS, anew))]
    assert (await see(store, steps, monkeypatch))[2] == [{2, 3}, {9}]
    last: list[Step] = [(FIRST, (HOSTS, anew))]
    assert (await see(store, last, monkeypatch))[2] == []
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(linkwatch, "_BOOT", boot)
    assert await see(store, last, monkeypatch) == ([], 0, [{3, 9}])
    assert (await see(store, last, monkeypatch))[2] == []


async def test_a_full_disk_ends_nothing_and_all_is_told_again_after_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(key: str, value: str) -> None:
        raise LimitReached("the disk is full")

    more = Change(frozenset(), missed=False)
    with monkeypatch.context() as disk:
        disk.setattr(store, "put", full)
        steps: list[Step] = [(FIRST, (MESH,)), (more, (MESH, HOSTS)), (more, (MESH, HOSTS))]
        assert (await see(store, steps, monkeypatch))[2] == [{2}, {3}]
    assert "the interfaces are not noted: the disk is full" in caplog.text
    assert (await see(store, steps[2:], monkeypatch))[2] == [{2, 3}]  # not kept
    assert (await see(store, steps[2:], monkeypatch))[2] == []


async def test_taps_of_virtual_machines_are_not_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = Change(frozenset(), missed=False)
    await see(store, [(FIRST, (MESH,))], monkeypatch)
    kept = store.get("interfaces", "")
    tap = Link("tap0", 9, None, 1500, True, "tun", None, ())
    assert (await see(store, [(more, (MESH, tap)), (more, (MESH,))], monkeypatch))[2] == []
    assert store.get("interfaces", "") == kept


async def test_who_is_switched_on_is_told_after_it_appeared(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    off, flap = replace(MESH, on=False), Change(frozenset({2}), missed=False)
    more = Change(frozenset(), missed=False)
    on: list[set[int]] = []
    steps: list[Step] = [(FIRST, (off,)), (more, (MESH, HOSTS)), (more, (MESH, HOSTS))]
    assert (await see(store, steps, monkeypatch, switched_on=on))[2] == [{2}, {3}]
    assert on == [{2, 3}]
    on.clear()
    steps = [(FIRST, (MESH, HOSTS)), (flap, (MESH, HOSTS)), (flap, (off, HOSTS))]
    assert (await see(store, steps, monkeypatch, switched_on=on))[2] == []
    assert on == [{2}]


async def test_a_daemon_that_ends_too_early_leaves_who_appeared_to_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def changes() -> AsyncIterator[Change]:
        yield FIRST
        await told.wait()

    async def read() -> tuple[Link, ...]:
        return (MESH,)

    async def endless(indices: frozenset[int]) -> None:
        told.set()
        await asyncio.Event().wait()

    async def lost(addresses: frozenset[Address], seen_ns: int) -> None:
        raise AssertionError

    told = asyncio.Event()
    monkeypatch.setattr(links, "changes", changes)
    monkeypatch.setattr(links, "links", read)
    hear = linkwatch.Told(lambda: None, endless, endless, lost)
    await LinkWatch(store, frozenset(), hear).run()
    assert (await see(store, [(FIRST, (MESH,))], monkeypatch))[2] == [{2}]
    assert (await see(store, [(FIRST, (MESH,))], monkeypatch))[2] == []
