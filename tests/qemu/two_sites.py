"""Two whole sites whose mesh link is the test adapter, and where the records of each link are.

    a1 web ── switch ── [site a] mesh0 = nic0 ══╤══ nic1 = mesh0 [site b] ── switch ── b1 payments
                                             wire0, heard by this program

Runs in the guest, where the kernel has TLS and the adapter is loaded. Supervisors, daemons, CAs and
data planes are the real ones, each as its own user. Says "ok …" or "not ok …" for each case and
ends with 1 if one failed: python -m tests.qemu.two_sites.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from appliance.demo.topology import SiteSpace, Topology
from appliance.errors import ApplianceError
from tests.netns.helpers import Answerer, connect, inside, line, run, until
from tests.netns.mesh import Mesh

LIMIT_S = 120.0  # the processor is emulated
START_S = 240.0  # more than twice what the supervisor gives a process
LINKS = 4
BULK = 1 << 20
MARKER = b"in the clear, "
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
STATS = ("TlsTxSw", "TlsRxSw", "TlsTxDevice", "TlsRxDevice")


class Sites(Topology):
    """As the demo's, but for what joins the sites."""

    def _build_link(self) -> None:
        for number, site in enumerate(self.sites.values()):
            v4, v6 = site.mesh
            run(("ip", "link", "set", f"nic{number}", "netns", site.namespace, "name", "mesh0"))
            commands = (
                f"addr add {v4}/30 dev mesh0",
                f"addr add {v6}/64 dev mesh0 nodad",
                "link set mesh0 up",
            )
            done = run(("ip", "-n", site.namespace, "-batch", "-"), "\n".join(commands))
            assert done.returncode == 0, done.stderr


@dataclass(frozen=True, slots=True)
class Link:
    """One end of a mesh link, as the kernel has it."""

    version: str
    tx: str
    rx: str


def links(site: SiteSpace) -> list[Link]:
    """Every connection of the site's data plane to or from its peer's."""
    port = f":{site.site.spec.ports.mesh}"
    asked = ("ss", "-tniHeO", "state", "established", f"( dport = {port} or sport = {port} )")
    done = run(site.command(*asked))
    assert done.returncode == 0, done.stderr
    found = []
    for each in done.stdout.splitlines():
        said = dict(re.findall(r"\b(version|txconf|rxconf): ?(\S+)", each))
        found.append(Link(said.get("version", ""), said.get("txconf", ""), said.get("rxconf", "")))
    return found


def tls_stats(site: SiteSpace) -> dict[str, int]:
    """Of the site's namespace: connections that the kernel has had so far."""
    with inside(site.namespace), open("/proc/thread-self/net/tls_stat") as file:
        stats = dict(each.split() for each in file)
    return {name: int(stats[name]) for name in STATS}


def adapter(site: SiteSpace) -> dict[str, int]:
    """What the site's end of the adapter counts."""
    said = run(site.command("ethtool", "-S", "mesh0")).stdout
    return {name: int(value) for name, value in re.findall(r"(\w+): (\d+)", said)}


class Wire:
    """Hears what crosses the cable."""

    def __init__(self) -> None:
        subprocess.run(("ip", "link", "set", "wire0", "up"), check=True)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        self._socket.bind(("wire0", ETH_P_ALL))

    def heard(self) -> tuple[int, int]:
        """Bytes since the last call, and frames of them that could be read."""
        total = readable = 0
        while True:
            try:
                frame = self._socket.recv(1 << 17)
            except BlockingIOError:
                return total, readable
            total += len(frame)
            readable += MARKER in frame


def start(mesh: Mesh) -> None:
    for site in (mesh.a, mesh.b):  # at once, the two would only wait for each other's turns
        site.start(START_S)
    said("both sites serve")
    for site, name, host in ((mesh.a, "web", "a1"), (mesh.b, "payments", "b1")):
        mesh.add(site, name, site.hosts[host], mac=True, services=[f"{name}:8080"])
    Answerer(mesh.b.hosts["b1"].namespace, "payments", 8080)
    invited = mesh.call(mesh.b, lambda client: client.invite_peer("site-a"))
    mesh.call(mesh.a, lambda client: client.add_peer("site-b", invited.address, invited.code))
    until("payments being known at site a", lambda: vip(mesh), LIMIT_S)
    said("they are peers")


def vip(mesh: Mesh) -> str:
    known = mesh.call(mesh.a, lambda client: client.services())
    return next((v for each in known if each.name == "payments" for v in each.vips if "." in v), "")


@contextmanager
def held(mesh: Mesh, count: int) -> Iterator[list[socket.socket]]:
    """Connections from web to payments that have carried bytes and stay open."""
    address, namespace = vip(mesh), mesh.a.hosts["a1"].namespace
    with ExitStack() as stack:
        made = [stack.enter_context(connect(namespace, address, 8080)) for _ in range(count)]
        for each in made:
            each.settimeout(LIMIT_S)
            assert line(each).startswith("payments"), "payments does not answer"
        yield made


def echo(sock: socket.socket, size: int, halfway: Callable[[], None] = lambda: None) -> bool:
    """Bytes there and back; whether they are the same."""
    data = b"".join(MARKER + b"%010d" % number for number in range(size // 24 + 1))[:size]
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    got = bytearray()
    while len(got) < size and (more := sock.recv(1 << 16)):
        if len(got) < size // 2 <= len(got) + len(more):
            halfway()
        got += more
    sender.join()
    return bytes(got) == data


@dataclass(frozen=True, slots=True)
class Wanted:
    """What new connections have at one site, by every witness."""

    link: Link
    layer: str  # in flows and the ledger
    rising: tuple[str, ...]  # in /proc/net/tls_stat
    reason: str = "none"


KTLS = Wanted(Link("1.3", "sw", "sw"), "ktls", ("TlsTxSw", "TlsRxSw"))
NIC = Wanted(Link("1.2", "hw", "hw"), "nic", ("TlsTxDevice", "TlsRxDevice"))
NO_DEVICE = Wanted(Link("1.2", "sw", "sw"), "ktls", ("TlsTxSw", "TlsRxSw"), "no_device")


def ledger(mesh: Mesh, site: SiteSpace) -> tuple[Counter[str], Counter[str]]:
    """TLS legs by layer and by reason, which are of the same sum."""
    status = mesh.call(site, lambda client: client.offload())
    layers = Counter({each.name: each.legs for each in status.layers})
    reasons = Counter({each.name: each.legs for each in status.reasons})
    assert layers.total() == reasons.total(), f"{layers} and {reasons}"
    return layers, reasons


def check_links(mesh: Mesh, wire: Wire, want_a: Wanted, want_b: Wanted) -> None:
    """LINKS new connections; what they carry arrives as it was, and none of it can be read."""
    wants = {"a": want_a, "b": want_b}
    sites = mesh.topology.sites
    stats = {name: tls_stats(site) for name, site in sites.items()}
    legs = {name: ledger(mesh, site) for name, site in sites.items()}
    work = {name: adapter(site) for name, site in sites.items()}
    wire.heard()
    since = time.time()
    with held(mesh, LINKS) as connections:
        for each in connections:
            assert echo(each, 3000), "bytes were changed"
        for _ in range(2):  # a card that lost its place has found it by the second
            assert echo(connections[0], BULK), "bytes were changed"
        for name, site in sites.items():
            found = links(site)
            assert found == [wants[name].link] * LINKS, f"links at site {name}: {found}"
            now = tls_stats(site)
            rose = {each for each in STATS if now[each] - stats[name][each] == LINKS}
            assert rose == set(wants[name].rising), f"tls_stat at site {name}: {stats[name]}, {now}"
    total, readable = wire.heard()
    assert total > 2 * BULK, f"only {total} bytes were heard"
    assert readable == 0, f"{readable} frames could be read on the wire"
    for name, site in sites.items():
        want = wants[name]
        done = {each: count - work[name][each] for each, count in adapter(site).items()}
        by_card = want.layer == "nic"
        assert (done["tx_tls_encrypted_bytes"] >= BULK) == by_card, f"sealed at site {name}: {done}"
        assert (done["rx_tls_decrypted_bytes"] >= BULK // 2) == by_card, f"opened: {done}"
        until(f"the flows at site {name}", partial(flows_are, mesh, name, since, want), LIMIT_S)
        counted = partial(ledger_rose, mesh, site, legs[name], want)
        until(f"the ledger of site {name} to hold the links", counted, LIMIT_S)


def ledger_rose(
    mesh: Mesh, site: SiteSpace, since: tuple[Counter[str], Counter[str]], want: Wanted
) -> bool:
    """By these links, no more and no less; a report comes a moment after the flows it is of."""
    layers, reasons = ledger(mesh, site)
    rise = layers - since[0]
    assert rise <= Counter({want.layer: LINKS}), f"the ledger: {rise}"
    return rise == {want.layer: LINKS} and reasons - since[1] == {want.reason: LINKS}


def flows_are(mesh: Mesh, name: str, since: float, want: Wanted) -> bool:
    """All flows have ended, and their mesh legs had what they should."""
    site, outbound = mesh.topology.sites[name], name == "a"
    kind = "outbound" if outbound else "inbound"
    flows = mesh.flows(site, since, kind=kind, state="closed")
    layers = [each.up_layer if outbound else each.down_layer for each in flows]
    return layers == [want.layer] * LINKS and {each.fallback for each in flows} <= {
        "",
        "none",
        want.reason,
    }


def prefer(mesh: Mesh, what: str, version: str) -> None:
    """By the operator's document, at both sites."""
    for site in mesh.topology.sites.values():
        mesh.apply(site, PROFILE.format(prefer=what, version=version))


PROFILE = """\
apiVersion: sluice.dev/v1
kind: OffloadProfile
metadata: {{name: default}}
spec: {{prefer: {prefer}, minimumBytes: 0, tls: {{minVersion: "{version}"}}}}
"""


def links_in_the_kernel(mesh: Mesh, wire: Wire) -> None:
    prefer(mesh, "ktls", "1.3")
    check_links(mesh, wire, KTLS, KTLS)


def links_on_the_card(mesh: Mesh, wire: Wire) -> None:
    prefer(mesh, "nic", "1.2")
    check_links(mesh, wire, NIC, NIC)


def a_card_with_its_offload_off(mesh: Mesh, wire: Wire) -> None:
    switch_offload(mesh.a, "off")
    try:
        check_links(mesh, wire, NO_DEVICE, NIC)
    finally:
        switch_offload(mesh.a, "on")


def switch_offload(site: SiteSpace, state: str) -> None:
    switches = ("tls-hw-tx-offload", state, "tls-hw-rx-offload", state)
    done = run(site.command("ethtool", "-K", "mesh0", *switches))
    assert done.returncode == 0, done.stderr


def a_cable_out_for_a_moment(mesh: Mesh, wire: Wire) -> None:
    """In the midst of a stream; the kernel seals what the card no longer does, though it says that
    the card does. So do flows and the ledger of that site; what begins later is the card's."""
    layers, reasons = ledger(mesh, mesh.a)
    since = time.time()
    with held(mesh, 1) as (stream,):
        assert links(mesh.a) == [NIC.link]
        assert echo(stream, BULK, lambda: flap(mesh.a)), "bytes were changed"
        assert links(mesh.a) == [NIC.link]
        until("the flow to be the kernel's", lambda: legs_now(mesh, since) == [LOST], LIMIT_S)
        with held(mesh, 1) as (later,):
            work = adapter(mesh.a)
            assert echo(stream, BULK), "bytes were changed"
            now = adapter(mesh.a)
            for each in ("tx_tls_encrypted_bytes", "rx_tls_decrypted_bytes"):
                assert now[each] == work[each], f"the card has worked: {work}, {now}"
            assert echo(later, BULK), "bytes were changed"
            assert adapter(mesh.a)["tx_tls_encrypted_bytes"] >= now["tx_tls_encrypted_bytes"] + BULK
            both = {LOST, ("nic", "")}
            until("both flows", lambda: set(legs_now(mesh, since)) == both, LIMIT_S)
    assert wire.heard()[1] == 0

    def counted() -> bool:
        now, why = ledger(mesh, mesh.a)
        now.subtract(layers)
        why.subtract(reasons)
        return +now == {"ktls": 1, "nic": 1} and +why == {"link_changed": 1, "none": 1}

    until("the ledger to tell of both", counted, LIMIT_S)


LOST = "ktls", "link_changed"


def legs_now(mesh: Mesh, since: float) -> list[tuple[str, str]]:
    """Layer and reason of the mesh leg of each open flow that site a has begun since."""
    flows = mesh.flows(mesh.a, since, kind="outbound", state="open")
    return [(each.up_layer, each.fallback) for each in flows]


def a_card_with_another_name(mesh: Mesh, wire: Wire) -> None:
    """In the midst of a stream: nothing is lost, and status and plan speak of it by that name."""
    since = time.time()
    with held(mesh, 1) as (stream,):
        work = adapter(mesh.a)
        assert echo(stream, BULK, lambda: rename(mesh.a, "mesh0", "uplink")), "bytes were changed"
        try:
            status = mesh.call(mesh.a, lambda client: client.offload())
            assert "uplink" in {each.name for each in status.nics}, status.nics
            plan = mesh.call(mesh.a, lambda client: client.plan_offload())
            assert "mesh0" not in {each.interface for each in plan}, plan
        finally:
            rename(mesh.a, "uplink", "mesh0")
        assert echo(stream, BULK), "bytes were changed"
        sealed = adapter(mesh.a)["tx_tls_encrypted_bytes"] - work["tx_tls_encrypted_bytes"]
        assert sealed >= 2 * BULK, f"the card has sealed {sealed} bytes"
        until("the flow", lambda: legs_now(mesh, since) == [("nic", "")], LIMIT_S)
    assert wire.heard()[1] == 0


def rename(site: SiteSpace, name: str, to: str) -> None:
    done = run(("ip", "-n", site.namespace, "link", "set", name, "name", to))
    assert done.returncode == 0, done.stderr


def flap(site: SiteSpace) -> None:
    for state in ("down", "up"):
        run(("ip", "-n", site.namespace, "link", "set", "mesh0", state))


CASES = (
    links_in_the_kernel,
    links_on_the_card,
    a_card_with_its_offload_off,
    a_cable_out_for_a_moment,
    a_card_with_another_name,
)
BEGAN = time.monotonic()


def said(text: str) -> None:
    print(f"# {text}, after {time.monotonic() - BEGAN:.0f} s", flush=True)


def main() -> NoReturn:
    topology, failed = Sites("guest"), 0
    topology.build()
    mesh, wire = Mesh(topology), Wire()
    try:
        start(mesh)
        for case in CASES:
            try:
                case(mesh, wire)
                print(f"ok {case.__name__}", flush=True)
            except (AssertionError, ApplianceError, OSError) as error:
                print(f"# {type(error).__name__}: {error}")
                print(f"not ok {case.__name__}", flush=True)
                failed = 1
            said("done")
    except BaseException:
        failed = 1
        traceback.print_exc()
    if failed:
        for site in topology.sites.values():
            print(site.last_lines())
    sys.stdout.flush()
    os._exit(failed)  # orderly ends are tested elsewhere; all of this ends with the guest


if __name__ == "__main__":
    main()
