"""Certificates of the bench: one CA a side, P-256 leaves signed by it directly. In memory.

The leaf of a peer has a common name and a DNS name beside the SPIFFE ID, since haproxy 2.6 and
nginx cannot look at URI names; it is longer by 40 bytes than the product's.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.ca.issue import GRADE_OID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM texts."""

    certificate: str
    key: str


class Authority:
    def __init__(self, trust_domain: str) -> None:
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, trust_domain)])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        builder = builder.add_extension(_usage(leaf=False), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def bundle(self) -> str:
        return _pem(self._certificate)

    def leaf(self, path: str, grade: str = "", dns: str = "") -> Pair:
        """spiffe://<trust domain>/<path>. grade: makes it delegated. dns: for a peer."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}/{path}")
        ]
        subject = x509.Name([])
        if dns:
            names.append(x509.DNSName(dns))
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns)])
        builder = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=not dns)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(leaf=True), critical=True)
        )
        if grade:
            value = bytes([12, len(grade)]) + grade.encode()  # DER UTF8String
            builder = builder.add_extension(
                x509.UnrecognizedExtension(GRADE_OID, value), critical=False
            )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Pair(_pem(builder.sign(self._key, hashes.SHA256())), private.decode())

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )


@dataclass(frozen=True, slots=True)
class Material:
    """Two sites: a is where clients are, b where the service is."""

    a: Authority
    b: Authority

    @classmethod
    def new(cls) -> Material:
        return cls(Authority("a.bench"), Authority("b.bench"))


def dns_name(path: str, trust_domain: str) -> str:
    """Of a peer's leaf, and its common name."""
    return f"{path.rpartition('/')[2]}.{trust_domain}"


CLIENT_PATH = "ns/default/sa/web"
SERVER_PATH = "ns/default/sa/echo"
STRANGER_PATH = "ns/default/sa/stranger"  # of the same CA, and not who should be there
CLIENT_NAME = dns_name(CLIENT_PATH, "a.bench")
SERVER_NAME = dns_name(SERVER_PATH, "b.bench")


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


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
