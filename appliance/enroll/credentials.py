"""Leaves whose keys the appliance holds: makes the keys, asks the CA, returns both.

Keeps nothing: the daemon caches leaves in memory and renews them at half life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.ca.issue import Asked, Signed
from appliance.errors import ApplianceError
from dataplane.snapshot import Grade, Leaf


class Signer(Protocol):
    """The CA's client, or a test's."""

    async def sign(
        self, csr_der: bytes, spiffe_id: str, grade: Grade | None, ttl_s: int
    ) -> Signed: ...


class Signers(Protocol):
    """The same, for many at once."""

    async def sign_each(self, asked: Sequence[Asked]) -> list[Signed | ApplianceError]: ...


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
    """A new key (EC P-256) and a leaf. Raises what the CA answers."""
    (key,), (asked,) = await asyncio.to_thread(_asked, [need], ttl_s)
    signed = await ca.sign(asked.csr_der, asked.spiffe_id, asked.grade, asked.ttl_s)
    return _credential(need, key, signed)


async def obtain_each(
    ca: Signers, needs: Sequence[Need], ttl_s: int
) -> list[Credential | ApplianceError]:
    """A new key (EC P-256) and a leaf for each, or why there is none. Raises what the CA answers
    to all of it, Unavailable above all."""
    keys, asked = await asyncio.to_thread(_asked, needs, ttl_s)
    answers = await ca.sign_each(asked)
    return [
        answer if isinstance(answer, ApplianceError) else _credential(need, key, answer)
        for need, key, answer in zip(needs, keys, answers, strict=True)
    ]


def _asked(
    needs: Sequence[Need], ttl_s: int
) -> tuple[list[ec.EllipticCurvePrivateKey], list[Asked]]:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in needs]
    return keys, [
        Asked(make_csr(key), need.spiffe_id, need.grade, ttl_s)
        for need, key in zip(needs, keys, strict=True)
    ]


def _credential(need: Need, key: ec.EllipticCurvePrivateKey, signed: Signed) -> Credential:
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")
    leaf = Leaf(need.key, need.spiffe_id, signed.chain_pem, key_pem)
    return Credential(leaf, signed.serial, signed.not_after)
