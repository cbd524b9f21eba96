"""One child process: its user and capabilities, its descriptors, readiness, end.

Owns the process from start to reaping. Decides nothing about starting it again; see kept.py.

A child gets its descriptors' numbers in SLUICE_FDS ("name=fd,fd;name=fd"), writes "ready\\n" to
the one called "ready" once it serves, and ends in order on SIGTERM. One that is to be heard of
goes on writing there, a byte a few seconds, from its event loop. It is in a session of its
own, so that a terminal's Ctrl-C reaches only the supervisor, and is told to end (SIGTERM) when
the supervisor dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from appliance.errors import Unavailable

READY = b"ready\n"
LOOKS = 6  # in a row that find nothing, for a process to be silent
KEPT_ENVIRONMENT = ("PYTHONPATH", "TZ", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS")


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as. `capability` is the only one it keeps, e.g. "net_raw"."""

    uid: int
    gid: int
    capability: str | None = None
    umask: int = 0o077


@dataclass(frozen=True, slots=True)
class Command:
    """What to start. `user` None = as we are (tests)."""

    argv: tuple[str, ...]
    user: User | None = None
    ready_timeout_s: float = 60.0
    silence_max_s: float | None = None  # of one that goes on writing; None = it does not


def privileges(user: User) -> tuple[str, ...]:
    """The setpriv(1) command line that leads to `user`, and no way back."""
    keep = "-all" if user.capability is None else f"-all,+{user.capability}"
    return (
        "setpriv",
        f"--reuid={user.uid}",
        f"--regid={user.gid}",
        "--clear-groups",
        f"--inh-caps={keep}",
        f"--ambient-caps={keep}",
        f"--bounding-set={keep}",
        "--no-new-privs",
        "--pdeathsig=TERM",
        "--",
    )


class Child:
    """A started process. Make it with `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        ready_file: int,
        generation: int,
        silence_max_s: float | None = None,
    ) -> None:
        self.generation = generation
        self.since = int(time.time())
        self._process = process
        self._ready_file = ready_file
        self._told_ready = asyncio.get_running_loop().create_future()
        self._received = b""
        self._silence_max_s = silence_max_s
        self._heard = 0  # reads that found something
        asyncio.get_running_loop().add_reader(ready_file, self._read_ready)

    @classmethod
    async def start(
        cls, command: Command, files: Mapping[str, Sequence[int]], generation: int = 1
    ) -> Child:
        """Raises Unavailable when it cannot even be started."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            passed = {**files, "ready": [write_end]}
            user = command.user
            process = await asyncio.create_subprocess_exec(
                *((*privileges(user), *command.argv) if user else command.argv),
                stdin=asyncio.subprocess.DEVNULL,
                env=environment(passed),
                cwd="/",
                pass_fds=[file for group in passed.values() for file in group],
                start_new_session=True,
                umask=user.umask if user else -1,
            )
        except OSError as error:
            os.close(read_end)
            raise Unavailable(f"{command.argv[0]} cannot be started: {error.strerror}") from error
        finally:
            os.close(write_end)
        return cls(process, read_end, generation, command.silence_max_s)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ready(self, timeout_s: float) -> None:
        """Until it serves. Raises Unavailable when it ends first, or is too slow."""
        try:
            async with asyncio.timeout(timeout_s):
                told = await asyncio.shield(self._told_ready)
        except TimeoutError:
            raise Unavailable(f"not ready within {timeout_s:.0f} s") from None
        if not told:
            raise Unavailable(f"ended before it was ready ({await self.wait()})")

    async def silence(self) -> None:
        """Until it is silent for too long; for ever, where nothing is to be heard of it.

        Counted in looks, not by the clock: a machine that slept was not silent, nor was a process
        that wrote while we were stopped ourselves.
        """
        if self._silence_max_s is None:
            await asyncio.get_running_loop().create_future()
            return
        quiet = 0
        while quiet < LOOKS:
            before = self._heard
            await asyncio.sleep(self._silence_max_s / LOOKS)
            self._read_ready()
            quiet = quiet + 1 if self._heard == before else 0

    async def wait(self) -> str:
        """Until it has ended; says how, in words."""
        code = await self._process.wait()
        self._forget_ready()
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            self._process.send_signal(number)

    async def stop(self, patience_s: float) -> str:
        """SIGTERM, then SIGKILL when it takes longer; returns how it ended."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience_s):
                return await self.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    def _read_ready(self) -> None:
        if self._ready_file < 0:
            return
        try:
            chunk = os.read(self._ready_file, 64)
        except BlockingIOError:
            return
        self._heard += 1 if chunk else 0
        self._received = (self._received + chunk)[-64:]
        told = READY in self._received
        if told and chunk and self._silence_max_s is not None:
            if not self._told_ready.done():
                self._told_ready.set_result(True)
        elif told or not chunk:
            self._forget_ready(told)

    def _forget_ready(self, told: bool = False) -> None:
        if self._ready_file >= 0:
            asyncio.get_running_loop().remove_reader(self._ready_file)
            os.close(self._ready_file)
            self._ready_file = -1
        if not self._told_ready.done():
            self._told_ready.set_result(told)


def environment(files: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The whole environment of a child: nothing of ours that it does not need."""
    named = ";".join(f"{name}={','.join(map(str, group))}" for name, group in files.items())
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GRPC_VERBOSITY": "NONE",  # what goes wrong is said by us, once
        "SLUICE_FDS": named,
        **kept,
    }
