"""Reads a leaf that somebody showed: whose it is, until when, and whether a bundle vouches for it.

Pure. For what TLS libraries do not tell: gRPC verifies against all the trust bundles at once, and
a certificate counts only if the bundle of the trust domain *that it names* has issued it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from appliance.errors import Denied, InvalidInput
from appliance.identity import SpiffeId, parse


@dataclass(frozen=True, slots=True)
class LeafFacts:
    spiffe_id: SpiffeId
    serial: str  # hex, no leading zeros
    not_after: int  # UNIX seconds


def read(leaf_pem: bytes) -> LeafFacts:
    """Raises Denied unless it is a leaf with exactly one SPIFFE ID."""
    return _facts(_load(leaf_pem))


def vouched(leaf_pem: bytes, bundle_pem: str, now: float) -> LeafFacts:
    """Raises Denied unless a certificate of the bundle issued the leaf and it is valid now.

    The bundle must be that of the trust domain which the leaf names; the caller has looked.
    """
    leaf = _load(leaf_pem)
    facts = _facts(leaf)
    moment = datetime.fromtimestamp(now, UTC)
    if not leaf.not_valid_before_utc <= moment <= leaf.not_valid_after_utc:
        raise Denied(f"the certificate of {facts.spiffe_id} is not valid now")
    try:
        issuers = x509.load_pem_x509_certificates(bundle_pem.encode("ascii"))
    except ValueError as error:
        raise Denied(
            f"the trust bundle of {facts.spiffe_id.trust_domain} cannot be read"
        ) from error
    for issuer in issuers:
        try:
            leaf.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            continue
        if issuer.not_valid_before_utc <= moment <= issuer.not_valid_after_utc:
            return facts
    raise Denied(f"{facts.spiffe_id} was not issued by its own trust domain's CA")


def _load(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise Denied("the certificate cannot be read") from error


def _facts(leaf: x509.Certificate) -> LeafFacts:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        constraints = [
            e.value for e in leaf.extensions if isinstance(e.value, x509.BasicConstraints)
        ]
        if len(uris) != 1 or any(each.ca for each in constraints):
            raise Denied("the certificate is no leaf with one SPIFFE ID")
        spiffe_id = parse(uris[0])
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError, InvalidInput) as error:
        raise Denied("the certificate has no SPIFFE ID") from error
    return LeafFacts(
        spiffe_id, f"{leaf.serial_number:x}", int(leaf.not_valid_after_utc.timestamp())
    )
