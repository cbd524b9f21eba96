"""What the agent keeps on disk, so that it serves after a reboot without network.

Owns the state directory (0700): key.pem (made once, never leaves), leaf.pem, state.json and
status.json. Files are replaced whole: a crash leaves the old or the new.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

DIRECTORY = Path("/var/lib/sluice-agent")


class StateError(Exception):
    """One line that says what to do."""


@dataclass(frozen=True)
class State:
    enrol_host: str
    enrol_port: int
    host: str
    spiffe_id: str
    appliance_id: str
    trust_domain: str
    bundle_pem: str
    mesh: tuple[tuple[str, int], ...]  # the appliance's mesh listener
    vips: tuple[str, ...]  # networks
    agent_port: int
    ports: tuple[int, ...]  # local ports the appliance may have connected
    dns: tuple[str, ...]
    zones: tuple[str, ...]
    not_after: float  # UNIX seconds, of the leaf
    renew_at: float  # half of its life

    def configured(self, config: dict[str, Any]) -> State:
        """With what the appliance said last. Raises StateError when that makes no sense."""
        try:
            new = replace(
                self,
                host=_text(config["host"]),
                spiffe_id=_text(config["spiffe_id"]),
                appliance_id=_text(config["appliance_id"]),
                trust_domain=_text(config["trust_domain"]),
                bundle_pem=_text(config["bundle_pem"]),
                mesh=tuple((str(ip_address(a)), _port(p)) for a, p in config["mesh"]),
                vips=tuple(str(ip_network(n)) for n in config["vips"]),
                agent_port=_port(config["agent_port"]),
                ports=tuple(_port(p) for p in config["ports"]),
                dns=tuple(str(ip_address(a)) for a in config["dns"]),
                zones=tuple(_text(z) for z in config["zones"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the appliance's answer makes no sense: {error}") from error
        return new

    def renewed(self, not_after: float, now: float) -> State:
        return replace(self, not_after=not_after, renew_at=now + (not_after - now) / 2)


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 65536:
        raise ValueError("a text is missing or too long")
    return value


def _port(value: object) -> int:
    if not isinstance(value, int) or not 0 < value < 65536:
        raise ValueError("a port is out of range")
    return value


def empty(enrol_host: str, enrol_port: int) -> State:
    return State(enrol_host, enrol_port, "", "", "", "", "", (), (), 15009, (), (), (), 0.0, 0.0)


class Directory:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def key(self) -> Path:
        return self.path / "key.pem"

    @property
    def leaf(self) -> Path:
        return self.path / "leaf.pem"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def joined(self) -> bool:
        return self.state.exists()

    def make(self) -> None:
        """Raises StateError when it is there and others may enter it."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.stat().st_mode & 0o077:
            raise StateError(f"{self.path}: others may enter it: chmod 700 it")

    def save(self, state: State, chain_pem: str | None) -> None:
        """The leaf goes first: an old state with a new leaf of the same key does no harm."""
        if chain_pem is not None:
            write(self.leaf, chain_pem.encode("ascii"))
        write(self.state, json.dumps(asdict(state), indent=1).encode())

    def load(self) -> State:
        """Raises StateError."""
        try:
            data = json.loads(self.state.read_bytes())
            lists = {name: tuple(data[name]) for name in ("vips", "ports", "dns", "zones")}
            mesh = tuple((address, port) for address, port in data["mesh"])
            return State(**{**data, **lists, "mesh": mesh})
        except FileNotFoundError:
            raise StateError(f"{self.path}: this host has not joined: run `join` first") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{self.state}: damaged ({error}): leave, then join again") from error

    def remove(self) -> None:
        """Everything of ours; the directory too when nothing else is in it."""
        if not self.path.is_dir():
            return
        for name in ("key.pem", "leaf.pem", "state.json", "status.json", "sluice-agent"):
            for path in (self.path / name, self.path / f"{name}.new"):
                path.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def write_status(self, status: dict[str, Any]) -> None:
        text = json.dumps({**status, "time": int(time.time())}, indent=1)
        write(self.path / "status.json", text.encode())


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces a file whole, on disk before the name changes."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
