"""What this machine offers and what it lacks: findings for `sluice doctor`.

Owns looking; changes nothing. Each check is a function of the site and the machine's files, whose
root is a parameter so that tests can lay out a machine. Every warning says how to put it right.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.site import Site
from appliance.system import links, nft, requirements
from appliance.system.finding import Finding
from appliance.system.links import Link
from appliance.system.nft import Count
from appliance.system.offload import Nic, Offload

MTU_MIN = 1280  # IPv6 needs it
PIPE_BYTES = 1 << 20
SOMAXCONN = 4096
ROOT = Path("/")


async def findings(site: Site, offload: Offload) -> list[tuple[str, str, str]]:
    """All checks of this machine now: (level, what, fix)."""
    found = [*machine(site), *requirements.findings(offload.prefer)]
    found += network(site, await links.links())
    try:
        found += cards(await offload.nics(), await offload.drifted(), offload.prefer)
    except ApplianceError as error:  # a profile's file
        found.append(Finding("error", f"NICs cannot be looked at: {error}", "install sluice again"))
    try:
        found += traffic(await nft.counters())
    except ApplianceError as error:
        found.append(Finding("error", f"interception is not installed: {error}", "restart sluice"))
    return [(finding.level, finding.what, finding.fix) for finding in found]


def machine(site: Site, root: Path = ROOT) -> tuple[Finding, ...]:
    """Programs, kernel features and settings."""
    checks: Sequence[Callable[[Site, Path], Finding]] = (
        _nft,
        _pipes,
        _open_files,
        _backlog,
        _forwarding,
        _ipv6,
    )
    return tuple(check(site, root) for check in checks)


def network(site: Site, present: Sequence[Link]) -> tuple[Finding, ...]:
    """The site's interfaces and addresses against those that are there."""
    by_name = {link.name: link for link in present}
    ours = {address: link for link in present for address in link.addresses}
    found = []
    for name in site.spec.hosts.interfaces:
        found.append(_interface(name, by_name.get(name)))
    for what, addresses in (
        ("hosts", site.spec.hosts.addresses),
        ("mesh", site.spec.mesh.addresses),
    ):
        for address in addresses:
            if address in ours:
                found.append(Finding("ok", f"{what}: {address} is on {ours[address].name}"))
            else:
                found.append(
                    Finding(
                        "error",
                        f"{what}: no interface has {address}",
                        f"configure it, or change spec.{what}.addresses in site.yaml",
                    )
                )
    for address, link in ours.items():
        if any(
            address in vips
            for vips in (site.spec.vip.ipv4, site.spec.vip.ipv6)
            if vips.version == address.version
        ):
            found.append(
                Finding(
                    "error",
                    f"{link.name} has {address}, which is in the range of virtual addresses",
                    "choose another spec.vip range in site.yaml",
                )
            )
    return tuple(found)


def traffic(counters: dict[str, Count]) -> tuple[Finding, ...]:
    """What the table counted that somebody should look into."""
    advice = {
        "spoofed": "a host uses an address, MAC or port that is another's: see `sluice host list`",
        "udp_refused": "services are TCP only: give the client another address for UDP",
        "not_listening": "the data plane does not listen: see `sluice status`",
    }
    return tuple(
        Finding("warning", f"{counters[name].packets} packets {name.replace('_', ' ')}", fix)
        for name, fix in advice.items()
        if name in counters and counters[name].packets
    )


def cards(nics: Sequence[Nic], drifted: Sequence[str], prefer: str) -> tuple[Finding, ...]:
    """What was set and is not so any more; with prefer: nic, whether mesh NICs encrypt."""
    found = [Finding("warning", each, "sluice offload apply, or revert") for each in drifted]
    for nic in nics if prefer == "nic" else ():
        held = nic.device.settings.get("tls-hw-tx-offload")
        what = f"prefer: nic, but {nic.device.name} ({nic.model})"
        if "mesh" not in nic.serves:
            continue
        if held is None or (held.fixed and not held.value):
            found.append(
                Finding("warning", f"{what} has no TLS offload", "prefer: ktls, or another card")
            )
        elif not held.value:
            found.append(
                Finding("warning", f"{what} has its TLS offload off", "sluice offload apply")
            )
        else:
            found.append(Finding("ok", f"{nic.device.name} seals TLS 1.2 in hardware"))
    return tuple(found)


def _interface(name: str, link: Link | None) -> Finding:
    if link is None:
        return Finding(
            "error", f"there is no interface {name}", "see `ip link`, correct spec.hosts.interfaces"
        )
    if not link.up:
        return Finding("warning", f"{name} has no carrier", "check the cable and the switch")
    if link.mtu < MTU_MIN:
        return Finding("warning", f"{name}: MTU {link.mtu}", f"set at least {MTU_MIN}")
    if link.kind == "bridge":
        return Finding(
            "warning",
            f"{name} is a bridge: its ports cannot be told apart, and hosts on them reach each "
            "other without the appliance",
            "for grade port give each host a routed port or VLAN",
        )
    return Finding("ok", f"{name} is up, MTU {link.mtu}")


def _nft(site: Site, root: Path) -> Finding:
    if root == ROOT and shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        return Finding("error", "nft is not installed", "apt install nftables")
    modules = _read(root / "proc/modules")
    if "nft_tproxy" not in modules and not _built_in(root, "nft_tproxy"):
        return Finding(
            "warning", "the kernel module nft_tproxy is not loaded", "modprobe nft_tproxy"
        )
    return Finding("ok", "nftables with TPROXY")


def _pipes(site: Site, root: Path) -> Finding:
    most = _number(root / "proc/sys/fs/pipe-max-size")
    if most >= PIPE_BYTES:
        return Finding("ok", f"pipes of {PIPE_BYTES >> 10} KiB")
    return Finding(
        "warning", f"pipes are at most {most} bytes: splice is slower",
        f"sysctl -w fs.pipe-max-size={PIPE_BYTES}",
    )  # fmt: skip


def _open_files(site: Site, root: Path) -> Finding:
    workers = site.spec.dataplane.workers or os.cpu_count() or 1
    wanted = workers * site.spec.dataplane.streams_max * 2
    most = _number(root / "proc/sys/fs/nr_open")
    if most >= wanted:
        return Finding("ok", f"{wanted} open files for streams")
    return Finding(
        "warning", f"streams need {wanted} open files, a process may have {most}",
        f"sysctl -w fs.nr_open={wanted}, or lower spec.dataplane.streamsMax",
    )  # fmt: skip


def _backlog(site: Site, root: Path) -> Finding:
    most = _number(root / "proc/sys/net/core/somaxconn")
    if most >= SOMAXCONN:
        return Finding("ok", f"{most} connections may wait")
    return Finding(
        "warning", f"only {most} connections may wait while a data plane is replaced",
        f"sysctl -w net.core.somaxconn={SOMAXCONN}",
    )  # fmt: skip


def _forwarding(site: Site, root: Path) -> Finding:
    if _number(root / "proc/sys/net/ipv4/ip_forward"):
        return Finding(
            "ok", "the box forwards packets: hosts reach each other and the rest through it, "
            "unauthenticated, unless your own rules stop them",
        )  # fmt: skip
    return Finding("ok", "the box forwards nothing: hosts reach only virtual addresses through it")


def _ipv6(site: Site, root: Path) -> Finding:
    if not (root / "proc/sys/net/ipv6").exists():
        return Finding("warning", "the kernel has no IPv6: the IPv6 virtual range is unused", "")
    return Finding("ok", "IPv6")


def _built_in(root: Path, module: str) -> bool:
    """Modules compiled in show no line in /proc/modules; what cannot be known counts as there."""
    releases = [path for path in (root / "lib/modules").glob("*/modules.dep")]
    texts = [_read(path) for path in releases]
    return not any(f"/{module}.ko" in text for text in texts)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _read(path).strip()
    return int(text) if text.isdigit() else 0
