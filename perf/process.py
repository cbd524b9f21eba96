"""Processes under test: started without privileges on their processor, found, measured, ended.

Owns only what it started; everything ends with the context.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from appliance.supervisor.child import User, privileges

NOBODY = 65534
START_SECONDS = 20.0
END_SECONDS = 5.0
POLL_SECONDS = 0.02


class BenchError(Exception):
    """A run is worth nothing; the message says why."""


@contextlib.asynccontextmanager
async def running(
    argv: Sequence[str], log: Path, processor: int, user: int = NOBODY
) -> AsyncIterator[int]:
    """The process's number. What it prints goes to log."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *privileges(User(user, user)),
            *("taskset", "-c", str(processor)),
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def listening(address: str, port: int, log: Path) -> None:
    """Until somebody listens there. Raises BenchError with the log's end."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            # Loopback answers at once.
            probe.connect((address, port))
            return
        if asyncio.get_running_loop().time() > deadline:
            raise BenchError(
                f"nobody listens on {address}:{port} after {START_SECONDS} s: {_end_of(log)}"
            )
        await asyncio.sleep(POLL_SECONDS)


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]


def family(pid: int) -> tuple[int, ...]:
    """The process and its descendants."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").iterdir():
            children = (task / "children").read_text(encoding="ascii").split()
            found.extend(int(child) for child in children)
    return tuple(found)


def private_bytes(pids: Sequence[int]) -> int:
    """Anonymous memory that is resident (RssAnon): what is the processes' own."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) * 1024
    return total


def readable_by_nobody(path: Path, text: str) -> Path:
    """Writes a file that the peers, and nobody else but root, can read."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as output:
        output.write(text)
    os.chown(path, NOBODY, NOBODY)
    return path
