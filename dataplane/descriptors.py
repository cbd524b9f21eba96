"""Open descriptors that the supervisor hands over: SLUICE_FDS="name=fd,fd;name=fd".

Owns the parsing and the reading of key memories; opens nothing by name. Raises DescriptorError
with the variable's name and what is wrong.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = "SLUICE_FDS"
TICKET_KEY_BYTES = 80
TICKET_KEYS_MAX = 8

NAMES = frozenset(
    {"transparent4", "transparent6", "mesh4", "mesh6", "dns-udp", "dns-tcp", "pipe", "tickets",
     "publish-key", "ready"}
)  # fmt: skip


class DescriptorError(ValueError):
    """What was handed over cannot be used."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    transparent4: tuple[int, ...] = ()  # one a worker, in the workers' order
    transparent6: tuple[int, ...] = ()
    mesh4: tuple[int, ...] = ()
    mesh6: tuple[int, ...] = ()
    dns_udp: tuple[int, ...] = ()
    dns_tcp: tuple[int, ...] = ()
    pipes: tuple[tuple[int, int], ...] = ()  # read end, write end
    tickets: int | None = None  # memory: n × 80 bytes, newest first
    publish_key: int | None = None  # memory: 32 bytes
    ready: int | None = None  # write end of a pipe


def parse(text: str) -> dict[str, tuple[int, ...]]:
    """Names and their numbers. Raises DescriptorError."""
    found: dict[str, tuple[int, ...]] = {}
    seen: set[int] = set()
    for part in text.split(";") if text else ():
        name, equals, numbers = part.partition("=")
        if not equals or name not in NAMES or name in found:
            raise DescriptorError(f"{VARIABLE}: {name or part!r} is unknown, twice or without =")
        fields = numbers.split(",") if numbers else []
        if not all(field.isascii() and field.isdigit() and len(field) < 8 for field in fields):
            raise DescriptorError(f"{VARIABLE}: {name}: {numbers!r} is not a list of numbers")
        found[name] = tuple(int(field) for field in fields)
        if len(seen | set(found[name])) != len(seen) + len(found[name]):
            raise DescriptorError(f"{VARIABLE}: {name}: a descriptor is named twice")
        seen |= set(found[name])
    return found


def collect(environment: Mapping[str, str], workers: int) -> Descriptors:
    """Checks that every listener list has one entry a worker and that all are open."""
    found = parse(environment.get(VARIABLE, ""))
    for numbers in found.values():
        for number in numbers:
            try:
                fcntl.fcntl(number, fcntl.F_GETFD)
            except OSError as error:
                raise DescriptorError(f"{VARIABLE}: {number}: {error.strerror}") from error
    for name in ("transparent4", "transparent6", "mesh4", "mesh6"):
        if len(found.get(name, ())) not in (0, workers):
            raise DescriptorError(f"{VARIABLE}: {name}: {len(found[name])} for {workers} workers")
    ends = found.get("pipe", ())
    if len(ends) % 2:
        raise DescriptorError(f"{VARIABLE}: pipe: a read end without its write end")
    return Descriptors(
        transparent4=found.get("transparent4", ()),
        transparent6=found.get("transparent6", ()),
        mesh4=found.get("mesh4", ()),
        mesh6=found.get("mesh6", ()),
        dns_udp=found.get("dns-udp", ()),
        dns_tcp=found.get("dns-tcp", ()),
        pipes=tuple(zip(ends[::2], ends[1::2], strict=True)),
        tickets=_one(found, "tickets"),
        publish_key=_one(found, "publish-key"),
        ready=_one(found, "ready"),
    )


def _one(found: Mapping[str, tuple[int, ...]], name: str) -> int | None:
    numbers = found.get(name, ())
    if len(numbers) > 1:
        raise DescriptorError(f"{VARIABLE}: {name}: one descriptor, not {len(numbers)}")
    return numbers[0] if numbers else None


def read_publish_key(number: int) -> bytes:
    # pread: the file offset is shared with whoever else holds this memory.
    key = os.pread(number, 33, 0)
    if len(key) != 32:
        raise DescriptorError(f"publish-key: {len(key)} bytes, not 32")
    return key


def read_ticket_keys(number: int) -> bytes:
    """n × 80 bytes, newest first; n from 1 to TICKET_KEYS_MAX."""
    keys = os.pread(number, TICKET_KEY_BYTES * TICKET_KEYS_MAX + 1, 0)
    if not keys or len(keys) % TICKET_KEY_BYTES or len(keys) > TICKET_KEY_BYTES * TICKET_KEYS_MAX:
        raise DescriptorError(
            f"tickets: {len(keys)} bytes, not 1 to {TICKET_KEYS_MAX} keys of {TICKET_KEY_BYTES}"
        )
    return keys
