"""Moves a stream's bytes between two legs until both directions ended, or one failed, or nothing
moved for too long. Knows no addresses and no identities."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

IDLE_S = 3600.0


class Leg(Protocol):
    """tls.TlsLeg or tls.PlainLeg."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def write_eof(self) -> None: ...


class Idle(Exception):
    """Nothing moved for IDLE_S."""


class _Pump:
    def __init__(self) -> None:
        self.bytes = 0
        self.moved_at = time.monotonic()

    async def run(self, source: Leg, sink: Leg, first: bytes) -> None:
        data = first or await source.read()
        while data:
            self.bytes += len(data)
            await sink.write(data)
            self.moved_at = time.monotonic()
            data = await source.read()
        await sink.write_eof()


async def relay(
    near: Leg, far: Leg, first_up: bytes = b"", first_down: bytes = b"", idle_s: float = IDLE_S
) -> tuple[int, int]:
    """Bytes near → far and far → near. `first_…` were read already. Raises what a leg raises, or
    Idle; then the caller aborts both legs. Closes neither."""
    up, down = _Pump(), _Pump()
    pending: set[asyncio.Future[None]] = {
        asyncio.ensure_future(up.run(near, far, first_up)),
        asyncio.ensure_future(down.run(far, near, first_down)),
    }
    try:
        while pending:
            idle = time.monotonic() - max(up.moved_at, down.moved_at)
            if idle >= idle_s:
                raise Idle(f"nothing moved for {idle_s:.0f} s")
            done, pending = await asyncio.wait(
                pending, timeout=idle_s - idle, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return up.bytes, down.bytes
