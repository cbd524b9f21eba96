"""Relays that parse nothing (load/null.c). In a pair: two of them, and no TLS."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from perf.load_generator import BUILD
from perf.peers import hops
from perf.peers.contestant import Contestant, Task


def _start(way: str, task: Task) -> AbstractAsyncContextManager[Contestant]:
    def command(hop: str) -> tuple[str, ...]:
        return (str(BUILD / "null"), way, *map(str, hops.ports(task, hop)))

    return hops.chain(f"null-{way}", task, command)


def copy(task: Task) -> AbstractAsyncContextManager[Contestant]:
    return _start("copy", task)


def splice(task: Task) -> AbstractAsyncContextManager[Contestant]:
    return _start("splice", task)
