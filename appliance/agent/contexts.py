"""TLS contexts of the host's leaf, and who may be at the other end. Owns the checks.

Out: only the site's appliance. In: only what an appliance of the site holds keys for, its own
leaf or a delegated one, never another host's own leaf: that would pass round the appliance's
policy.
"""

from __future__ import annotations

import ssl
from typing import Any

from appliance.agent import certificate, link
from appliance.agent.state import Directory, State


class Stranger(Exception):
    """The other end is verified but not one of those: one line."""


def client(directory: Directory, state: State) -> ssl.SSLContext:
    return _context(ssl.PROTOCOL_TLS_CLIENT, directory, state)


def server(directory: Directory, state: State) -> ssl.SSLContext:
    context = _context(ssl.PROTOCOL_TLS_SERVER, directory, state)
    context.num_tickets = 0  # no resumption: each connection is checked against today's bundle
    return context


def _context(protocol: int, directory: Directory, state: State) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_CLIENT:
        context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=state.bundle_pem)
    context.load_cert_chain(str(directory.leaf), str(directory.key))
    context.set_alpn_protocols(list(link.ALPN))
    return context


def link_version(tls: ssl.SSLObject) -> int:
    """Raises Stranger when no version of the link protocol was agreed."""
    alpn = tls.selected_alpn_protocol()
    if alpn not in link.ALPN:
        raise Stranger("no common version of the link protocol")
    return int(alpn.rpartition("/")[2])


def _identity(tls: ssl.SSLObject) -> str:
    certificate_said: Any = tls.getpeercert() or {}
    names = certificate_said.get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    if len(uris) != 1:
        raise Stranger("a certificate without exactly one SPIFFE ID")
    return str(uris[0])


def check_appliance(tls: ssl.SSLObject, state: State) -> None:
    """Raises Stranger."""
    who = _identity(tls)
    if who != state.appliance_id:
        raise Stranger(f"expected {state.appliance_id}, found {who[:255]}")


def check_caller(tls: ssl.SSLObject, state: State) -> str:
    """The caller's SPIFFE ID. Raises Stranger."""
    who = _identity(tls)
    if who == state.appliance_id:
        return who
    if not who.startswith(f"spiffe://{state.trust_domain}/"):
        raise Stranger(f"{who[:255]} is not of this site")
    try:
        delegated = certificate.is_delegated(tls.getpeercert(binary_form=True) or b"")
    except certificate.Malformed as error:
        raise Stranger(f"its certificate is malformed: {error}") from error
    if not delegated:
        raise Stranger(f"{who[:255]} comes with a host's own certificate, not by the appliance")
    return who
