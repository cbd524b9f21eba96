"""Who may sit at the supervisor's socket, how many and how long; for real over a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.errors import Denied, LimitReached
from appliance.paths import Paths
from appliance.supervisor.control import CONNECTIONS_MAX, Control
from appliance.system.credentials import Peer, Seats
from appliance.system.rooted import SupervisorClient
from tests.unit.appliance.sites import SITE

DAEMON = SITE.spec.users.daemon
ADMINS = SITE.spec.users.admin_group


@dataclass
class Box:
    """What the control socket needs of a tree."""

    paths: Paths
    site: Any = SITE
    counters: Counter[str] = field(default_factory=Counter)
    dataplane: Any = field(default_factory=lambda: SimpleNamespace(generation=3))
    tickets: Any = field(default_factory=lambda: SimpleNamespace(rotations=0))

    def services(self) -> list[Any]:
        return []


@asynccontextmanager
async def serving(
    tmp_path: Path, peer: Peer, silence_max_s: float = 30
) -> AsyncIterator[tuple[Box, Control]]:
    box = Box(Paths(tmp_path, tmp_path))
    box.paths.supervisor_socket.parent.mkdir(parents=True, exist_ok=True)
    control = Control(box, lambda sock: peer, silence_max_s)  # type: ignore[arg-type]
    task = asyncio.ensure_future(control.serve())
    await until(box.paths.supervisor_socket.exists)
    try:
        yield box, control
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another task's state
            await asyncio.sleep(0)


def connected(box: Box) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(box.paths.supervisor_socket))
    return sock


async def test_strangers_are_told_why_and_take_no_seat(tmp_path: Path) -> None:
    async with serving(tmp_path, Peer(1000, 1000, 1, frozenset((1000,)))) as (box, control):
        held = [connected(box) for _ in range(CONNECTIONS_MAX + 1)]
        await until(lambda: box.counters["asked_by_strangers"] == len(held))
        assert control.seats.taken == 0
        with pytest.raises(Denied, match=f"be root or in group {ADMINS}"):
            await SupervisorClient(box.paths.supervisor_socket).call("status", timeout_s=10)
        for sock in held:
            sock.close()


@pytest.mark.parametrize(
    "peer", [Peer(DAEMON, DAEMON, 1), Peer(1000, 1000, 1, frozenset((1000, ADMINS)))]
)
async def test_one_user_holds_a_quarter_of_the_seats(tmp_path: Path, peer: Peer) -> None:
    async with serving(tmp_path, peer) as (box, control):
        held = [connected(box) for _ in range(CONNECTIONS_MAX // 4)]
        await until(lambda: control.seats.taken == len(held))
        ask = SupervisorClient(box.paths.supervisor_socket).call
        with pytest.raises(LimitReached):
            await ask("status", timeout_s=10)
        assert box.counters["asked_by_too_many"] == 1
        held.pop().close()
        await until(lambda: control.seats.taken == len(held))
        answer = await ask("status", timeout_s=10)
        assert answer["counts"]["asked_by_too_many"] == 1
        for sock in held:
            sock.close()


async def test_who_says_nothing_loses_its_seat(tmp_path: Path) -> None:
    async with serving(tmp_path, Peer(0, 0, 1), silence_max_s=0.01) as (box, control):
        with connected(box) as sock:
            await until(lambda: box.counters["asked_nothing"] == 1)
            assert control.seats.taken == 0
            assert sock.recv(1) == b""


async def test_the_daemon_asks_nothing_of_the_admins(tmp_path: Path) -> None:
    async with serving(tmp_path, Peer(DAEMON, DAEMON, 1)) as (box, _):
        with pytest.raises(Denied):
            await SupervisorClient(box.paths.supervisor_socket).call(
                "factory-reset", timeout_s=10, site=SITE.name
            )
        assert box.counters["asked_too_much"] == 1


def test_root_may_take_all_seats_and_no_more() -> None:
    seats = Seats(4)
    assert [seats.take(0) for _ in range(5)] == [True] * 4 + [False]
    assert seats.refused == 1
    seats.leave(0)
    assert seats.take(7)
    assert not seats.take(7)
