"""The box's own settings: the Site document that `sluice up` starts from.

Owns their shape and loading; knows nothing of services or policy. Raises `InvalidInput` with
file, path and what to do.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from appliance import address, yamlfile
from appliance.errors import InvalidInput
from appliance.identity import is_label, is_trust_domain


def _address(value: Any) -> IPv4Address | IPv6Address:
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    try:
        return address.address(str(value))
    except InvalidInput as error:
        raise ValueError(str(error)) from None


Address = Annotated[IPv4Address | IPv6Address, PlainValidator(_address), PlainSerializer(str)]
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9._@-]{1,15}$")]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


class Ports(_Part):
    transparent: int = Field(default=15001, ge=1, le=65535)
    mesh: int = Field(default=15008, ge=1, le=65535)
    peering: int = Field(default=15010, ge=1, le=65535)
    admin: int = Field(default=15011, ge=0, le=65535, description="admin API by mTLS; 0 = off")
    enrol: int = Field(default=15012, ge=1, le=65535)
    metrics: int = Field(default=15090, ge=0, le=65535, description="Prometheus; 0 = off")
    dns: int = Field(default=53, ge=1, le=65535)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        used = [port for _, port in self if port]
        if len(set(used)) < len(used):
            raise ValueError("each listener needs a port of its own")
        return self


class Users(_Part):
    """Numeric on purpose: nothing has to be added to /etc/passwd. `make install` adds names."""

    daemon: int = Field(default=6410, ge=0, le=2**31)
    ca: int = Field(default=6411, ge=0, le=2**31)
    dataplane: int = Field(default=6412, ge=0, le=2**31)
    admin_group: int = Field(default=6413, ge=0, le=2**31)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        """One user for two processes would undo what separates them."""
        if len({self.daemon, self.ca, self.dataplane}) < 3:
            raise ValueError("daemon, ca and dataplane need a number each")
        return self


class Vip(_Part):
    """Virtual addresses, one a service. Not 240/4: some systems refuse it."""

    ipv4: IPv4Network = IPv4Network("198.19.0.0/16")
    ipv6: IPv6Network = IPv6Network("fd53:6c75:6963:6500::/112")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for network, shortest, longest in ((self.ipv4, 8, 30), (self.ipv6, 48, 126)):
            if not shortest <= network.prefixlen <= longest:
                raise ValueError(f"{network}: give a prefix of {shortest} to {longest} bits")
            first = network.network_address
            if first.is_multicast or first.is_loopback or first.is_link_local:
                raise ValueError(f"{network} is not for connections: take another range")
        if self.ipv6.subnet_of(address.MAPPED):
            raise ValueError(f"{self.ipv6} is IPv4 written as IPv6: take another range")
        if self.ipv4.overlaps(IPv4Network("240.0.0.0/4")):
            raise ValueError(f"{self.ipv4}: some systems refuse 240.0.0.0/4, take another range")
        return self


class Hosts(_Part):
    """Where hosts are, and our addresses there (DNS, enrolment, next hop to the VIPs)."""

    interfaces: tuple[Interface, ...] = Field(min_length=1)
    addresses: tuple[Address, ...] = Field(min_length=1)


class Mesh(_Part):
    """Where peers reach our mesh and peering listeners."""

    addresses: tuple[Address, ...] = Field(min_length=1)


class DataplaneSettings(_Part):
    workers: int = Field(default=0, ge=0, le=64, description="0 = one a processor")
    streams_max: int = Field(default=65_536, ge=16, le=4_000_000, description="a worker")
    drain_seconds: int = Field(default=600, ge=0, le=86_400)


class PeerSettings(_Part):
    stale_seconds: int = Field(
        default=300, ge=1, le=86_400, description="then imports are withdrawn"
    )


class EnrolSettings(_Part):
    """A host whose leaf ran out may renew it by proof of its enrolled key for this long."""

    late_seconds: int = Field(default=7 * 86_400, ge=0, le=365 * 86_400, description="0 = never")


class MetricsSettings(_Part):
    """Whoever reaches these reads the numbers: no certificate is asked for."""

    addresses: tuple[Address, ...] = Field(default=(), description="beside 127.0.0.1")


class SiteSpec(_Part):
    trust_domain: str = Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")
    trust_domain_aliases: tuple[str, ...] = ()
    appliance: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    hosts: Hosts
    mesh: Mesh
    vip: Vip = Vip()
    ports: Ports = Ports()
    users: Users = Users()
    dataplane: DataplaneSettings = DataplaneSettings()
    peers: PeerSettings = PeerSettings()
    enrol: EnrolSettings = EnrolSettings()
    metrics: MetricsSettings = MetricsSettings()
    zone: str = Field(default="mesh", pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for domain in (self.trust_domain, *self.trust_domain_aliases):
            if not is_trust_domain(domain):
                raise ValueError(f"{domain[:80]!r} is no trust domain: write one like a.example")
        if self.trust_domain == "cluster.local":
            raise ValueError("cluster.local means every site's own trust domain: choose another")
        if not all(map(is_label, self.zone.split("."))) or self.zone.endswith("cluster.local"):
            raise ValueError(f"{self.zone!r} cannot be the zone: write one like mesh")
        for each in (*self.hosts.addresses, *self.mesh.addresses, *self.metrics.addresses):
            if each.is_unspecified or each.is_multicast:
                raise ValueError(f"{each} is nobody's address: write the box's own")
            if each in self.vip.ipv4 or each in self.vip.ipv6:
                raise ValueError(f"{each} is in the range of the virtual addresses")
        return self


class Metadata(_Part):
    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


class Site(_Part):
    api_version: Literal["sluice.dev/v1"]
    kind: Literal["Site"]
    metadata: Metadata
    spec: SiteSpec

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def trust_domain(self) -> str:
        return self.spec.trust_domain

    @property
    def appliance_id(self) -> str:
        return f"spiffe://{self.trust_domain}/sluice/appliance/{self.spec.appliance}"

    @property
    def zones(self) -> tuple[str, ...]:
        return (self.spec.zone, "svc.cluster.local")


def load_site(path: Path) -> Site:
    """Reads the Site document at path. Raises InvalidInput."""
    return yamlfile.read(path, Site, "write a Site document there")
