"""Is a leaf delegated? Asked of real certificates, and of nonsense."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from appliance.agent import certificate
from appliance.ca import issue
from appliance.ca.issue import Authority
from appliance.enroll.credentials import make_csr
from dataplane.snapshot import Grade

NOW = 1_800_000_000
CA_KEY = ec.generate_private_key(ec.SECP256R1())
AUTHORITY = Authority("a.example", CA_KEY, issue.self_signed("a.example", CA_KEY, NOW))
WEB = "spiffe://a.example/ns/default/sa/web"


def leaf(grade: Grade | None, key: object = None) -> bytes:
    csr = issue.check_csr(make_csr(key or ec.generate_private_key(ec.SECP256R1())), WEB)
    signed = issue.issue(AUTHORITY, csr, WEB, grade, 3600, NOW, issue.random_serial())
    made = x509.load_pem_x509_certificate(signed.chain_pem.encode())
    return made.public_bytes(Encoding.DER)


@pytest.mark.parametrize("grade", [Grade.L3, Grade.L2, Grade.PORT, Grade.KEY])
def test_leaves_with_a_grade_are_delegated(grade: Grade) -> None:
    assert certificate.is_delegated(leaf(grade))


def test_a_hosts_own_leaf_is_not() -> None:
    assert not certificate.is_delegated(leaf(None))
    assert not certificate.is_delegated(leaf(None, rsa.generate_private_key(65537, 3072)))


def test_the_extensions_name_elsewhere_does_not_count() -> None:
    """Whoever makes the key chooses bytes of it: they must not pass for an extension."""
    der = leaf(None)
    mark = certificate._oid_der(certificate.GRADE_OID)
    at = der.index(b"\x03\x42\x00\x04")  # the public key's bits
    forged = der[: at + 5] + mark + der[at + 5 + len(mark) :]
    assert mark in forged
    assert not certificate.is_delegated(forged)


@given(st.binary(max_size=300))
def test_nonsense_is_malformed(data: bytes) -> None:
    try:
        assert not certificate.is_delegated(data)
    except certificate.Malformed:
        pass


DELEGATED = leaf(Grade.L2)


@given(st.integers(0, len(DELEGATED) - 1), st.integers(0, 255))
def test_a_changed_certificate_breaks_nothing(at: int, value: int) -> None:
    data = DELEGATED[:at] + bytes([value]) + DELEGATED[at + 1 :]
    for given_bytes in (data, data[:at]):
        try:
            certificate.is_delegated(given_bytes)
        except certificate.Malformed:
            continue
