"""Leaves whose keys the appliance holds: makes the key, asks the CA, returns both.

Keeps nothing: the daemon caches leaves in memory and renews them at half life.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.ca.issue import Signed
from dataplane.snapshot import Grade, Leaf


class Signer(Protocol):
    """The CA's client, or a test's."""

    async def sign(
        self, csr_der: bytes, spiffe_id: str, grade: Grade | None, ttl_s: int
    ) -> Signed: ...


class Need(Protocol):
    """What compile says is needed."""

    @property
    def key(self) -> str: ...
    @property
    def spiffe_id(self) -> str: ...
    @property
    def grade(self) -> Grade | None: ...


@dataclass(frozen=True, slots=True)
class Credential:
    """A leaf with what its keeper must know of it."""

    leaf: Leaf
    serial: str  # hex
    not_after: int  # UNIX seconds


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER. It proves the key and asks for nothing."""
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


async def obtain(ca: Signer, need: Need, ttl_s: int) -> Credential:
    """A new key (EC P-256) and a leaf for it. Raises what the CA answers."""
    key = ec.generate_private_key(ec.SECP256R1())
    signed = await ca.sign(make_csr(key), need.spiffe_id, need.grade, ttl_s)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")
    leaf = Leaf(need.key, need.spiffe_id, signed.chain_pem, key_pem)
    return Credential(leaf, signed.serial, signed.not_after)


async def issue(ca: Signer, need: Need, ttl_s: int) -> Leaf:
    """`obtain`, for whom the leaf alone is enough."""
    return (await obtain(ca, need, ttl_s)).leaf
