"""A kept service with small real processes: started again, replaced, drained, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path

import pytest

from appliance.errors import Conflict, Unavailable
from appliance.supervisor import kept as module
from appliance.supervisor.child import Child, Command, User, environment, privileges
from appliance.supervisor.kept import Files, Kept

# Tells that it is ready; on SIGTERM leaves a note and ends; SIGINT ends at once.
SERVES = """
import os, signal, sys
def named(name):
    parts = dict(p.split("=") for p in os.environ["SLUICE_FDS"].split(";"))
    return int(parts[name])
waited = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, waited)
os.write(named("ready"), b"ready\\n")
while (took := signal.sigwait(waited)) == signal.SIGHUP:
    with open(sys.argv[1] + ".hup", "a") as hung_up:
        hung_up.write("x")
if took == signal.SIGTERM and "lingers" in sys.argv:
    signal.sigwait({signal.SIGINT})
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
"""
# Says again and again that it is there, until it is stopped.
BEATS = """
import os, select
parts = dict(p.split("=") for p in os.environ["SLUICE_FDS"].split(";"))
os.write(int(parts["ready"]), b"ready\\n")
while not select.select([], [], [], 0.05)[0]:
    os.write(int(parts["ready"]), b".")
"""
SILENCE_S = 3.0
DIES = "raise SystemExit(3)"
DEADLINE_S = 60.0


def serving(note: Path, *more: str) -> Command:
    return Command((sys.executable, "-c", SERVES, str(note), *more))


def always(command: Command) -> Callable[[int], tuple[Command, AbstractContextManager[Files]]]:
    return lambda generation: (command, nullcontext({}))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - other processes' state
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(kept: Kept) -> AsyncIterator[Kept]:
    task = asyncio.ensure_future(kept.run())
    try:
        yield kept
    finally:
        kept.stop()
        async with asyncio.timeout(DEADLINE_S):
            await task


async def test_a_process_that_dies_is_started_again_and_counted(tmp_path: Path) -> None:
    ended: list[int] = []
    kept = Kept("x", always(serving(tmp_path / "note")), drain_s=5, on_end=ended.append)
    async with running(kept):
        await until(kept.serving.is_set)
        first = kept.processes()[0]["pid"]
        assert isinstance(first, int)
        os.kill(first, signal.SIGKILL)
        await until(lambda: kept.counts.restarts == 1 and kept.serving.is_set())
        assert kept.processes()[0]["pid"] != first
        assert kept.generation == 2
        assert ended == [1]
    assert ended == [1, 2]


async def test_a_process_that_hangs_is_ended_and_started_again() -> None:
    command = Command((sys.executable, "-c", BEATS), silence_max_s=SILENCE_S)
    kept = Kept("x", always(command), drain_s=5)
    async with running(kept):
        await until(kept.serving.is_set)
        first = kept.processes()[0]["pid"]
        assert isinstance(first, int)
        os.kill(first, signal.SIGSTOP)
        await until(lambda: kept.counts.restarts == 1 and kept.serving.is_set())
        assert kept.processes()[0]["pid"] != first
        assert kept.counts.hung == 1


async def test_a_process_that_is_heard_of_is_left_alone(tmp_path: Path) -> None:
    beating = await Child.start(Command((sys.executable, "-c", BEATS), silence_max_s=SILENCE_S), {})
    mute = await Child.start(serving(tmp_path / "note"), {})  # of whom nothing is expected
    try:
        for child in (beating, mute):
            await child.ready(DEADLINE_S)
        silences = [asyncio.ensure_future(child.silence()) for child in (beating, mute)]
        done, _ = await asyncio.wait(
            silences, timeout=SILENCE_S * 1.5, return_when=asyncio.FIRST_COMPLETED
        )
        assert not done
        for silence in silences:
            silence.cancel()
    finally:
        for child in (beating, mute):
            await child.stop(5)


async def test_stop_ends_it_by_sigterm_and_leaves_no_process(tmp_path: Path) -> None:
    kept = Kept("x", always(serving(tmp_path / "note")), drain_s=5)
    async with running(kept):
        await until(kept.serving.is_set)
        pid = kept.processes()[0]["pid"]
    assert (tmp_path / "note").read_text() == f"{pid}\n"
    assert kept.counts == module.Counts()


async def test_replacement_starts_the_new_before_the_old_ends(tmp_path: Path) -> None:
    note = tmp_path / "note"
    kept = Kept("x", always(serving(note, "lingers")), drain_s=30, hurries=True)
    async with running(kept):
        await until(kept.serving.is_set)
        old = kept.processes()[0]["pid"]
        assert await kept.replace() == 2
        states = {entry["pid"]: entry["state"] for entry in kept.processes()}
        assert states[old] == "draining"
        assert list(states.values()) == ["serving", "draining"]
        assert kept.serving.is_set()
        assert kept.counts.replacements == 1
        kept.stop()
        kept.stop()  # the second one does not wait for the drain
        await until(note.exists)
    assert str(old) in note.read_text().split()


async def test_a_replacement_that_fails_leaves_the_old_one_serving(tmp_path: Path) -> None:
    commands = {1: serving(tmp_path / "note"), 2: Command((sys.executable, "-c", DIES))}
    kept = Kept("x", lambda generation: (commands[generation], nullcontext({})), drain_s=5)
    async with running(kept):
        await until(kept.serving.is_set)
        old = kept.processes()[0]["pid"]
        with pytest.raises(Unavailable, match="exit code 3"):
            await kept.replace()
        assert kept.processes()[0]["pid"] == old
        assert kept.serving.is_set()
        assert kept.counts.failed_starts == 1


async def test_a_replacement_of_nothing_is_refused() -> None:
    with pytest.raises(Conflict):
        await Kept("x", always(Command((sys.executable, "-c", DIES)))).replace()


async def test_failing_starts_are_spaced_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def note(self: Kept, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            self.stop()

    monkeypatch.setattr(Kept, "_sleep", note)
    kept = Kept("x", always(Command(("/bin/false",))))
    async with asyncio.timeout(DEADLINE_S):
        await kept.run()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert kept.counts.failed_starts == 8


async def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(Unavailable, match="/nonexistent cannot be started"):
        await Child.start(Command(("/nonexistent",)), {})


async def test_a_slow_start_is_ended(tmp_path: Path) -> None:
    silent = "import signal; signal.sigwait({signal.SIGUSR1})"
    kept = Kept("x", always(Command((sys.executable, "-c", silent), ready_timeout_s=0.3)))
    task = asyncio.ensure_future(kept.run())
    await until(lambda: kept.counts.failed_starts >= 1)
    kept.stop()
    async with asyncio.timeout(DEADLINE_S):
        await task
    assert kept.processes()[0]["detail"] == "not ready within 0 s"


async def test_too_many_draining_cuts_the_oldest_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAINING_MAX", 1)
    note = tmp_path / "note"
    kept = Kept("x", always(serving(note, "lingers")), drain_s=30, hurries=True)
    async with running(kept):
        await until(kept.serving.is_set)
        oldest = kept.processes()[0]["pid"]
        await kept.replace()
        await kept.replace()
        await until(lambda: note.exists() and str(oldest) in note.read_text().split())
        assert kept.counts.cut_short == 1
        kept.stop()
        kept.stop()


async def test_hang_up_reaches_those_that_serve(tmp_path: Path) -> None:
    note = tmp_path / "note"
    kept = Kept("x", always(serving(note)), drain_s=5, hangup=True)
    async with running(kept):
        await until(kept.serving.is_set)
        hung_up = tmp_path / "note.hup"
        await until(lambda: hung_up.exists() and hung_up.read_text())  # the one at its start
        before = len(hung_up.read_text())
        kept.hang_up()
        await until(lambda: len(hung_up.read_text()) > before)


def test_a_child_gets_a_small_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET", "x")
    monkeypatch.setenv("NOTIFY_SOCKET", "/x")
    given = environment({"mesh4": [5, 6], "ready": [7]})
    assert given["SLUICE_FDS"] == "mesh4=5,6;ready=7"
    assert not {"AWS_SECRET", "NOTIFY_SOCKET", "HOME"} & set(given)


def test_privileges_drop_all_but_one_capability() -> None:
    line = privileges(User(7, 8, "net_raw"))
    assert {"--reuid=7", "--regid=8", "--clear-groups", "--no-new-privs"} <= set(line)
    assert "--bounding-set=-all,+net_raw" in line
    assert "--bounding-set=-all" in privileges(User(7, 8))
