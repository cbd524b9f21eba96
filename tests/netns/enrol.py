"""A joiner that says what a test wants: requests to a site's enrolment listener, by hand."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from contextlib import closing
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.demo.topology import APPLIANCE
from appliance.enroll import code as codes
from tests.netns.helpers import connect
from tests.netns.mesh import Credentials, Mesh, write


def csr(spiffe_id: str | None = None, key: ec.EllipticCurvePrivateKey | None = None) -> str:
    """As an agent sends it, base64 of DER; it may ask for an identity."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if spiffe_id is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
        builder = builder.add_extension(names, critical=False)
    made = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()


def post(mesh: Mesh, source: str, path: str, body: Any) -> tuple[int, Any]:
    """Status and JSON."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPConnection("appliance")
    with closing(connection):
        namespace, port = mesh.a.hosts["a2"].namespace, mesh.a.site.spec.ports.enrol
        plain = connect(namespace, APPLIANCE[0], port, source)
        connection.sock = context.wrap_socket(plain)
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def secret(code: str) -> str:
    return codes.parse(code).secret.hex()


def join(mesh: Mesh, source: str, code: str, directory: Path) -> Credentials:
    """As the agent does it; the key is the test's."""
    key = ec.generate_private_key(ec.SECP256R1())
    status, said = post(mesh, source, "/v1/join", {"secret": secret(code), "csr": csr(key=key)})
    assert status == 200, said
    return write(directory, key, said["chain_pem"])
