"""A clean-up: interrupts are held off, said once, and as before when it is over; it ends in time,
and what is left is told."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from pyroute2 import netns

from appliance.demo import clean
from appliance.demo import commands as module
from appliance.demo.clean import INTERRUPTS, held_off
from appliance.demo.commands import Commands

HELD_S = 20.0
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
"""


def test_interrupts_wait_for_the_end_of_a_clean_up(capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in INTERRUPTS]
    with held_off():
        for number in (*INTERRUPTS, *INTERRUPTS):
            os.kill(os.getpid(), number)
        with held_off():
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == "cleaning up: it ends by itself, interrupts wait\n"
    assert [signal.getsignal(number) for number in INTERRUPTS] == before


def test_processes_that_do_not_end_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END_S", 0.2)
    commands = Commands(tmp_path)
    kept = [commands.keep(f"deaf{n}", (sys.executable, "-c", DEAF)) for n in range(2)]
    commands.close()
    assert [process.poll() for process in kept] == [-signal.SIGKILL] * 2


def test_a_namespace_that_does_not_go_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(clean, "RUN", tmp_path)
    monkeypatch.setattr(clean, "ETC_NETNS", tmp_path / "netns")
    monkeypatch.setattr(clean, "REMOVE_S", 0.05)
    monkeypatch.setattr(clean, "_processes", lambda namespaces: [])
    monkeypatch.setattr(netns, "listnetns", lambda: ["sluice-none-a", "another"])
    monkeypatch.setattr(netns, "remove", lambda name: released.wait())
    in_the_end = threading.Timer(HELD_S, released.set)
    in_the_end.start()
    try:
        clean.cleanup("sluice-none")
        assert not released.is_set()
        assert clean.left_behind("sluice-none") == ["namespace sluice-none-a"]
    finally:
        in_the_end.cancel()
        released.set()
