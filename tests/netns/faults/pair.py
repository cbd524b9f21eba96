"""Two peered sites with hosts, services and traffic, and the faults that tests bring upon them.

    a1 client     ┐                          ┌ b1 echo, both
    a2 both, solo ┘ [a: edge-a] ══ [b: edge-b] └ b2 echo

Owns starting, enrolling and asking. Each fault is a context manager that takes itself back and
waits until all serves again, so that tests can share one pair.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from appliance.api._gen import admin_pb2 as pb
from appliance.api.client import AdminClient
from appliance.demo.commands import Commands, until
from appliance.demo.topology import CHECKOUT, Host, SiteSpace, Topology
from appliance.errors import ApplianceError
from appliance.system.rooted import SupervisorClient

T = TypeVar("T")

PORT = 7000
DEADLINE_S = 60.0
DISK = "64m"  # of the daemon's and of the data plane's state, each
SERVICES = {  # host: (site, services)
    "a1": ("a", ()),
    "a2": ("a", ("both", "solo")),
    "b1": ("b", ("echo", "both")),
    "b2": ("b", ("echo",)),
}


@dataclass(slots=True)
class Client:
    """A program on a host that counts until it is told to end."""

    process: subprocess.Popen[bytes]
    output: Path

    def lines(self) -> list[str]:
        return self.output.read_text(errors="replace").splitlines()

    def back(self) -> int:
        """Of a long stream: bytes that came back so far."""
        told = [line for line in self.lines() if line.startswith("back ")]
        return int(told[-1].split()[1]) if told else 0

    def more(self, amount: int = 1 << 20, seconds: float = DEADLINE_S) -> None:
        """Until so many more bytes came back, or it ended by itself."""
        wanted = self.back() + amount
        until(
            f"{amount} more bytes through the long stream",
            lambda: self.back() >= wanted or self.process.poll() is not None,
            seconds,
        )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(DEADLINE_S)

    def end(self) -> dict[str, Any]:
        self.stop()
        last = (self.lines() or [""])[-1]
        if not last.startswith("{"):
            raise ApplianceError(f"the client counted nothing: {self.lines()[-5:]}")
        counted: dict[str, Any] = json.loads(last)
        return counted


class Pair:
    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.a, self.b = topology.sites["a"], topology.sites["b"]
        self.hosts: dict[str, Host] = {**self.a.hosts, **self.b.hosts}
        self.commands = Commands(topology.directory)
        self._clients: list[Client] = []
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self.clean: dict[str, tuple[str, ...]] = {}  # by site: the kernel before the first start

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        for site in (self.a, self.b):
            for state in (site.paths.daemon_state, site.paths.dataplane_state):
                state.mkdir(parents=True)
                mount = ("mount", "-t", "tmpfs", "-o", f"size={DISK}", "sluice-test", str(state))
                subprocess.run(mount, check=True)
            self.clean[site.name] = kernel_state(site)
            site.start()
        self.enrol()
        self.peer()
        for host in ("a2", "b1", "b2"):
            self.serve(host)

    def close(self) -> None:
        for client in self._clients:
            if client.process.poll() is None:
                client.process.kill()
                client.process.wait()
        self.commands.close()
        for site in (self.a, self.b):
            site.stop()
            for state in (site.paths.daemon_state, site.paths.dataplane_state):
                subprocess.run(("umount", "-l", str(state)), check=True)

    def enrol(self) -> None:
        for name, (site, services) in SERVICES.items():
            host = self.hosts[name]
            request = pb.AddHostRequest(
                name=name, service_account=name, addresses=[str(host.ipv4)], mac=host.mac,
                services=[f"{service}:{PORT}" for service in services],
                labels={"app": name},
            )  # fmt: skip
            self.ask(self.topology.sites[site], lambda client, r=request: client.add_host(r))

    def peer(self) -> None:
        invited = self.ask(self.b, lambda client: client.invite_peer("site-a"))
        self.ask(self.a, lambda client: client.add_peer("site-b", invited.address, invited.code))
        self.wait_whole()

    def wait_whole(self, seconds: float = DEADLINE_S) -> None:
        """Until both sites serve, are published, hear each other, and know each other's services.
        What every test leaves."""
        until("both sites being whole", lambda: all(map(self.whole, (self.a, self.b))), seconds)

    def whole(self, site: SiteSpace) -> bool:
        try:
            if any(not process["pid"] for process in self.supervisor(site)["processes"]):
                return False
            status = self.status(site)
            known = self.ask(site, lambda client: client.services())
        except ApplianceError:
            return False
        return (
            status.applied == status.published > 0
            and not status.warnings
            and not status.pending.revision
            and status.peers_connected == 1
            and {"echo", "both", "solo"} <= {each.name for each in known if each.vips}
        )

    # -- asking ----------------------------------------------------------------------------------

    def ask(self, site: SiteSpace, question: Callable[[AdminClient], Awaitable[T]]) -> T:
        """The admin API, as root. Raises ApplianceError."""

        async def asked() -> T:
            async with AdminClient(site.paths) as client:
                return await question(client)

        return asyncio.run(asked())

    def status(self, site: SiteSpace) -> pb.Status:
        return self.ask(site, lambda client: client.status())

    def counter(self, site: SiteSpace, name: str) -> int:
        return self.status(site).counters[name]

    def supervisor(self, site: SiteSpace, verb: str = "status", **arguments: Any) -> dict[str, Any]:
        return asyncio.run(SupervisorClient(site.paths.supervisor_socket).call(verb, **arguments))

    def pid(self, site: SiteSpace, name: str) -> int:
        """Of the process that serves."""
        return next(
            int(each["pid"])
            for each in self.supervisor(site)["processes"]
            if each["name"] == name and each["state"] == "serving"
        )

    def count(self, site: SiteSpace, name: str) -> int:
        """One of the supervisor's counts, e.g. dataplane_restarts."""
        return int(self.supervisor(site)["counts"][name])

    def logged(self, site: SiteSpace, text: str, since: int = 0) -> bool:
        """Whether the site's log has it, `since` so many bytes."""
        with site.log.open("rb") as file:
            file.seek(since)
            return text in file.read().decode(errors="replace")

    def sluice(self, site: SiteSpace, *arguments: str, given: str = "") -> tuple[int, str, str]:
        """The command line, as root: exit code, output, errors."""
        done = subprocess.run(
            site.python("-m", "appliance.cli", "--run", str(site.paths.run),
                        "--state", str(site.paths.state), *arguments),
            input=given, capture_output=True, text=True, check=False, timeout=DEADLINE_S * 2,
            env=site.environment(),
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def vip(self, site: SiteSpace, service: str) -> str:
        """Its virtual IPv4 address at the site."""
        known = self.ask(site, lambda client: client.services())
        return next(
            vip for each in known if each.name == service for vip in each.vips if "." in vip
        )

    def code(self, site: SiteSpace, host: str) -> str:
        """A join code for a new host with an agent."""
        request = pb.AddHostRequest(name=host, agent=True)
        return self.ask(site, lambda client: client.add_host(request)).code

    def apply(self, site: SiteSpace, *documents: str, confirm_s: int = 0) -> pb.ApplyReply:
        """Exactly these documents."""
        text = "\n---\n".join(documents)
        return self.ask(
            site,
            lambda client: client.apply(
                [("test.yaml", text)] if documents else [], replace=True, confirm_seconds=confirm_s
            ),
        )

    # -- traffic ---------------------------------------------------------------------------------

    def serve(self, host: str) -> None:
        self._servers[host] = self.commands.keep(
            f"server on {host}", self._traffic(self.hosts[host], "serve", host, str(PORT))
        )

    def silence(self, host: str) -> None:
        """Its services are gone: connections are refused."""
        self.commands.end(self._servers.pop(host))

    def who(self, service: str, host: str = "a1") -> str:
        """Who answers at the service, asked once from the host."""
        done = self.commands.on(
            self.hosts[host],
            *self._traffic(None, "who", mesh_name(service), str(PORT)),
        )
        return done.stdout.strip() or done.stderr.strip()[-200:]

    def begin_who(self, address: str, host: str = "a1") -> Callable[[], str]:
        """Asks in the background; the answer by calling what is returned."""
        process = subprocess.Popen(
            self._traffic(self.hosts[host], "who", address, str(PORT)),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return lambda: process.communicate(timeout=DEADLINE_S)[0].strip()

    def waiting(self, site: SiteSpace, port: int) -> int:
        """Connections that a listener of the appliance has not accepted yet."""
        shown = self._at(site, "ss", "-Hltn", f"sport = :{port}")
        return sum(int(line.split()[1]) for line in shown.splitlines())

    def client(self, verb: str, service: str, *more: str, host: str = "a1") -> Client:
        return self.helper(host, verb, mesh_name(service), str(PORT), *more)

    def helper(self, host: str, *arguments: str) -> Client:
        """A program on the host, running when it is ready."""
        name = f"{arguments[0]} {len(self._clients)} on {host}"
        argv = self._traffic(self.hosts[host], *arguments)
        process = self.commands.keep(name, argv, seconds=DEADLINE_S)
        client = Client(process, self.topology.directory / f"{name}.log")
        self._clients.append(client)
        return client

    def _traffic(self, host: Host | None, *arguments: str) -> Sequence[str]:
        argv = (
            "env", f"PYTHONPATH={CHECKOUT}", sys.executable,
            "-m", "tests.netns.faults.traffic", *arguments,
        )  # fmt: skip
        return host.command(*argv) if host is not None else argv

    # -- faults ----------------------------------------------------------------------------------

    def kill(self, site: SiteSpace, name: str) -> int:
        """-9, and no word to anyone; returns the pid that it had."""
        pid = self.pid(site, name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def crash(self, site: SiteSpace, text: str) -> None:
        """The data plane is killed; the next one serves and has said text."""
        said = site.log.stat().st_size
        self.wait_serving(site, "dataplane", self.kill(site, "dataplane"))
        if not self.logged(site, text, said):
            raise ApplianceError(f"it did not say {text!r}:\n{site.last_lines()}")

    def wait_serving(self, site: SiteSpace, name: str, other_than: int) -> None:
        def back() -> bool:
            return any(
                each["name"] == name and each["state"] == "serving" and each["pid"] != other_than
                for each in self.supervisor(site)["processes"]
            )

        until(f"{name} of site {site.name} being back", back, DEADLINE_S)

    @contextmanager
    def down(self, site: SiteSpace, name: str) -> Iterator[None]:
        """daemon or ca: killed, and cannot start again: its state cannot be opened."""
        state = {"daemon": site.paths.daemon_state, "ca": site.paths.ca_state}[name]
        failed = self.count(site, f"{name}_failed_starts")
        state.chmod(0)
        try:
            pid = self.kill(site, name)
            until(
                f"{name} of site {site.name} being down",
                lambda: self.count(site, f"{name}_failed_starts") > failed,
                DEADLINE_S,
            )
            yield
        finally:
            state.chmod(0o700)
            self.wait_serving(site, name, pid)

    @contextmanager
    def disk_full(self, directory: Path) -> Iterator[None]:
        """The small file system that holds the directory has no byte left."""
        filler = directory / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def link_down(self) -> Iterator[None]:
        """The cable between the sites is out: both sides lose the carrier."""
        self._at(self.b, "sysctl", "-qw", "net.ipv6.conf.mesh0.keep_addr_on_down=1")
        self._at(self.b, "ip", "link", "set", "mesh0", "down")
        try:
            yield
        finally:
            self._at(self.b, "ip", "link", "set", "mesh0", "up")

    @contextmanager
    def another_interface(self, site: SiteSpace) -> Iterator[None]:
        self._at(site, "ip", "link", "add", "extra0", "type", "veth", "peer", "name", "extra1")
        try:
            yield
        finally:
            self._at(site, "ip", "link", "delete", "extra0")

    @contextmanager
    def link_silent(self) -> Iterator[None]:
        """Frames between the sites vanish; nobody is told."""
        rules = (
            "table inet cut { chain input { type filter hook prerouting priority -500;"
            ' iifname "mesh0" drop; }; }'
        )
        self._at(self.a, "nft", rules)
        try:
            yield
        finally:
            self._at(self.a, "nft", "delete table inet cut")

    def _at(self, site: SiteSpace, *argv: str) -> str:
        return subprocess.run(
            site.command(*argv), check=True, capture_output=True, text=True
        ).stdout


def kernel_state(site: SiteSpace) -> tuple[str, ...]:
    """What a start changes in the appliance's namespace: rules and routes, byte by byte."""
    return tuple(
        subprocess.run(
            site.command(*line.split()), capture_output=True, text=True, check=True
        ).stdout
        for line in ("nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all")
    )


def mesh_name(service: str) -> str:
    return f"{service}.default.mesh"
