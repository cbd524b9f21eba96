"""CSR and policy to certificate: the profile, and what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from appliance.ca import issue
from appliance.ca.issue import Approval, Authority
from appliance.errors import ApplianceError, Denied, InvalidInput
from dataplane.snapshot import Grade

NOW = 1_800_000_000
WEB = "spiffe://a.example/ns/default/sa/web"
DB = "spiffe://a.example/ns/default/sa/db"
KEY = ec.generate_private_key(ec.SECP256R1())
CA_KEY = ec.generate_private_key(ec.SECP256R1())
AUTHORITY = Authority("a.example", CA_KEY, issue.self_signed("a.example", CA_KEY, NOW))


def csr_of(key: object = KEY, *extensions: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anything")])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    plain = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    csr = builder.sign(key, None if plain else hashes.SHA256())  # type: ignore[arg-type]
    return csr.public_bytes(serialization.Encoding.DER)


def leaf_of(grade: Grade | None = None, dns: str | None = None, ttl_s: int = 3600):
    csr = issue.check_csr(csr_of(), WEB)
    signed = issue.issue(AUTHORITY, csr, WEB, grade, ttl_s, NOW, issue.random_serial(), dns)
    return signed, x509.load_pem_x509_certificate(signed.chain_pem.encode())


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def test_leaf_has_the_profile() -> None:
    signed, leaf = leaf_of()
    extension = leaf.extensions.get_extension_for_class
    assert uris(leaf) == [WEB]
    assert not extension(x509.BasicConstraints).value.ca
    usage = extension(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert set(extension(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert int(leaf.not_valid_before_utc.timestamp()) == NOW - issue.BACKDATE_S
    assert int(leaf.not_valid_after_utc.timestamp()) == signed.not_after == NOW + 3600
    assert leaf.serial_number.bit_length() == 159
    assert signed.serial == f"{leaf.serial_number:x}"
    leaf.verify_directly_issued_by(AUTHORITY.certificate)
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_oid(issue.GRADE_OID)


@pytest.mark.parametrize("grade", [Grade.L3, Grade.L2, Grade.PORT, Grade.KEY])
def test_grade_is_a_utf8_string_in_its_extension(grade: Grade) -> None:
    _, leaf = leaf_of(grade)
    value = leaf.extensions.get_extension_for_oid(issue.GRADE_OID).value.value
    text = issue.GRADE_TEXT[grade].encode()
    assert value == b"\x0c" + bytes([len(text)]) + text


def test_ttl_has_a_cap() -> None:
    signed, _ = leaf_of(ttl_s=10**9)
    assert signed.not_after == NOW + 24 * 3600


def test_leaf_does_not_outlive_the_ca() -> None:
    end = int(AUTHORITY.certificate.not_valid_after_utc.timestamp())
    csr = issue.check_csr(csr_of(), WEB)
    assert issue.issue(AUTHORITY, csr, WEB, None, 86_400, end - 10, 5).not_after == end
    with pytest.raises(InvalidInput, match="run out"):
        issue.issue(AUTHORITY, csr, WEB, None, 86_400, end, 5)


def test_anchor_names_its_trust_domain_and_nothing_else() -> None:
    anchor = AUTHORITY.certificate
    extension = anchor.extensions.get_extension_for_class
    assert uris(anchor) == ["spiffe://a.example"]
    assert extension(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert extension(x509.KeyUsage).value.key_cert_sign
    with pytest.raises(x509.ExtensionNotFound):
        extension(x509.NameConstraints)


def test_openssl_takes_the_chain(tmp_path: Path) -> None:
    # Real time, so that openssl's own clock agrees.
    import time

    now = int(time.time())
    authority = Authority("a.example", CA_KEY, issue.self_signed("a.example", CA_KEY, now))
    csr = issue.check_csr(csr_of(), WEB)
    signed = issue.issue(authority, csr, WEB, Grade.L2, 3600, now, issue.random_serial())
    (tmp_path / "ca.pem").write_text(authority.bundle_pem)
    (tmp_path / "leaf.pem").write_text(signed.chain_pem)
    for purpose in ("sslclient", "sslserver"):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose]
        command += ["-CAfile", str(tmp_path / "ca.pem"), str(tmp_path / "leaf.pem")]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p384", "ed25519", "rsa2048"],
)
def test_good_keys(key: object) -> None:
    assert issue.check_csr(csr_of(key), WEB)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
        rsa.generate_private_key(65537, 1024),
        rsa.generate_private_key(3, 2048),
        dsa.generate_private_key(2048),
    ],
    ids=["p521", "k256", "ed448", "rsa1024", "rsa-e3", "dsa"],
)
def test_weak_or_odd_keys_are_refused(key: object) -> None:
    with pytest.raises(InvalidInput):
        issue.check_csr(csr_of(key), WEB)


def san(*uris: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris])


@pytest.mark.parametrize(
    ("extension", "says"),
    [
        (san(DB), "another identity"),
        (san(WEB, DB), "another identity"),
        (san(WEB, WEB), "another identity"),
        (x509.BasicConstraints(ca=True, path_length=None), "CA certificate"),
        (x509.KeyUsage(True, *[False] * 4, True, False, False, False), "sign certificates"),
    ],
    ids=["other", "both", "twice", "ca", "cert-sign"],
)
def test_csr_may_not_ask_for_more(extension: x509.ExtensionType, says: str) -> None:
    with pytest.raises(Denied, match=says):
        issue.check_csr(csr_of(KEY, extension), WEB)


def test_requested_extensions_are_not_granted() -> None:
    asked = csr_of(
        KEY,
        san(WEB),
        x509.UnrecognizedExtension(issue.GRADE_OID, b"\x0c\x03key"),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
    )
    csr = issue.check_csr(asked, WEB)
    signed = issue.issue(AUTHORITY, csr, WEB, None, 3600, NOW, 5)
    leaf = x509.load_pem_x509_certificate(signed.chain_pem.encode())
    assert (
        ExtendedKeyUsageOID.CODE_SIGNING
        not in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_oid(issue.GRADE_OID)


def test_broken_signature_is_refused() -> None:
    broken = bytearray(csr_of())
    broken[-1] ^= 1
    with pytest.raises(InvalidInput):
        issue.check_csr(bytes(broken), WEB)


def test_the_cas_own_key_is_refused() -> None:
    csr = issue.check_csr(csr_of(CA_KEY), WEB)
    with pytest.raises(InvalidInput, match="own key"):
        issue.issue(AUTHORITY, csr, WEB, None, 3600, NOW, 5)


GOOD_CSR = csr_of(KEY, san(WEB))


@given(st.binary(max_size=400))
def test_garbage_is_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        issue.check_csr(data, WEB)


@given(st.integers(0, len(GOOD_CSR) - 1), st.integers(1, 255), st.integers(0, len(GOOD_CSR)))
def test_a_changed_csr_is_refused(at: int, flip: int, end: int) -> None:
    changed = bytearray(GOOD_CSR)
    changed[at] ^= flip
    for data in (bytes(changed), GOOD_CSR[:end] + b"x"):
        with pytest.raises(ApplianceError) as caught:
            issue.check_csr(data, WEB)
        assert isinstance(caught.value, InvalidInput | Denied)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "spiffe://a.example",
        "spiffe://a.example/sluice/appliance/gw",
        "spiffe://b.example/ns/default/sa/web",
        "spiffe://a.example/ns/default/sa/web/",
        "spiffe://a.example/ns/default/sa/",
        "spiffe://a.example/ns/Default/sa/web",
        "spiffe://a.example/ns/default/sa/../web",
        "spiffe://a.example:1/ns/default/sa/web",
        "SPIFFE://a.example/ns/default/sa/web",
        "spiffe://a.example/ns/default/sa/web?x",
        "spiffe://a.example/ns/default/sa/web\n",
        "spiffe://a.example/ns/default/sa/" + "a" * 300,
    ],
)
def test_only_this_sites_workloads_can_be_approved(bad: str) -> None:
    with pytest.raises(InvalidInput):
        issue.check_workload_id(bad, "a.example")


def test_decide() -> None:
    up_to_l2 = Approval(WEB, Grade.L2)
    issue.decide(WEB, Grade.L3, up_to_l2)
    issue.decide(WEB, Grade.L2, up_to_l2)
    for grade in (Grade.PORT, Grade.KEY, None, Grade.NONE):
        with pytest.raises(Denied):
            issue.decide(WEB, grade, up_to_l2)
    issue.decide(WEB, None, Approval(WEB, Grade.KEY))
    with pytest.raises(Denied, match="not approved"):
        issue.decide(WEB, Grade.L3, None)
    with pytest.raises(Denied, match="not approved"):
        issue.decide(DB, Grade.L3, up_to_l2)
