"""The CA's key on disk: made at first boot, loaded, or replaced by an imported intermediate.

Owns one file, authority.pem (key, trust anchor, then the chain sent after leaves), 0600 in the
CA user's own directory. One file, so that key and certificate change together or not at all.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.ca.issue import Authority, SigningKey, pem, self_signed
from appliance.errors import InvalidInput

FILE = "authority.pem"
PEM_BYTES_MAX = 65_536
CHAIN_MAX = 5
_KEY_BLOCK = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.S
)


def load_or_create(directory: Path, trust_domain: str, now_s: int) -> Authority:
    """Raises InvalidInput when what is there is not this site's."""
    path = directory / FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return create(directory, trust_domain, now_s)
    authority = _parse(data, trust_domain, str(path))
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise InvalidInput(f"{path}: mode is {mode:o}: others could read the CA key; chmod 600 it")
    return authority


def create(directory: Path, trust_domain: str, now_s: int) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority(trust_domain, key, self_signed(trust_domain, key, now_s))
    _write(directory / FILE, authority)
    return authority


def import_intermediate(
    directory: Path, trust_domain: str, key_pem: bytes, chain_pem: bytes, now_s: int
) -> Authority:
    """Replaces the key. chain_pem: the intermediate, then its issuers (the root may be left out).

    Raises InvalidInput when the parts do not fit or the intermediate may not sign leaves.
    """
    if len(key_pem) + len(chain_pem) > PEM_BYTES_MAX:
        raise InvalidInput(f"CA import is longer than {PEM_BYTES_MAX} bytes")
    key = _load_key(key_pem, "key")
    chain = _load_certificates(chain_pem, "chain")
    first = chain[0]
    if first.public_key() != key.public_key():
        raise InvalidInput("CA import: the key is not the first certificate's")
    if not (
        first.not_valid_before_utc.timestamp() <= now_s < first.not_valid_after_utc.timestamp()
    ):
        raise InvalidInput("CA import: the intermediate is not valid now")
    try:
        constraints = first.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = first.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise InvalidInput("CA import: the intermediate says neither CA nor key usage") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise InvalidInput("CA import: the intermediate may not sign certificates")
    for child, parent in pairwise(chain):
        try:
            child.verify_directly_issued_by(parent)
        except Exception as error:
            raise InvalidInput("CA import: the chain is not in order") from error
    sent = tuple(c for c in chain if c.subject != c.issuer)
    if not sent:
        raise InvalidInput("CA import: a self-signed root: import an intermediate signed by it")
    anchor = self_signed(trust_domain, key, now_s, subject=first.subject)
    authority = Authority(trust_domain, key, anchor, sent)
    _write(directory / FILE, authority)
    return authority


def _load_key(data: bytes, where: str) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{where}: no unencrypted private key in PEM there") from error
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    ):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and 2048 <= key.key_size <= 4096:
        return key
    raise InvalidInput(f"{where}: a CA key is P-256, P-384, or RSA of 2048 to 4096 bits")


def _load_certificates(data: bytes, where: str) -> list[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise InvalidInput(f"{where}: no certificates in PEM there") from error
    if len(chain) > CHAIN_MAX:
        raise InvalidInput(f"{where}: more than {CHAIN_MAX} certificates")
    return chain


def _parse(data: bytes, trust_domain: str, where: str) -> Authority:
    block = _KEY_BLOCK.search(data)
    if block is None:
        raise InvalidInput(f"{where}: no private key in it: restore it from a backup")
    key = _load_key(block.group(), where)
    anchor, *chain = _load_certificates(data, where)
    if anchor.public_key() != key.public_key():
        raise InvalidInput(f"{where}: key and certificate do not match: restore it from a backup")
    names = anchor.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [f"spiffe://{trust_domain}"]:
        raise InvalidInput(
            f"{where}: this CA is of {', '.join(uris)}, the site's trust domain is {trust_domain}: "
            "a trust domain does not change; reset the site to start anew"
        )
    return Authority(trust_domain, key, anchor, tuple(chain))


def _write(path: Path, authority: Authority) -> None:
    key_pem = authority.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificates = "".join(pem(c) for c in (authority.certificate, *authority.chain))
    partial = path.with_suffix(".new")
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(key_pem + certificates.encode("ascii"))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
