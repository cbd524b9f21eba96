"""Who may join, renew and become a peer: pure decisions, and the store that they are about.

Performs no I/O. Every refusal is a Denied with one line that says what to do.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.address import machine
from appliance.enroll import code
from appliance.enroll.messages import AgentConfig, Offer
from appliance.errors import Conflict, Denied, InvalidInput
from appliance.identity import is_label, is_trust_domain, parse
from appliance.registry.model import Host, HostKind, HostState
from appliance.site import Site
from dataplane.snapshot import Address

BUNDLE_CERTIFICATES_MAX = 8


@dataclass(frozen=True, slots=True)
class CodeRecord:
    """What is kept of a code. Times are UNIX seconds."""

    hash: str
    purpose: str  # code.HOST or code.PEER
    subject: str  # the host's or peer's name
    expires: int
    used_by: str | None = None  # hash of the key (host) or the offer (peer) that consumed it


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host as enrolment sees it."""

    host: Host
    spiffe_id: str
    key_hash: str | None = None  # of the key it enrolled with
    ports: tuple[int, ...] = ()  # where its services listen on it


@dataclass(frozen=True, slots=True)
class PeerOffer:
    """What a peer told of itself, checked."""

    trust_domain: str
    appliance_id: str
    bundle_pem: str
    mesh_addresses: tuple[Address, ...]
    mesh_port: int
    peering_address: Address
    peering_port: int


class EnrolStore(Protocol):
    """What enrolment needs kept. Each call commits before it returns."""

    async def code(self, hash: str) -> CodeRecord | None: ...

    async def consume(self, hash: str, used_by: str) -> bool:
        """Marks the code used by this key, in one step. False when another key used it first;
        True again for the same key."""
        ...

    async def host(self, name: str) -> HostRecord | None: ...

    async def host_by_key(self, key_hash: str) -> HostRecord | None: ...

    async def check_joins(self, name: str, address: Address | None) -> None:
        """What `joined` and `renewed` would refuse, before anything is signed. Raises Conflict,
        LimitReached."""
        ...

    async def joined(
        self, name: str, key_hash: str, serial: str, not_after: int, address: Address | None
    ) -> None:
        """It enrolled with this key from this address: it is active from now on."""
        ...

    async def renewed(self, name: str, serial: str, not_after: int) -> None: ...

    async def serial_denied(self, serial: str) -> bool: ...

    async def peer_trust_domains(self) -> dict[str, str]:
        """Name of each peer by its trust domain."""
        ...

    async def peer_joined(self, name: str, offer: PeerOffer) -> None: ...

    async def audit(self, who: str, what: str, detail: str) -> None: ...


def new_code(purpose: str, subject: str, pin: bytes, now: int) -> tuple[code.Code, CodeRecord]:
    """The code, to be shown once, and what to keep of it."""
    made = code.make(purpose, pin)
    return made, CodeRecord(made.hash(), purpose, subject, now + code.TTL_S)


def check_code(
    record: CodeRecord | None, hash: str, purpose: str, used_by: str, now: int
) -> CodeRecord:
    """Raises Denied for a wrong, expired or used code."""
    if (
        record is None
        or record.purpose != purpose
        or not hmac.compare_digest(record.hash.encode(), hash.encode())
    ):
        raise Denied("the code is not good here: check it, or ask for a new one")
    if now >= record.expires:
        raise Denied("the code has expired (15 minutes): ask for a new one")
    if record.used_by is not None and not hmac.compare_digest(
        record.used_by.encode(), used_by.encode()
    ):
        raise Denied("the code was used already: ask for a new one, and find out by whom")
    return record


def check_host(record: HostRecord | None) -> HostRecord:
    """May it hold a key of its own? Raises Denied."""
    if record is None or record.host.kind is not HostKind.AGENT:
        raise Denied("this host is not (or no longer) known here: add it with `sluice host add`")
    if record.host.state is HostState.REVOKED:
        raise Denied(f"host {record.host.name} is revoked: remove it, then add it anew")
    return record


def check_renewal(record: HostRecord | None, key_hash: str, serial_denied: bool) -> HostRecord:
    """By mTLS with the current leaf. Raises Denied."""
    host = check_host(record)
    if serial_denied:
        raise Denied(f"host {host.host.name}: its certificate is revoked: add the host anew")
    if host.key_hash is None or not hmac.compare_digest(host.key_hash.encode(), key_hash.encode()):
        raise Denied(f"host {host.host.name} enrolled with another key: join again with a new code")
    return host


def check_late(record: HostRecord | None, key_hash: str, now: int, window_s: int) -> HostRecord:
    """By proof of the enrolled key, after the leaf ran out. Raises Denied."""
    host = check_renewal(record, key_hash, serial_denied=False)
    not_after = host.host.not_after
    if not_after is None or now > not_after + window_s:
        raise Denied(
            f"host {host.host.name}: its certificate ran out longer ago than the site allows "
            f"({window_s} s): join again with a new code"
        )
    return host


def agent_config(site: Site, bundle_pem: str, record: HostRecord) -> AgentConfig:
    addresses = [str(a) for a in site.spec.hosts.addresses]
    return AgentConfig(
        host=record.host.name,
        spiffe_id=record.spiffe_id,
        appliance_id=site.appliance_id,
        trust_domain=site.trust_domain,
        bundle_pem=bundle_pem,
        mesh=[(address, site.spec.ports.mesh) for address in addresses],
        vips=[str(site.spec.vip.ipv4), str(site.spec.vip.ipv6)],
        agent_port=record.host.agent_port,
        ports=sorted(set(record.ports)),
        dns=addresses,
        zones=list(site.zones),
    )


def own_offer(site: Site, bundle_pem: str) -> Offer:
    mesh = [str(a) for a in site.spec.mesh.addresses]
    return Offer(
        trust_domain=site.trust_domain,
        appliance_id=site.appliance_id,
        bundle_pem=bundle_pem,
        mesh_addresses=mesh,
        mesh_port=site.spec.ports.mesh,
        peering_address=mesh[0],
        peering_port=site.spec.ports.peering,
    )


def check_offer(offer: Offer, own: Site, peers: dict[str, str], name: str) -> PeerOffer:
    """Raises InvalidInput for what makes no sense, Conflict for a trust domain that is taken."""
    identity = parse(offer.appliance_id)
    appliance = identity.path.removeprefix("/sluice/appliance/")
    if not is_trust_domain(offer.trust_domain) or identity.trust_domain != offer.trust_domain:
        raise InvalidInput("the peer's trust domain and its appliance's identity do not fit")
    if appliance == identity.path or not is_label(appliance):
        raise InvalidInput("the peer's appliance has an identity that is no appliance's")
    taken = {own.trust_domain, *own.spec.trust_domain_aliases, "cluster.local"}
    if offer.trust_domain in taken:
        raise Conflict(f"both sites have the trust domain {offer.trust_domain}: they must differ")
    if peers.get(offer.trust_domain, name) != name:
        raise Conflict(f"{offer.trust_domain} is a peer already: {peers[offer.trust_domain]}")
    bundle = check_bundle(offer.bundle_pem, offer.trust_domain)
    return PeerOffer(
        trust_domain=offer.trust_domain,
        appliance_id=offer.appliance_id,
        bundle_pem=bundle_text(bundle),
        mesh_addresses=reachable(offer.mesh_addresses),
        mesh_port=offer.mesh_port,
        peering_address=reachable([offer.peering_address])[0],
        peering_port=offer.peering_port,
    )


def check_bundle(bundle_pem: str, trust_domain: str) -> tuple[x509.Certificate, ...]:
    """CA certificates that name this trust domain and nothing else. Raises InvalidInput."""
    try:
        certificates = x509.load_pem_x509_certificates(bundle_pem.encode("ascii"))
        for certificate in certificates:
            extensions = certificate.extensions
            constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            if not constraints.ca or uris != [f"spiffe://{trust_domain}"]:
                raise ValueError("it has a certificate that is not a CA's of this trust domain")
            if not _may_sign(certificate):
                raise ValueError("it has a certificate that may not sign others")
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise InvalidInput(f"the trust bundle of {trust_domain} is not good: {error}") from error
    if len(certificates) > BUNDLE_CERTIFICATES_MAX:
        raise InvalidInput(f"the trust bundle has more than {BUNDLE_CERTIFICATES_MAX} certificates")
    return tuple(certificates)


def bundle_text(certificates: Iterable[x509.Certificate]) -> str:
    """In our own spelling: what is in a peer's text beside them is nobody's concern."""
    return "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in certificates)


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def reachable(texts: Iterable[str]) -> tuple[Address, ...]:
    """Addresses that a peer gives for itself, each once. Raises InvalidInput."""
    try:
        return tuple(dict.fromkeys(machine(text) for text in texts))
    except InvalidInput as error:
        raise InvalidInput(f"the peer's address is not good: {error}") from error
