"""Taking a demo's namespaces away, and telling what is left. Owns no namespace; goes by names.

A clean-up that is interrupted leaves processes, namespaces and files, so interrupts are held off
while one runs; in return each of its steps is bounded in time.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from pyroute2 import netns

RUN = Path("/run")
ETC_NETNS = Path("/etc/netns")
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GONE_S = 10.0  # processes, to be gone once they are killed
LIST_S = 5.0
REMOVE_S = 10.0  # all namespaces; the kernel may hold one's mount


_said = False


def hold_off() -> None:
    """From here on an interrupt does nothing but say, once, that the clean-up goes on."""
    global _said
    if signal.getsignal(signal.SIGINT) is not _say:
        _said = False
    for number in INTERRUPTS:
        signal.signal(number, _say)


def _say(number: int, frame: FrameType | None) -> None:
    global _said
    if not _said:
        _said = True
        # Not by print: the interrupt may have come in the middle of one.
        os.write(2, b"cleaning up: it ends by itself, interrupts wait\n")


@contextmanager
def held_off() -> Iterator[None]:
    """`hold_off` for a while. In another thread than the main one there is nothing to hold off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    hold_off()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def unhurried_end() -> Iterator[None]:
    """Interrupts are held off from the end of the block on, whatever ended it."""
    try:
        yield
    finally:
        hold_off()


def cleanup(prefix: str) -> None:
    """Takes away all that bears the prefix: processes in its namespaces, these, and files."""
    namespaces = _namespaces(prefix)
    deadline = time.monotonic() + GONE_S
    while (pids := _processes(namespaces)) and time.monotonic() < deadline:
        _kill(pids, deadline)
    # A thread of its own, for the kernel may make the one that asks wait as long as it likes.
    removing = threading.Thread(target=_remove, args=(namespaces,), daemon=True)
    removing.start()
    removing.join(REMOVE_S)
    for left in ETC_NETNS.glob(f"{prefix}-*"):
        shutil.rmtree(left, ignore_errors=True)
    with suppress(OSError):
        ETC_NETNS.rmdir()  # only when nobody else has files there
    shutil.rmtree(RUN / prefix, ignore_errors=True)


def left_behind(prefix: str) -> list[str]:
    """What bears the prefix still."""
    namespaces = _namespaces(prefix)
    files = [*ETC_NETNS.glob(f"{prefix}-*"), *([RUN / prefix] if (RUN / prefix).exists() else [])]
    return [
        *(f"process {pid}" for pid in _processes(namespaces)),
        *(f"namespace {name}" for name in namespaces),
        *map(str, files),
    ]


def _namespaces(prefix: str) -> list[str]:
    return [name for name in netns.listnetns() if name.startswith(f"{prefix}-")]


def _kill(pids: Iterable[int], deadline: float) -> None:
    """Returns when they are gone, or at the deadline."""
    with ExitStack() as opened:
        files: list[int] = []
        for pid in pids:
            with suppress(ProcessLookupError):
                files.append(os.pidfd_open(pid))
                opened.callback(os.close, files[-1])
                signal.pidfd_send_signal(files[-1], signal.SIGKILL)
        for file in files:
            ended = select.poll()
            ended.register(file, select.POLLIN)
            ended.poll(max(0.0, deadline - time.monotonic()) * 1000)


def _remove(namespaces: Iterable[str]) -> None:
    for namespace in namespaces:
        with suppress(OSError):
            netns.remove(namespace)


def _processes(namespaces: list[str]) -> list[int]:
    found: list[int] = []
    for namespace in namespaces:
        # In a session of its own: a terminal's Ctrl-C is not for it.
        with suppress(subprocess.TimeoutExpired):
            listed = subprocess.run(
                ("ip", "netns", "pids", namespace), capture_output=True, text=True, check=False,
                timeout=LIST_S, start_new_session=True,
            )  # fmt: skip
            found += map(int, listed.stdout.split())
    return found
