"""The lines that an admin pastes elsewhere: routes and DNS. Pure text."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from appliance.site import Site


@dataclass(frozen=True, slots=True)
class Instructions:
    """What a host needs to reach the mesh without an agent."""

    route_linux: str
    route_windows: str
    route_dhcp: str  # RFC 3442, as dnsmasq writes it
    dns: str


def agentless(site: Site) -> Instructions:
    """The route to the virtual addresses by way of this box, and DNS for the mesh's names."""
    vip, addresses = site.spec.vip, site.spec.hosts.addresses
    v4 = next((a for a in addresses if isinstance(a, IPv4Address)), None)
    v6 = next((a for a in addresses if isinstance(a, IPv6Address)), None)
    linux, windows, dhcp = [], [], ""
    if v4 is not None:
        linux.append(f"ip route add {vip.ipv4} via {v4}")
        windows.append(f"route -p add {vip.ipv4.network_address} mask {vip.ipv4.netmask} {v4}")
        dhcp = f"dhcp-option=121,{vip.ipv4},{v4}"
    if v6 is not None:
        linux.append(f"ip -6 route add {vip.ipv6} via {v6}")
        windows.append(f"netsh interface ipv6 add route {vip.ipv6} <interface> {v6}")
    servers = " ".join(str(address) for address in addresses)
    zone = site.spec.zone
    return Instructions(
        route_linux=" && ".join(linux),
        route_windows=" & ".join(windows),
        route_dhcp=dhcp,
        dns=f"resolvectl dns <interface> {servers} && resolvectl domain <interface> ~{zone}"
        f"  (or delegate the zone {zone} to {servers}, port {site.spec.ports.dns})",
    )
