"""The CA's key file: made once, loaded, imported, and never half written."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.ca import issue, key
from appliance.errors import InvalidInput

NOW = 1_800_000_000


def key_pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Corporate:
    """A root of somebody else's, and an intermediate it signed."""

    def __init__(self, *, ca: bool = True, cert_sign: bool = True, days: int = 30) -> None:
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = issue.self_signed("corp.example", self.root_key, NOW)
        usage = x509.KeyUsage(not cert_sign, *[False] * 4, cert_sign, False, False, False)
        self.intermediate = (
            x509.CertificateBuilder()
            .subject_name(name("site a"))
            .issuer_name(self.root.subject)
            .public_key(self.key.public_key())
            .serial_number(7)
            .not_valid_before(issue.time_of(NOW - 60))
            .not_valid_after(issue.time_of(NOW + days * 86_400))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), True)
            .add_extension(usage, True)
            .sign(self.root_key, hashes.SHA256())
        )

    def chain(self) -> bytes:
        return (issue.pem(self.intermediate) + issue.pem(self.root)).encode()


def test_first_boot_makes_a_key_that_only_its_user_reads(tmp_path: Path) -> None:
    made = key.load_or_create(tmp_path, "a.example", NOW)
    path = tmp_path / key.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    again = key.load_or_create(tmp_path, "a.example", NOW + 1)
    assert again.pin == made.pin
    assert again.key.public_key() == made.key.public_key()


def test_a_left_over_partial_file_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "authority.new").write_text("half")
    assert key.load_or_create(tmp_path, "a.example", NOW).trust_domain == "a.example"


def test_another_trust_domain_is_refused(tmp_path: Path) -> None:
    key.create(tmp_path, "a.example", NOW)
    with pytest.raises(InvalidInput, match="does not change"):
        key.load_or_create(tmp_path, "b.example", NOW)


def test_a_readable_key_file_is_refused(tmp_path: Path) -> None:
    key.create(tmp_path, "a.example", NOW)
    (tmp_path / key.FILE).chmod(0o640)
    with pytest.raises(InvalidInput, match="chmod 600"):
        key.load_or_create(tmp_path, "a.example", NOW)


@pytest.mark.parametrize("keep", ["KEY", "CERTIFICATE", "nothing"])
def test_a_damaged_file_is_refused_not_replaced(tmp_path: Path, keep: str) -> None:
    key.create(tmp_path, "a.example", NOW)
    path = tmp_path / key.FILE
    blocks = path.read_text().split("-----BEGIN ")
    path.write_text("".join("-----BEGIN " + b for b in blocks if keep in b.split("-----")[0]))
    before = path.read_bytes()
    with pytest.raises(InvalidInput):
        key.load_or_create(tmp_path, "a.example", NOW)
    assert path.read_bytes() == before


def test_key_and_certificate_of_two_cas_are_refused(tmp_path: Path) -> None:
    one = key.create(tmp_path, "a.example", NOW)
    path = tmp_path / key.FILE
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key_pem(other) + one.bundle_pem.encode())
    with pytest.raises(InvalidInput, match="do not match"):
        key.load_or_create(tmp_path, "a.example", NOW)


def test_imported_intermediate_signs_and_its_twin_is_the_anchor(tmp_path: Path) -> None:
    corporate = Corporate()
    pem = key_pem(corporate.key)
    key.import_intermediate(tmp_path, "a.example", pem, corporate.chain(), NOW)
    loaded = key.load_or_create(tmp_path, "a.example", NOW)
    assert loaded.imported
    anchor = loaded.certificate
    assert anchor.subject == anchor.issuer == corporate.intermediate.subject
    assert loaded.chain == (corporate.intermediate,)  # the root is not sent
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name("x"))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    identity = "spiffe://a.example/ns/default/sa/web"
    signed = issue.issue(loaded, csr, identity, None, 3600, NOW, 9)
    leaf, sent = x509.load_pem_x509_certificates(signed.chain_pem.encode())
    leaf.verify_directly_issued_by(anchor)
    leaf.verify_directly_issued_by(sent)


@pytest.mark.parametrize(
    "corporate",
    [Corporate(ca=False), Corporate(cert_sign=False), Corporate(days=0)],
    ids=["leaf", "no-cert-sign", "expired"],
)
def test_unfit_intermediate_is_refused_and_changes_nothing(
    tmp_path: Path, corporate: Corporate
) -> None:
    before = key.create(tmp_path, "a.example", NOW)
    with pytest.raises(InvalidInput):
        key.import_intermediate(
            tmp_path, "a.example", key_pem(corporate.key), corporate.chain(), NOW + 1
        )
    assert key.load_or_create(tmp_path, "a.example", NOW).pin == before.pin


def test_import_refuses_foreign_key_order_roots_and_garbage(tmp_path: Path) -> None:
    one, two = Corporate(), Corporate()
    mixed = (issue.pem(one.intermediate) + issue.pem(two.root)).encode()
    root = issue.pem(one.root).encode()
    for private, chain in (
        (key_pem(two.key), one.chain()),
        (key_pem(one.key), mixed),
        (key_pem(one.root_key), root),
        (b"", one.chain()),
        (key_pem(one.key), b"nonsense"),
        (key_pem(one.key), b"x" * 100_000),
        (key_pem(one.key), one.chain() + root * 8),
    ):
        with pytest.raises(InvalidInput):
            key.import_intermediate(tmp_path, "a.example", private, chain, NOW)
    assert list(tmp_path.iterdir()) == []
