"""appliance.apply: old or new, never between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.config.load import Source
from appliance.config.model import Model
from appliance.config.notes import DocumentErrors
from appliance.errors import Conflict, InvalidInput, LimitReached, NotFound, Unavailable
from tests.unit.appliance.publish.world import World, until
from tests.unit.appliance.sites import networking, own

ONE = Source("one.yaml", own("Service", "one", "{ports: [{port: 80}]}"))
TWO = Source("two.yaml", own("Service", "two", "{ports: [{port: 80}]}"))
ONE_CHANGED = Source("one.yaml", own("Service", "one", "{ports: [{port: 81}]}"))
BAD = Source("bad.yaml", networking("DestinationRule", "r", "{host: nowhere}"))
KEY = ("Service", "default", "one")


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.start()
    return world


def names(world: World) -> list[str]:
    return [f"{service.name}:{service.port}" for service in world.plane.now.services]


async def test_apply_adds_and_replaces_documents(world: World) -> None:
    first = await world.applier.apply([ONE], by="uid 0")
    assert [(c.name, c.what) for c in first.changes] == [("one", "created")]
    second = await world.applier.apply([TWO, ONE_CHANGED], by="uid 0")
    assert [(c.name, c.what) for c in second.changes] == [("one", "changed"), ("two", "created")]
    assert names(world) == ["one.default:81", "two.default:80"]
    assert second.revision == world.revisions.current == first.revision + 1
    assert second.apply_ms > 0
    summaries = [each.summary for each in world.revisions.list()]
    assert summaries == ["1 changed, 1 created", "Service default/one created"]


async def test_what_the_ca_must_approve_is_asked_before_anything_changes(world: World) -> None:
    shop = Source("s.yaml", own("Service", "s", "{ports: [{port: 80}], serviceAccount: shop}"))
    asked = await world.applier.apply([shop], by="t", approve_first=True)
    assert asked.identities == ("spiffe://a.example/ns/default/sa/shop",)
    assert (asked.revision, world.revisions.list(), names(world)) == (0, (), [])
    assert (await world.applier.apply([shop], by="t")).identities == ()
    assert names(world) == ["s.default:80"]
    moved = Source("s.yaml", shop.text.replace("80", "81"))
    assert (await world.applier.apply([moved], by="t", approve_first=True)).identities == ()
    assert names(world) == ["s.default:81"]


async def test_what_was_looked_at_is_judged_again_when_the_registry_changed(world: World) -> None:
    rule = Source("r.yaml", networking("DestinationRule", "r", "{host: web}"))
    with pytest.raises(DocumentErrors, match=r"there is no service web\.default"):
        await world.applier.apply([rule], by="t", dry_run=True)
    world.add("web1", "198.18.0.11", "web:80")
    outcome = await world.applier.apply([rule], by="t")
    assert [change.what for change in outcome.changes] == ["created"]


async def test_replace_deletes_what_is_not_given(world: World) -> None:
    await world.applier.apply([ONE, TWO], by="t")
    outcome = await world.applier.apply([TWO], by="t", replace=True)
    assert [(c.name, c.what) for c in outcome.changes] == [("one", "deleted"), ("two", "unchanged")]
    assert names(world) == ["two.default:80"]


@pytest.mark.parametrize("text", ["", "# words\n---\n---\n"])
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("dry_run", [False, True])
async def test_no_document_is_refused_not_taken_for_all_gone(
    world: World, text: str, replace: bool, dry_run: bool
) -> None:
    await world.applier.apply([ONE], by="t")
    with pytest.raises(InvalidInput, match="no document"):
        await world.applier.apply([Source("-", text)], by="t", replace=replace, dry_run=dry_run)
    assert names(world) == ["one.default:80"]


async def test_nothing_new_is_no_revision(world: World) -> None:
    first = await world.applier.apply([ONE], by="t")
    published = len(world.plane.snapshots)
    again = await world.applier.apply([ONE], by="t")
    assert (again.revision, len(world.plane.snapshots)) == (first.revision, published)


async def test_a_dry_run_changes_nothing_and_says_what_would(world: World) -> None:
    published = len(world.plane.snapshots)
    outcome = await world.applier.apply([ONE], by="t", dry_run=True)
    assert "+kind: Service" in outcome.diff
    assert outcome.identities == ("spiffe://a.example/ns/default/sa/default",)
    assert world.revisions.list() == ()
    assert (len(world.plane.snapshots), world.publisher.model) == (published, Model())
    assert world.store.all("SELECT * FROM vips") == []


async def test_bad_documents_are_all_said_with_their_place_and_nothing_is_applied(
    world: World,
) -> None:
    with pytest.raises(DocumentErrors) as failure:
        await world.applier.apply([ONE, BAD], by="t")
    assert str(failure.value).startswith("bad.yaml:4: spec.host: ")
    with pytest.raises(DocumentErrors, match=r"x\.yaml:2: not YAML"):
        await world.applier.apply([ONE, Source("x.yaml", "a: [")], by="t")
    assert (world.revisions.list(), world.plane.now.services) == ((), ())


async def test_what_a_host_left_behind_refuses_no_other_change(world: World) -> None:
    world.add("web1", "198.18.0.11", "web:80")
    rule = Source("r.yaml", networking("DestinationRule", "r", "{host: web}"))
    await world.applier.apply([rule], by="t")
    world.hosts.remove("web1")
    world.view.changed()
    await world.applier.apply([ONE], by="t")
    with pytest.raises(DocumentErrors, match=r"r\.yaml"):
        await world.applier.apply([rule], by="t")


async def test_a_deletion_that_leaves_a_reference_to_nothing_is_refused(world: World) -> None:
    rule = Source("r.yaml", networking("DestinationRule", "r", "{host: one}"))
    await world.applier.apply([ONE, rule], by="t")
    with pytest.raises(DocumentErrors, match=r"r\.yaml"):
        await world.applier.delete(KEY, by="t")
    with pytest.raises(NotFound, match="there is no Service default/nothing"):
        await world.applier.delete(("Service", "default", "nothing"), by="t")


@pytest.mark.parametrize(("silent", "refuse"), [(True, ""), (False, "no")])
async def test_what_the_data_plane_does_not_take_is_not_applied(
    world: World, silent: bool, refuse: str
) -> None:
    await world.applier.apply([ONE], by="t")
    world.plane.silent, world.plane.refuse = silent, refuse
    with pytest.raises((Unavailable, Conflict)):
        await world.applier.apply([TWO], by="t", confirm_s=60)
    assert world.revisions.model(world.revisions.current) == world.publisher.model
    assert world.revisions.pending() is None
    newest = world.revisions.list()[0]
    assert newest.state == "refused"
    assert newest.reason
    world.plane.silent, world.plane.refuse = False, ""
    await world.publisher.settle()
    assert names(world) == ["one.default:80"]


async def test_rollback_is_a_new_revision(world: World) -> None:
    first = await world.applier.apply([ONE], by="t")
    await world.applier.apply([ONE_CHANGED, TWO], by="t")
    back = await world.applier.rollback(first.revision, by="t")
    assert names(world) == ["one.default:80"]
    assert back.revision == first.revision + 2
    with pytest.raises(NotFound):
        await world.applier.rollback(99, by="t")


async def test_diff_of_revisions_and_of_files(world: World) -> None:
    await world.applier.apply([ONE], by="t")
    await world.applier.apply([ONE_CHANGED], by="t")
    assert "-  - port: 80" in (between := await world.applier.diff(0, 0, [])), between
    assert "+  - port: 80" in await world.applier.diff(2, 1, [])
    assert "+kind: Service" in await world.applier.diff(0, 0, [TWO])


# -- to be confirmed -------------------------------------------------------------------------------


async def reverted(world: World) -> None:
    runner = asyncio.ensure_future(world.applier.run())
    await until(lambda: runner.done() or names(world) == ["one.default:80"])
    assert runner.cancel()
    assert world.revisions.pending() is None


async def test_an_unconfirmed_change_reverts_by_itself(world: World) -> None:
    await world.applier.apply([ONE], by="t")
    outcome = await world.applier.apply([ONE_CHANGED], by="t", confirm_s=300)
    assert outcome.confirm_deadline == int(world.time) + 300
    assert names(world) == ["one.default:81"]
    for act in (
        world.applier.apply([TWO], by="t"),
        world.applier.delete(KEY, by="t"),
        world.applier.rollback(1, by="t"),
    ):
        with pytest.raises(Conflict, match="waits to be confirmed"):
            await act
    world.time += 301
    await reverted(world)
    assert world.revisions.list()[0].state == "reverted"
    await world.applier.apply([TWO], by="t")


async def test_a_confirmed_change_stays(world: World) -> None:
    await world.applier.apply([ONE], by="t")
    await world.applier.apply([ONE_CHANGED], by="t", confirm_s=300)
    await world.applier.confirm(by="t")
    world.time += 301
    await world.applier.apply([TWO], by="t")
    assert names(world) == ["one.default:81", "two.default:80"]
    with pytest.raises(Conflict, match="nothing waits"):
        await world.applier.confirm(by="t")


async def test_a_change_can_be_taken_back_at_once(world: World) -> None:
    await world.applier.apply([ONE], by="t")
    await world.applier.apply([ONE_CHANGED], by="t", confirm_s=300)
    outcome = await world.applier.confirm(by="t", cancel=True)
    assert (outcome.revision, names(world)) == (1, ["one.default:80"])


async def test_a_restart_past_the_deadline_reverts_and_before_it_waits(
    world: World, tmp_path: Path
) -> None:
    await world.applier.apply([ONE], by="t")
    await world.applier.apply([ONE_CHANGED], by="t", confirm_s=300)
    before = World(tmp_path)
    before.time = world.time + 200
    await before.start()
    assert names(before) == ["one.default:81"]
    before.time += 150
    await reverted(before)


async def test_a_reboot_past_the_deadline_reverts(world: World, tmp_path: Path) -> None:
    await world.applier.apply([ONE], by="t")
    await world.applier.apply([ONE_CHANGED], by="t", confirm_s=300)
    after = World(tmp_path)
    after.time = world.time + 301
    await after.start()
    assert names(after) == ["one.default:80"]
    assert after.audit.entries()[0].what == "revert"


async def test_a_wait_without_end_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match="seven days"):
        await world.applier.apply([ONE], by="t", confirm_s=8 * 86_400)


# -- faults ----------------------------------------------------------------------------------------

KILLED = """
import asyncio, os, sys
from pathlib import Path
from tests.unit.appliance.publish.test_apply import ONE, ONE_CHANGED, World
async def main():
    world = World(Path(sys.argv[1]))
    await world.start()
    await world.applier.apply([ONE], by="t")
    if sys.argv[2] == "published":
        world.plane.during = lambda: os._exit(9)
    else:
        world.publisher.replace = lambda model: os._exit(9)
    await world.applier.apply([ONE_CHANGED], by="t", confirm_s=int(sys.argv[3]))
asyncio.run(main())
"""


@pytest.mark.parametrize("confirm_s", [0, 300])
@pytest.mark.parametrize("when", ["kept", "published"])
async def test_a_daemon_killed_in_the_middle_starts_with_the_old_documents(
    tmp_path: Path, when: str, confirm_s: int
) -> None:
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILLED, str(tmp_path), when, str(confirm_s)],
        cwd=Path(__file__).parents[4],
        check=False,
    )
    assert ended.returncode == 9
    world = World(tmp_path)
    await world.start()
    assert names(world) == ["one.default:80"]
    assert world.revisions.pending() is None
    assert [each.state for each in world.revisions.list()] == ["refused", "applied"]
    await world.applier.apply([ONE_CHANGED], by="t")
    assert names(world) == ["one.default:81"]


def fill(world: World) -> None:
    """As on a full disk, SQLite says SQLITE_FULL from now on."""
    (pages,) = world.store.one("PRAGMA page_count") or (0,)
    world.store.run(f"PRAGMA max_page_count = {pages}")


def large(number: int) -> Source:
    """Documents that take more pages than are left free in the file."""
    ports = ", ".join(f"{{port: {1 + n}, name: {'x' * 60}}}" for n in range(200))
    texts = [own("Service", f"s{number}x{n}", f"{{ports: [{ports}]}}") for n in range(10)]
    return Source("large.yaml", "---\n".join(texts))


async def test_a_full_disk_applies_nothing(world: World) -> None:
    await world.applier.apply([ONE], by="t")
    fill(world)
    published = len(world.plane.snapshots)
    with pytest.raises(LimitReached, match="is full: nothing was changed"):
        await world.applier.apply([large(1)], by="t")
    assert (len(world.plane.snapshots), names(world)) == (published, ["one.default:80"])
    world.store.run("PRAGMA max_page_count = 1000000")
    await world.applier.apply([TWO], by="t")
    assert world.revisions.current == 2


async def test_a_disk_that_fills_while_it_publishes_gets_the_old_documents_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.applier.apply([ONE], by="t")

    def full(revision: int) -> None:
        raise LimitReached("the disk is full")

    monkeypatch.setattr(world.revisions, "finish", full)
    with pytest.raises(LimitReached):
        await world.applier.apply([ONE_CHANGED], by="t")
    assert names(world) == ["one.default:80"]
    assert world.revisions.current == 1


async def test_a_change_goes_to_its_end_when_the_caller_goes_away(world: World) -> None:
    world.plane.gate = asyncio.Event()
    asking = asyncio.ensure_future(world.applier.apply([ONE], by="t"))
    await until(lambda: bool(world.revisions.list()))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    world.plane.gate.set()
    await world.applier.close()
    assert (world.revisions.current, names(world)) == (1, ["one.default:80"])


async def test_documents_outlive_a_restart_as_they_were(world: World, tmp_path: Path) -> None:
    await world.applier.apply([ONE, TWO], by="t")
    again = World(tmp_path)
    await again.start()
    assert again.publisher.model == world.publisher.model
    assert names(again) == names(world)
    assert [s.vips for s in again.plane.now.services] == [s.vips for s in world.plane.now.services]
