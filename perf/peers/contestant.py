"""What every contestant is given, and what the harness knows of one that runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from perf.pki import CLIENT_PATH, SERVER_PATH, Material

LOOPBACK = "127.0.0.1"
ORIGIN_STEP = 9  # from a task's first port: where its own load generator is the origin


class Wiring(StrEnum):
    PLAIN = "plain"  # client → proxy → origin
    PAIR = "pair"  # client → proxy ══ mutual TLS 1.3 ══ proxy → origin


class Profile(StrEnum):
    BARE = "bare"  # peers: no log, no metrics told, any certificate of the CA
    MESH = "mesh"  # as the product always is: identities checked, metrics, a log of each stream


@dataclass(frozen=True, slots=True)
class Task:
    """The same for every contestant, but `port`, the first of ten that are its own."""

    wiring: Wiring
    profile: Profile
    port: int
    scratch: Path  # 0755, its own
    material: Material
    proxy_processor: int
    load_processor: int
    buffer_bytes: int = 65_536  # where a peer lets one choose
    resume: bool = True  # TLS sessions between the pair
    records: str = ""  # the product's record layer; "" = its default
    client: str = CLIENT_PATH  # who the client's side of a pair is; whom the other expects stays
    server: str = SERVER_PATH  # and the service's side
    tree: Path | None = None  # another checkout, built, whose data plane runs; None = this one

    @property
    def origin(self) -> int:
        """A port on loopback."""
        return self.port + ORIGIN_STEP


# How many the side that takes TLS has made so far, and how many of these were resumed.
Handshakes = Callable[[], Awaitable[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    address: str  # where clients connect
    port: int
    load_processor: int
    pids: Callable[[], tuple[int, ...]]  # all its processes, now
    handshakes: Handshakes | None = None  # it tells none

    @property
    def origin(self) -> int:
        return self.port + ORIGIN_STEP


Start = Callable[[Task], AbstractAsyncContextManager[Contestant]]
