"""Certificates of sites for tests, made by the CA's own code; and deliberately wrong ones."""

from __future__ import annotations

import datetime
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.ca import issue
from appliance.ca.issue import Authority
from appliance.enroll.credentials import make_csr
from dataplane.snapshot import Leaf


class Pki:
    """One site's CA."""

    def __init__(self, trust_domain: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = int(time.time())
        certificate = issue.self_signed(trust_domain, key, now)
        self.trust_domain = trust_domain
        self.authority = Authority(trust_domain, key, certificate)

    @property
    def bundle(self) -> str:
        return self.authority.bundle_pem

    def leaf(self, path: str, dns: str | None = None, now: int | None = None) -> Leaf:
        spiffe_id = f"spiffe://{self.trust_domain}{path}"
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.load_der_x509_csr(make_csr(key))
        signed = issue.issue(
            self.authority, csr, spiffe_id, None, 3600, now or int(time.time()),
            issue.random_serial(), dns,
        )  # fmt: skip
        return Leaf(f"{spiffe_id}|-", spiffe_id, signed.chain_pem, _pem(key))

    def appliance(self, name: str) -> Leaf:
        return self.leaf(f"/sluice/appliance/{name}", dns=f"{name}.sluice.{self.trust_domain}")

    def forged(self, *uris: str, ca: bool = False, hours: tuple[int, int] = (-1, 1)) -> Leaf:
        """What this CA's key could sign if it wanted."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(hours=hours[0]))
            .not_valid_after(now + datetime.timedelta(hours=hours[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        certificate = builder.sign(self.authority.key, hashes.SHA256())
        return Leaf("forged", uris[0] if uris else "", issue.pem(certificate), _pem(key))


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
