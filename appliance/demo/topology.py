"""Two sites in network namespaces, both with the same subnet. The demo and the tests use it.

    a1 ─┐                                                          ┌─ b1
    a2 ─┤ switch ── hosts0 [appliance a] mesh0 ══ mesh0 [appliance b] hosts0 ── switch ├─ b2
        │           port-a3 ┘  198.18.255.1/30   198.18.255.2/30  └ port-b3            │
    a3 ─┘ (a port of its own)                                      (a port of its own) b3

    both sites: 198.18.0.0/24, fd18::/64; the appliance is .1, hosts are .11, .12, .13

Owns the namespaces, their addresses and routes, /etc/netns/<namespace> and /run/<prefix>; all are
named with the prefix, so that `cleanup(prefix)` finds what a crash left. Starts `sluice up` inside
a site's namespace; knows nothing of enrolment or policy. Needs root.

The checkout may be where the appliance's users cannot go (below /root): each `sluice up` runs in
a mount namespace of its own in which the checkout is bound to /run/<prefix>/src.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Self

import yaml
from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

from appliance.demo.clean import ETC_NETNS, RUN, cleanup, held_off, left_behind
from appliance.errors import ApplianceError, Denied, Unavailable
from appliance.paths import Paths
from appliance.site import Site, load_site

CHECKOUT = Path(__file__).resolve().parents[2]
READY_S = 90.0
STOP_S = 60.0
KILLED_S = 10.0
LINKS_S = 60.0
NODAD = 0x02
LOCAL_TABLE = 255

APPLIANCE = (IPv4Address("198.18.0.1"), IPv6Address("fd18::1"))
LINK = {
    "a": (IPv4Address("198.18.255.1"), IPv6Address("fd18:255::1")),
    "b": (IPv4Address("198.18.255.2"), IPv6Address("fd18:255::2")),
}


@dataclass(frozen=True, slots=True)
class Host:
    """A host's namespace. `interface` is the appliance's: hosts0, or the host's own port."""

    name: str
    namespace: str
    ipv4: IPv4Address
    ipv6: IPv6Address
    mac: str
    interface: str

    def command(self, *argv: str) -> tuple[str, ...]:
        """argv, run inside the host's namespace with its resolv.conf."""
        return ("ip", "netns", "exec", self.namespace, *argv)


@dataclass(slots=True)
class SiteSpace:
    """One site: its namespaces and its running appliance, if any."""

    name: str
    namespace: str
    switch: str
    directory: Path  # /run/<prefix>/<name>
    mesh: tuple[IPv4Address, IPv6Address]
    hosts: Mapping[str, Host]
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # merged into the Site's spec

    @property
    def paths(self) -> Paths:
        return Paths(state=self.directory / "state", run=self.directory / "run")

    @property
    def site_file(self) -> Path:
        return self.directory / "site.yaml"

    @property
    def site(self) -> Site:
        return load_site(self.site_file)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def command(self, *argv: str) -> tuple[str, ...]:
        """argv, run inside the appliance's namespace."""
        return ("ip", "netns", "exec", self.namespace, *argv)

    def python(self, *arguments: str, run_as: Sequence[str] = ()) -> tuple[str, ...]:
        """Our Python inside the appliance's namespace, with the checkout where any user can read
        it. run_as: a setpriv(1) line. Needs `environment`."""
        source = self.directory.parent / "src"
        return self.command(
            "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh",
            str(CHECKOUT), str(source), *run_as, str(interpreter(source)), *arguments,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.directory.parent / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(
        self, timeout_s: float = READY_S, program: Sequence[str] = ("-m", "appliance.supervisor")
    ) -> None:
        """Runs `sluice up` until it says that it is ready. Raises Unavailable with its last
        lines. program: another one that takes the same arguments (tests)."""
        ready = self.directory / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log.open("ab") as log:
            ready.unlink(missing_ok=True)
            notify.bind(str(ready))
            notify.settimeout(0.2)
            self.process = subprocess.Popen(
                self.python(
                    *program, "--site", str(self.site_file),
                    *("--state", str(self.paths.state), "--run", str(self.paths.run)),
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**self.environment(), "NOTIFY_SOCKET": str(ready)},
            )  # fmt: skip
            self._await_ready(notify, timeout_s)

    def _await_ready(self, notify: socket.socket, timeout_s: float) -> None:
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with suppress(TimeoutError):
                if b"READY=1" in notify.recv(4096).splitlines():
                    return
            if self.process.poll() is not None:
                break
        raise Unavailable(f"site {self.name} did not start; its last lines:\n{self.last_lines()}")

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Ends `sluice up` without waiting for its drain; returns its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        for number in (signal.SIGTERM, signal.SIGINT):  # the second one: do not wait
            process.send_signal(number)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILLED_S)
            raise Unavailable(
                f"site {self.name} did not end; its last lines:\n{self.last_lines()}"
            ) from None

    def last_lines(self, count: int = 30) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {self.name}: {line}" for line in lines[-count:])


class Topology:
    """Both sites' namespaces. A context manager: nothing is left when it ends."""

    def __init__(self, prefix: str | None = None) -> None:
        """prefix: of every name; by default `sluice-` and six random digits."""
        self.prefix = prefix or f"sluice-{secrets.token_hex(3)}"
        self.directory = RUN / self.prefix
        self.sites = {name: self._plan(name) for name in ("a", "b")}
        self.left: list[str] = []  # by `tear_down`

    def __enter__(self) -> Self:
        self.build()
        return self

    def __exit__(self, *exception: object) -> None:
        self.tear_down()

    def build(self) -> None:
        """Namespaces, links, addresses, routes, site files. After a failure nothing is left."""
        if os.geteuid() != 0:
            raise Denied("network namespaces need root")
        try:
            self.directory.mkdir(mode=0o755)
            (self.directory / "src").mkdir()
            for site in self.sites.values():
                self._build_site(site)
            self._build_link()
            self._await_links()
        except BaseException:
            self.tear_down()
            raise

    def start(self) -> None:
        for site in self.sites.values():
            site.start()

    def tear_down(self) -> None:
        """Not to be interrupted, and bounded in time; `left` tells what could not be removed."""
        with held_off():
            for site in self.sites.values():
                with suppress(ApplianceError):
                    site.stop()
            cleanup(self.prefix)
            self.left = left_behind(self.prefix)

    def _plan(self, name: str) -> SiteSpace:
        number = ord(name) - ord("a")
        hosts = {}
        for index in (1, 2, 3):
            host = f"{name}{index}"
            hosts[host] = Host(
                name=host,
                namespace=f"{self.prefix}-{host}",
                ipv4=APPLIANCE[0] + 9 + index,
                ipv6=IPv6Address(f"fd18::1{index}"),
                mac=f"02:53:00:00:{number:02x}:1{index}",
                interface=f"port-{host}" if index == 3 else "hosts0",
            )
        return SiteSpace(
            name=name,
            namespace=f"{self.prefix}-{name}",
            switch=f"{self.prefix}-{name}-switch",
            directory=self.directory / name,
            mesh=LINK[name],
            hosts=hosts,
        )

    def _build_site(self, site: SiteSpace) -> None:
        site.directory.mkdir(mode=0o755)
        site.log.touch(0o644)
        for namespace in (site.namespace, site.switch):
            _make_namespace(namespace)
        with IPRoute(netns=site.switch) as switch:
            switch.link("add", ifname="bridge", kind="bridge")
            _set_up(switch, "bridge")
        _cable(site.namespace, "hosts0", site.switch, "up")
        _plug(site.switch, "up")
        with IPRoute(netns=site.namespace) as box:
            _address(box, "hosts0", APPLIANCE, (24, 64))
        for host in site.hosts.values():
            self._build_host(site, host)
        _write_site(site)

    def _build_host(self, site: SiteSpace, host: Host) -> None:
        etc = ETC_NETNS / host.namespace
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text(f"nameserver {APPLIANCE[0]}\noptions timeout:2\n")
        _make_namespace(host.namespace)
        on_segment = host.interface == "hosts0"
        if on_segment:
            _cable(host.namespace, "eth0", site.switch, host.name, host.mac)
            _plug(site.switch, host.name)
        else:
            _cable(host.namespace, "eth0", site.namespace, host.interface, host.mac)
        with IPRoute(netns=host.namespace) as ip:
            _address(ip, "eth0", (host.ipv4, host.ipv6), (24, 64) if on_segment else (32, 128))
            if not on_segment:
                for gateway in APPLIANCE:
                    _route(ip, f"{gateway}/{gateway.max_prefixlen}", "eth0")
            _route(ip, "198.19.0.0/16", "eth0", str(APPLIANCE[0]))
            _route(ip, "fd53:6c75:6963:6500::/112", "eth0", str(APPLIANCE[1]))
        if not on_segment:
            with IPRoute(netns=site.namespace) as box:
                # Neighbour discovery answers only for addresses of the interface it is asked on.
                _address(box, host.interface, APPLIANCE[1:], (128,))
                _route(box, f"{host.ipv4}/32", host.interface)
                _route(box, f"{host.ipv6}/128", host.interface)

    def _build_link(self) -> None:
        a, b = self.sites["a"], self.sites["b"]
        _cable(a.namespace, "mesh0", b.namespace, "mesh0")
        for site in (a, b):
            with IPRoute(netns=site.namespace) as ip:
                _address(ip, "mesh0", site.mesh, (30, 64))

    def _await_links(self) -> None:
        """Carriers, and addresses that links give themselves, come a moment after they are set up:
        later, a look at the network would see changes that nobody made."""
        sites = self.sites.values()
        waiting = {site.namespace for site in sites}
        waiting |= {host.namespace for site in sites for host in site.hosts.values()}
        deadline = time.monotonic() + LINKS_S
        while waiting := {namespace for namespace in waiting if not _are_up(namespace)}:
            if time.monotonic() > deadline:
                raise Unavailable(f"links did not come up in {', '.join(sorted(waiting))}")
            time.sleep(0.02)


def interpreter(source: Path) -> Path:
    """The interpreter as the appliance's users reach it. Raises ApplianceError."""
    executable = Path(sys.executable)
    if CHECKOUT in executable.parents:
        executable = source / executable.relative_to(CHECKOUT)
    real = Path(sys.executable).resolve()
    for part in real.parents:
        if not part.stat().st_mode & 0o001:
            raise ApplianceError(f"{real}: other users cannot go into {part}: use /usr/bin/python3")
    return executable


def _write_site(site: SiteSpace) -> None:
    ports = [host.interface for host in site.hosts.values() if host.interface != "hosts0"]
    dataplane = {"workers": 2, "streamsMax": 2048, "drainSeconds": 30}
    document = {
        "apiVersion": "sluice.dev/v1",
        "kind": "Site",
        "metadata": {"name": f"site-{site.name}"},
        "spec": {
            "trustDomain": f"{site.name}.example",
            "appliance": f"edge-{site.name}",
            "hosts": {"interfaces": ["hosts0", *ports], "addresses": [str(x) for x in APPLIANCE]},
            "mesh": {"addresses": [str(x) for x in site.mesh]},
            "dataplane": dataplane,
            **site.settings,
        },
    }
    site.site_file.write_text(yaml.safe_dump(document, sort_keys=False))


def _make_namespace(name: str) -> None:
    netns.create(name)
    # Addresses are ours and unique: do not wait for duplicate address detection.
    settings = [f"net.ipv6.conf.{which}.accept_dad=0" for which in ("all", "default")]
    subprocess.run(("ip", "netns", "exec", name, "sysctl", "-qw", *settings), check=True)
    with IPRoute(netns=name) as ip:
        _set_up(ip, "lo")


def _cable(near: str, near_name: str, far: str, far_name: str, mac: str | None = None) -> None:
    """A veth pair between two namespaces, both ends up; mac is the near end's."""
    with IPRoute(netns=near) as ip:
        ip.link("add", ifname=near_name, kind="veth",
                peer={"ifname": far_name, "net_ns_fd": far})  # fmt: skip
        if mac is not None:
            ip.link("set", index=_index(ip, near_name), address=mac)
        _set_up(ip, near_name)
    with IPRoute(netns=far) as ip:
        _set_up(ip, far_name)


def _plug(switch: str, name: str) -> None:
    with IPRoute(netns=switch) as ip:
        ip.link("set", index=_index(ip, name), master=_index(ip, "bridge"))


def _index(ip: IPRoute, name: str) -> int:
    return int(ip.link_lookup(ifname=name)[0])


def _are_up(namespace: str) -> bool:
    """All links have IPv6 addresses of their own, and the kernel takes what comes to any."""
    with IPRoute(netns=namespace) as ip:
        links = {link["index"] for link in ip.get_links() if link.get_attr("IFLA_IFNAME") != "lo"}
        given = {(each["index"], IPv6Address(each.get_attr("IFA_ADDRESS")))
                 for each in ip.get_addr(family=socket.AF_INET6)}  # fmt: skip
        taken = {(each.get_attr("RTA_OIF"), IPv6Address(each.get_attr("RTA_DST")))
                 for each in ip.get_routes(family=socket.AF_INET6, table=LOCAL_TABLE)}  # fmt: skip
    return given <= taken and links <= {index for index, own in given if own.is_link_local}


def _set_up(ip: IPRoute, name: str) -> None:
    ip.link("set", index=_index(ip, name), state="up")


def _address(ip: IPRoute, name: str, addresses: Sequence[Any], lengths: Sequence[int]) -> None:
    for address, length in zip(addresses, lengths, strict=True):
        more = {"flags": NODAD} if address.version == 6 else {}
        ip.addr("add", index=_index(ip, name), address=str(address), prefixlen=length, **more)


def _route(ip: IPRoute, target: str, name: str, gateway: str | None = None) -> None:
    via = {"gateway": gateway} if gateway else {"scope": "link"}
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    try:
        ip.route("replace", family=family, dst=target, oif=_index(ip, name), **via)
    except NetlinkError as error:
        raise ApplianceError(f"route to {target} via {gateway or name}: {error}") from error
