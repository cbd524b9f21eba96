"""The one nftables table that is ours: `inet sluice`. Owns what is intercepted, what is dropped.

`render` is pure: the site and the bound hosts in, libnftables' JSON out (one transaction, so the
kernel has the old table or the new one, never a part). `apply` hands it to `nft -j -f -`. No
other table is read or touched, and without ours `nft list ruleset` is byte for byte as before.

Order in the only chain that sees packets, for those that arrive on the hosts' interfaces:

 1. neighbour discovery, DHCP, and SSH, the admin API and enrolment at our own addresses: accepted
    before anything else, so that no mistake in the site's data locks anybody out;
 2. spoofing: an address that is bound must come from its MAC and its interface; a bound MAC or
    interface may use no other bound address; nobody may use a virtual address;
 3. replies to connections that we opened with a host's own address: to our socket;
 4. TCP to a virtual address: to the transparent listener; ICMP errors about such a connection
    (path MTU) likewise; UDP and all else to a virtual address: refused and counted.

What it cannot see. Ports of a bridge: when the hosts' interface is a bridge, a packet's interface
is the bridge, so grade `port` needs an interface of its own (a port or a VLAN that is routed).
Traffic between hosts of one segment, which never comes here. And a neighbour that forges MAC and
address both: grade `l2` claims no more than that the switch would have had to allow it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from appliance.errors import ApplianceError, Unavailable
from appliance.registry.model import Host, HostState
from appliance.site import Site
from appliance.system import INTERCEPTED
from dataplane.snapshot import Address

FAMILY = "inet"
TABLE = "sluice"
NFT = "nft"
TIMEOUT_S = 30.0
OUTPUT_BYTES_MAX = 16 << 20

# name: what people are told
COUNTERS: Mapping[str, str] = {
    "intercepted": "TCP packets to virtual addresses, handed to the data plane",
    "spoofed": "packets with a bound or virtual source address from elsewhere, dropped",
    "udp_refused": "UDP to a virtual address, refused",
    "other_refused": "other protocols to a virtual address, refused",
    "not_listening": "TCP to a virtual address while nothing listened, reset",
}

Rule = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Binding:
    """A host known by its address, and where that address must come from (None = anywhere)."""

    address: Address
    mac: str | None = None  # lower case, colons
    interface: str | None = None


@dataclass(frozen=True, slots=True)
class Count:
    packets: int
    bytes: int


def bindings(hosts: Iterable[Host]) -> tuple[Binding, ...]:
    """The bindings of the hosts in use, one an address, in a stable order."""
    found = {
        Binding(address, host.mac, host.interface)
        for host in hosts
        if host.state is HostState.ACTIVE
        for address in host.addresses
    }
    return tuple(sorted(found, key=lambda b: (b.address.version, int(b.address), str(b))))


def render(site: Site, bound: Sequence[Binding] = ()) -> dict[str, Any]:
    """The transaction that makes the table right, whatever of it is there. Counters go on."""
    commands: list[dict[str, Any]] = [_add("table", name=None)]
    commands += [_add("counter", name) for name in COUNTERS]
    for name, kind, elements in _sets(bound):
        commands.append(_add("set", name, type=kind))
        commands.append({"flush": {"set": _owned(name)}})
        if elements:
            commands.append({"add": {"element": {**_owned(name), "elem": elements}}})
    for name, hook in (
        ("spoofing", {}),
        ("prerouting", {"type": "filter", "hook": "prerouting", "prio": -150, "policy": "accept"}),
    ):
        commands.append(_add("chain", name, **hook))
        commands.append({"flush": {"chain": _owned(name)}})
    commands += [_rule("spoofing", rule) for rule in _spoofing(site)]
    commands += [_rule("prerouting", rule) for rule in _prerouting(site)]
    return {"nftables": commands}


def removal() -> dict[str, Any]:
    """The transaction that takes the table away, whether it is there or not."""
    return {"nftables": [_add("table", name=None), {"delete": {"table": _table()}}]}


async def apply(ruleset: Mapping[str, Any]) -> None:
    """Raises ApplianceError with nft's own line; then nothing was changed."""
    try:
        await _nft("-j", "-f", "-", text=json.dumps(ruleset))
    except ApplianceError as first:
        # An older version's table can have another shape under the same names: begin anew.
        commands = [*removal()["nftables"], *ruleset["nftables"]]
        try:
            await _nft("-j", "-f", "-", text=json.dumps({"nftables": commands}))
        except ApplianceError:
            raise first from None


async def remove() -> None:
    """Takes the table away; no error when there is none."""
    await _nft("-j", "-f", "-", text=json.dumps(removal()))


async def counters() -> dict[str, Count]:
    """What the table has counted since it was made, by the names in COUNTERS."""
    output = await _nft("-j", "list", "counters", "table", FAMILY, TABLE)
    listed = [item["counter"] for item in json.loads(output)["nftables"] if "counter" in item]
    return {c["name"]: Count(c["packets"], c["bytes"]) for c in listed if c["name"] in COUNTERS}


async def _nft(*arguments: str, text: str = "") -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            NFT,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=OUTPUT_BYTES_MAX,
        )
    except FileNotFoundError as error:
        raise Unavailable("nft is not installed: install the package nftables") from error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, problem = await process.communicate(text.encode())
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise Unavailable(f"nft did not finish in {TIMEOUT_S:.0f} s") from error
    if process.returncode != 0:
        lines = problem.decode(errors="replace").strip().splitlines()
        said = next((line for line in lines if "rror" in line), "no reason given")
        raise ApplianceError(f"nft refused: {said[:300]}")
    return output.decode()


# Pieces of libnftables' JSON, see libnftables-json(5).


def _table() -> dict[str, Any]:
    return {"family": FAMILY, "name": TABLE}


def _owned(name: str) -> dict[str, Any]:
    return {"family": FAMILY, "table": TABLE, "name": name}


def _add(kind: str, name: str | None, **more: Any) -> dict[str, Any]:
    return {"add": {kind: _table() if name is None else {**_owned(name), **more}}}


def _rule(chain: str, statements: Rule) -> dict[str, Any]:
    return {"add": {"rule": {"family": FAMILY, "table": TABLE, "chain": chain, "expr": statements}}}


def _match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def _field(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def _meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


def _concat(*parts: Any) -> dict[str, Any]:
    return {"concat": list(parts)}


def _prefix(network: IPv4Network | IPv6Network) -> dict[str, Any]:
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


def _one_of(*values: Any) -> dict[str, Any]:
    return {"set": list(values)}


def _count(name: str) -> dict[str, Any]:
    return {"counter": name}


ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
DELIVER: dict[str, Any] = {"mangle": {"key": _meta("mark"), "value": INTERCEPTED}}
IS_LOCAL = _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
FAMILIES = (("ip", 4), ("ip6", 6))


def _sets(bound: Sequence[Binding]) -> list[tuple[str, Any, list[Any]]]:
    """Name, type and elements of every set. All are there always, empty or not."""
    by_mac = [b for b in bound if b.mac is not None]
    by_port = [b for b in bound if b.interface is not None]
    sets: list[tuple[str, Any, list[Any]]] = [
        ("bound_macs", "ether_addr", _unique(b.mac for b in by_mac)),
        ("bound_ports", "ifname", _unique(b.interface for b in by_port)),
    ]
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        macs = [b for b in by_mac if b.address.version == version]
        ports = [b for b in by_port if b.address.version == version]
        sets += [
            (
                f"bound{version}",
                kind,
                _unique(str(b.address) for b in bound if b.address.version == version),
            ),
            (f"by_mac{version}", kind, _unique(str(b.address) for b in macs)),
            (f"by_port{version}", kind, _unique(str(b.address) for b in ports)),
            (
                f"mac_pairs{version}",
                [kind, "ether_addr"],
                [_concat(a, m) for a, m in sorted({(str(b.address), b.mac) for b in macs})],
            ),
            (
                f"port_pairs{version}",
                [kind, "ifname"],
                [_concat(a, i) for a, i in sorted({(str(b.address), b.interface) for b in ports})],
            ),
        ]
    return sets


def _unique(values: Iterable[str | None]) -> list[Any]:
    return sorted({value for value in values if value is not None})


def _spoofing(site: Site) -> list[Rule]:
    drop = [_count("spoofed"), DROP]
    rules: list[Rule] = []
    ether, port = _field("ether", "saddr"), _meta("iifname")
    for family, v in FAMILIES:
        source = _field(family, "saddr")
        mac_pair, port_pair = _concat(source, ether), _concat(source, port)
        vips = site.spec.vip.ipv4 if v == 4 else site.spec.vip.ipv6
        rules += [
            [_match(source, _prefix(vips)), *drop],
            # Without this, what arrives over a link without MACs would pass the next rule.
            [_match(source, f"@by_mac{v}"), _match(_meta("iiftype"), "ether", "!="), *drop],
            [_match(source, f"@by_mac{v}"), _match(mac_pair, f"@mac_pairs{v}", "!="), *drop],
            [_match(source, f"@by_port{v}"), _match(port_pair, f"@port_pairs{v}", "!="), *drop],
            [
                _match(ether, "@bound_macs"),
                _match(source, f"@bound{v}"),
                _match(mac_pair, f"@mac_pairs{v}", "!="),
                *drop,
            ],
            [
                _match(port, "@bound_ports"),
                _match(source, f"@bound{v}"),
                _match(port_pair, f"@port_pairs{v}", "!="),
                *drop,
            ],
        ]
    return rules


def _prerouting(site: Site) -> list[Rule]:
    ports = site.spec.ports
    safe = sorted({22, ports.enrol} | ({ports.admin} if ports.admin else set()))
    rules: list[Rule] = [
        [_match(_meta("iifname"), _one_of(*site.spec.hosts.interfaces), "!="), ACCEPT],
        [
            _match(
                _field("icmpv6", "type"),
                _one_of(
                    "nd-neighbor-solicit",
                    "nd-neighbor-advert",
                    "nd-router-solicit",
                    "nd-router-advert",
                    "nd-redirect",
                    "mld-listener-query",
                    "mld-listener-report",
                    "mld2-listener-report",
                ),
            ),
            ACCEPT,
        ],
        [_match(_field("udp", "dport"), _one_of(67, 68, 546, 547)), ACCEPT],
        [IS_LOCAL, _match(_field("tcp", "dport"), _one_of(*safe)), ACCEPT],
        [{"jump": {"target": "spoofing"}}],
        [
            _match(_meta("l4proto"), "tcp"),
            _match({"socket": {"key": "wildcard"}}, 0),
            _match({"socket": {"key": "transparent"}}, 1),
            DELIVER,
            ACCEPT,
        ],
    ]
    for family, v in FAMILIES:
        rules += _intercept(site, family, v)
    return rules


def _intercept(site: Site, family: str, version: int) -> list[Rule]:
    vips = site.spec.vip.ipv4 if version == 4 else site.spec.vip.ipv6
    to_vip = _match(_field(family, "daddr"), _prefix(vips))
    protocol = _meta("l4proto")
    errors = (
        _match(_field("icmp", "type"), _one_of("destination-unreachable", "time-exceeded"))
        if version == 4
        else _match(
            _field("icmpv6", "type"),
            _one_of("destination-unreachable", "packet-too-big", "time-exceeded"),
        )
    )
    steer = {"tproxy": {"family": family, "port": site.spec.ports.transparent}}
    return [
        [to_vip, errors, DELIVER, ACCEPT],
        [to_vip, _match(protocol, "tcp"), steer, DELIVER, _count("intercepted"), ACCEPT],
        [
            to_vip,
            _match(protocol, "tcp"),
            _count("not_listening"),
            {"reject": {"type": "tcp reset"}},
        ],
        [
            to_vip,
            _match(protocol, "udp"),
            _count("udp_refused"),
            {"reject": {"type": "icmpx", "expr": "port-unreachable"}},
        ],
        [
            to_vip,
            _count("other_refused"),
            {"reject": {"type": "icmpx", "expr": "admin-prohibited"}},
        ],
    ]
