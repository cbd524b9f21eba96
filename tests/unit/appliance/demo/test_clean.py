"""Interrupts while a clean-up runs: held off, said once, and as before when it is over."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from appliance.demo import commands as module
from appliance.demo.clean import INTERRUPTS, held_off
from appliance.demo.commands import Commands

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
