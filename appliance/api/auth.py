"""Who a caller is and what it may do: pure decisions over credentials and certificates.

On the Unix socket: root and the admin group write, everybody else reads. Over mTLS: a leaf of
our own trust domain named /sluice/admin/<name> writes, /sluice/viewer/<name> reads. Between
sites: an appliance's leaf, issued by the CA of the trust domain that it names.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from appliance.api.peercred import peer_of
from appliance.ca.leaf import LeafFacts, read, vouched
from appliance.errors import Denied
from appliance.identity import is_label

APPLIANCE = "/sluice/appliance/"
ADMIN = "/sluice/admin/"
VIEWER = "/sluice/viewer/"


class Role(IntEnum):
    READ = 0
    WRITE = 1


@dataclass(frozen=True, slots=True)
class Caller:
    name: str  # "uid 1000" or a SPIFFE ID: for audit
    role: Role


@dataclass(frozen=True, slots=True)
class Revoked:
    serials: Collection[tuple[str, str]] = ()  # trust domain, hex serial
    ids: Collection[str] = ()


class Context(Protocol):
    """What is needed of a gRPC handler's context."""

    def peer(self) -> str: ...

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


def local_caller(context: Context, admin_group: int) -> Caller:
    """Of the Unix socket. Raises Denied."""
    peer = peer_of(context)
    writes = peer.uid == 0 or admin_group in peer.groups
    return Caller(f"uid {peer.uid}", Role.WRITE if writes else Role.READ)


def remote_caller(context: Context, trust_domain: str, bundle_pem: str, revoked: Revoked) -> Caller:
    """Of the mTLS listener. Raises Denied."""
    facts = identified(context, {trust_domain: bundle_pem}, revoked)
    for prefix, role in ((ADMIN, Role.WRITE), (VIEWER, Role.READ)):
        name = facts.spiffe_id.path.removeprefix(prefix)
        if name != facts.spiffe_id.path and is_label(name):
            return Caller(str(facts.spiffe_id), role)
    raise Denied(f"{facts.spiffe_id} is neither an admin nor a viewer")


def remote_appliance(context: Context, bundles: Mapping[str, str], revoked: Revoked) -> LeafFacts:
    """A peer's appliance; bundles by trust domain. Raises Denied."""
    facts = identified(context, bundles, revoked)
    name = facts.spiffe_id.path.removeprefix(APPLIANCE)
    if name == facts.spiffe_id.path or not is_label(name):
        raise Denied(f"{facts.spiffe_id} is not an appliance")
    return facts


def identified(context: Context, bundles: Mapping[str, str], revoked: Revoked) -> LeafFacts:
    """Whose leaf it is, verified against the bundle of the trust domain it names. Raises Denied."""
    shown = list(context.auth_context().get("x509_pem_cert", ()))
    if len(shown) != 1:
        raise Denied("no client certificate was shown")
    trust_domain = read(shown[0]).spiffe_id.trust_domain
    bundle = bundles.get(trust_domain)
    if bundle is None:
        raise Denied(f"the trust domain {trust_domain} is not known here")
    facts = vouched(shown[0], bundle, time.time())
    if (trust_domain, facts.serial) in revoked.serials or str(facts.spiffe_id) in revoked.ids:
        raise Denied(f"{facts.spiffe_id} is revoked")
    return facts


def need_write(caller: Caller) -> None:
    """Raises Denied."""
    if caller.role is not Role.WRITE:
        raise Denied(f"{caller.name} may only read: be root or in the admin group to change things")
