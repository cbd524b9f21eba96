"""HTTPS to an appliance that is known by its CA's pin, or by its bundle. A client; blocking.

Owns the order of trust: fetch the CA certificate unverified, compare it with the pin, then speak
only over a connection that this CA verified *and* whose certificate names an appliance of the
site (any enrolled host has a certificate of the same CA). Nothing secret is sent before that.
The agent carries this file too: standard library, Python 3.9.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 1 << 20
_APPLIANCE = re.compile(r"spiffe://([a-z0-9][a-z0-9._-]{0,62})/sluice/appliance/[a-z0-9-]{1,63}")
_PEM = re.compile("-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\\s]{1,16384}-----END CERTIFICATE-----")


class Refused(Exception):
    """The appliance answered no. `status` is HTTP's, the message its one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Exception):
    """No answer, or not from whom we expect: the message says which."""


@dataclass(frozen=True)
class Site:
    """An appliance's enrolment listener and how to know it."""

    host: str
    port: int
    bundle_pem: str = field(repr=False)
    trust_domain: str | None = None  # None = whichever the bundle's certificate names


def split_address(text: str, port: int) -> tuple[str, int]:
    """ "host", "host:port", "[v6]:port" or a bare IPv6 address. Raises ValueError."""
    match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::(\d{1,5}))?", text)
    if match is None and text.count(":") > 1:
        match = re.fullmatch(r"([0-9a-fA-F:.]+)()", text)
    if match is None:
        match = re.fullmatch(r"([A-Za-z0-9._-]{1,253})(?::(\d{1,5}))?", text)
    number = int(match[2] or port) if match else 0
    if match is None or not 0 < number < 65536:
        raise ValueError(f"{text[:80]!r} is no address: write HOST or HOST:PORT")
    return match[1], number


def fetch_site(host: str, port: int, pin: bytes, timeout_s: float = TIMEOUT_S) -> Site:
    """Gets the site's CA certificate and holds it against the pin. Raises Unreachable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what it answers is checked against the pin
    try:
        status, body = _exchange(host, port, context, "GET", "/ca.pem", None, None, timeout_s)
        text = body.decode("ascii")
        if status != 200:
            raise ValueError(f"it answered {status}")
        pems = _PEM.findall(text)
        good = [p for p in pems if pin_fits(ssl.PEM_cert_to_DER_cert(p), pin)]
    except ValueError as error:
        raise Unreachable(f"{host}:{port} is no Sluice appliance: {error}") from error
    if not good:
        raise Unreachable(
            f"{host}:{port} is not the appliance that made this code (its CA differs): "
            "check the address; if it is right, somebody is in between"
        )
    return Site(host, port, good[0] + "\n")


def pin_fits(certificate_der: bytes, pin: bytes) -> bool:
    return hmac.compare_digest(hashlib.sha256(certificate_der).digest()[: len(pin)], pin)


def appliance_of(certificate: dict[str, Any]) -> tuple[str, str] | None:
    """(SPIFFE ID, trust domain) when a verified certificate (getpeercert) is an appliance's."""
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    match = _APPLIANCE.fullmatch(uris[0]) if len(uris) == 1 else None
    return (match[0], match[1]) if match else None


def context_for(site: Site, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # known by its SPIFFE ID, see _verified
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=site.bundle_pem)
    if cert_file is not None:
        context.load_cert_chain(cert_file, key_file)
    return context


def post(
    site: Site,
    path: str,
    body: dict[str, Any],
    cert_file: str | None = None,
    key_file: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """One JSON object there, one back. Raises Refused or Unreachable."""
    context = context_for(site, cert_file, key_file)
    data = json.dumps(body).encode()
    status, answer = _exchange(site.host, site.port, context, "POST", path, data, site, timeout_s)
    try:
        parsed = json.loads(answer)
    except ValueError as error:
        raise Unreachable(f"{site.host}:{site.port} answered {status} without sense") from error
    if not isinstance(parsed, dict):
        raise Unreachable(f"{site.host}:{site.port} answered {status} without sense")
    if status != 200:
        raise Refused(status, _one_line(parsed.get("error")) or f"refused with status {status}")
    return parsed


def _one_line(text: object) -> str:
    """What a server says is shown on a terminal: printable characters only."""
    return "".join(c for c in str(text or "")[:500] if c.isprintable())


def _verified(sock: ssl.SSLSocket, site: Site) -> None:
    who = appliance_of(dict(sock.getpeercert() or {}))
    if who is None or (site.trust_domain is not None and who[1] != site.trust_domain):
        raise Unreachable(f"{site.host}:{site.port} has a certificate that is no appliance's")


def _exchange(
    host: str,
    port: int,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None,
    site: Site | None,
    timeout_s: float,
) -> tuple[int, bytes]:
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout_s) as raw:
            with context.wrap_socket(raw) as sock:
                if site is not None:
                    _verified(sock, site)
                connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
                connection.sock = sock
                headers = {"Content-Type": "application/json"} if body is not None else {}
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                data = answer.read(ANSWER_BYTES_MAX + 1)
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(
            f"{where}: its certificate is not good: {error.verify_message}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{where} does not answer: {error}") from error
    if len(data) > ANSWER_BYTES_MAX:
        raise Unreachable(f"{where} answers too much")
    return answer.status, data
