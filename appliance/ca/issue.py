"""CSR and policy to certificate. Pure: bytes and keys in, certificates out; no I/O, no clock.

Profiles follow the SPIFFE X.509-SVID standard (exactly one URI SAN, a leaf is no CA, signing
certificates name the bare trust domain) and RFC 5280. Nothing a CSR asks for is granted: it
proves a key, the rest is decided here.
"""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import Denied, InvalidInput
from appliance.identity import is_account, is_label, parse
from dataplane.snapshot import Grade

GRADE_OID = x509.ObjectIdentifier("2.25.238561604961263749318104027359125812321")
GRADE_TEXT = {Grade.L3: "l3", Grade.L2: "l2", Grade.PORT: "port", Grade.KEY: "key"}
GRADE_OF = {text: grade for grade, text in GRADE_TEXT.items()}

TTL_MAX_S = 24 * 3600
TTL_MIN_S = 60
BACKDATE_S = 300  # clocks of hosts are not ours
CSR_BYTES_MAX = 16_384
SIGN_TOGETHER_MAX = 64  # asked for in one call
APPROVE_TOGETHER_MAX = 500
CA_YEARS = 10

# What `cryptography` may raise for a CSR that is none; InvalidVersion is no ValueError.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion)

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Authority:
    """What signs. `certificate` is the trust anchor, self-signed; `chain` goes after each leaf."""

    trust_domain: str
    key: SigningKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def bundle_pem(self) -> str:
        return pem(self.certificate)

    @property
    def pin(self) -> bytes:
        return pin_of(self.certificate)

    @property
    def imported(self) -> bool:
        return bool(self.chain)

    @cached_property
    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


@dataclass(frozen=True, slots=True)
class Approval:
    """The strongest grade that may be signed for an identity. KEY also allows a host's own leaf."""

    spiffe_id: str
    max_grade: Grade
    by: str = ""
    time: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """One leaf that is asked for. grade None = a host's own leaf, or the appliance's."""

    csr_der: bytes
    spiffe_id: str
    grade: Grade | None
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Signed:
    chain_pem: str  # leaf first
    serial: str  # hex, lower case, no leading zeros
    not_after: int  # UNIX seconds


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def pin_of(certificate: x509.Certificate) -> bytes:
    """First 16 bytes of SHA-256 of the certificate's DER: what a join code carries."""
    return certificate.fingerprint(hashes.SHA256())[:16]


def check_workload_id(spiffe_id: str, trust_domain: str) -> str:
    """Returns it when it names a workload of this trust domain. Raises InvalidInput."""
    parsed = parse(spiffe_id)
    workload = parsed.workload
    if workload is None or not (is_label(workload[0]) and is_account(workload[1])):
        raise InvalidInput(
            f"{spiffe_id} is no workload: write "
            "spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
        )
    if parsed.trust_domain != trust_domain:
        raise InvalidInput(f"{spiffe_id} is not of this site's trust domain {trust_domain}")
    return spiffe_id


def decide(spiffe_id: str, grade: Grade | None, approval: Approval | None) -> None:
    """May a leaf be signed? `grade` None asks for a host's own leaf. Raises Denied."""
    if approval is None or approval.spiffe_id != spiffe_id:
        raise Denied(f"{spiffe_id} is not approved: an admin runs `sluice ca approve {spiffe_id}`")
    if grade is Grade.NONE:
        raise Denied(f"{spiffe_id}: a delegated leaf needs a grade")
    wanted = Grade.KEY if grade is None else grade
    if wanted > approval.max_grade:
        what = "a key of its own" if grade is None else f"grade {GRADE_TEXT[wanted]}"
        raise Denied(
            f"{spiffe_id} is approved up to grade {GRADE_TEXT[approval.max_grade]}, not for {what}"
        )


def _check_key(key: object) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        good = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    elif isinstance(key, rsa.RSAPublicKey):
        good = 2048 <= key.key_size <= 4096 and key.public_numbers().e >= 65537
    else:
        good = isinstance(key, ed25519.Ed25519PublicKey)
    if not good:
        raise InvalidInput("CSR: use a P-256, P-384 or Ed25519 key, or RSA of 2048 to 4096 bits")


def _check_wishes(csr: x509.CertificateSigningRequest, spiffe_id: str) -> None:
    """What a CSR asks for is not granted, but one that asks for another identity is a mistake
    or an attack."""
    wishes = csr.extensions
    try:
        constraints = wishes.get_extension_for_class(x509.BasicConstraints).value
        if constraints.ca:
            raise Denied("CSR asks for a CA certificate: only leaves are signed")
    except x509.ExtensionNotFound:
        pass
    try:
        usage = wishes.get_extension_for_class(x509.KeyUsage).value
        if usage.key_cert_sign or usage.crl_sign:
            raise Denied("CSR asks to sign certificates: only leaves are signed")
    except x509.ExtensionNotFound:
        pass
    try:
        names = wishes.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if any(uri != spiffe_id for uri in uris) or len(uris) > 1:
        raise Denied(f"CSR names another identity than {spiffe_id}")


def check_csr(csr_der: bytes, spiffe_id: str) -> x509.CertificateSigningRequest:
    """A CSR proven to be of its key's holder. Raises InvalidInput, or Denied for what it asks."""
    if len(csr_der) > CSR_BYTES_MAX:
        raise InvalidInput(f"CSR is longer than {CSR_BYTES_MAX} bytes")
    try:
        csr = x509.load_der_x509_csr(csr_der)
        if not csr.is_signature_valid:
            raise InvalidInput("CSR: its signature does not fit its key")
        key = csr.public_key()
        _check_key(key)
        _check_wishes(csr, spiffe_id)
    except x509.DuplicateExtension as error:
        raise InvalidInput("CSR has an extension twice") from error
    except _UNREADABLE as error:
        raise InvalidInput("CSR is malformed or of a kind that is not supported") from error
    return csr


def key_hash(csr_der: bytes) -> str:
    """Hex SHA-256 of a CSR's SubjectPublicKeyInfo: which key it is. Raises InvalidInput."""
    try:
        key = x509.load_der_x509_csr(csr_der).public_key()
        spki = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except _UNREADABLE as error:
        raise InvalidInput("CSR is malformed or of a kind that is not supported") from error
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    return digest.finalize().hex()


def random_serial() -> int:
    """159 random bits (RFC 5280 allows 20 octets with the sign bit clear)."""
    return secrets.randbits(159) | 1 << 158


def time_of(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _usage(*, leaf: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=leaf,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        encipher_only=False,
        decipher_only=False,
    )


# Equal in every leaf.
_SUBJECT = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sluice")])
_NO_CA = x509.BasicConstraints(ca=False, path_length=None)
_LEAF_USAGE = _usage(leaf=True)
_BOTH_ENDS = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
)


def issue(
    authority: Authority,
    csr: x509.CertificateSigningRequest,
    spiffe_id: str,
    grade: Grade | None,
    ttl_s: int,
    now_s: int,
    serial: int,
    dns_name: str | None = None,
) -> Signed:
    """Signs one leaf for a checked CSR. The caller has decided that it may be.

    grade None leaves the grade extension out; dns_name is for the appliance's own leaf. Raises
    InvalidInput when the CA certificate has run out or the CSR holds the CA's own key.
    """
    ca = authority.certificate
    not_after = min(
        now_s + max(TTL_MIN_S, min(ttl_s, TTL_MAX_S)), int(ca.not_valid_after_utc.timestamp())
    )
    if not_after <= now_s:
        raise InvalidInput("the CA certificate has run out: import or make a new one")
    public = csr.public_key()
    if public == authority.key.public_key():
        raise InvalidInput("CSR holds the CA's own key")
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id)]
    if dns_name is not None:
        names.append(x509.DNSName(dns_name))
    not_before = max(now_s - BACKDATE_S, int(ca.not_valid_before_utc.timestamp()))
    builder = (
        x509.CertificateBuilder()
        .subject_name(_SUBJECT)
        .issuer_name(ca.subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(time_of(not_before))
        .not_valid_after(time_of(not_after))
        .add_extension(_NO_CA, critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(_BOTH_ENDS, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(authority.key_identifier, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if grade is not None:
        text = GRADE_TEXT[grade].encode()
        value = b"\x0c" + bytes([len(text)]) + text  # DER UTF8String
        builder = builder.add_extension(
            x509.UnrecognizedExtension(GRADE_OID, value), critical=False
        )
    leaf = builder.sign(authority.key, hashes.SHA256())
    chain = "".join(pem(certificate) for certificate in (leaf, *authority.chain))
    return Signed(chain_pem=chain, serial=f"{serial:x}", not_after=not_after)


def self_signed(
    trust_domain: str, key: SigningKey, now_s: int, subject: x509.Name | None = None
) -> x509.Certificate:
    """The site's trust anchor: URI SAN spiffe://<trust domain>, pathlen 0, no name constraints.

    A subject is given for an imported intermediate: the anchor is then its self-signed twin (same
    name, same key), so that whoever trusts this site trusts this key alone and not all that its
    issuer may sign.
    """
    if subject is None:
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sluice"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain[:56]} CA"),
            ]
        )
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(random_serial())
        .not_valid_before(time_of(now_s - BACKDATE_S))
        .not_valid_after(time_of(now_s + CA_YEARS * 365 * 86_400))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(leaf=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
