"""gRPC listeners by mTLS with leaves that change while they listen. Owns no policy: see auth.py."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import grpc

from appliance.errors import Unavailable
from dataplane.snapshot import Leaf


def host_port(host: str, port: int) -> str:
    """ "::1", 80 -> "[::1]:80" """
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        version = 4
    return f"[{host}]:{port}" if version == 6 else f"{host}:{port}"


def server_credentials(
    leaf: Callable[[], Leaf | None], roots: Callable[[], str]
) -> grpc.ServerCredentials:
    """Each handshake uses what these give then; a client certificate is demanded.

    roots: PEM of every CA that may have issued a client's certificate. Raises Unavailable while
    there is no leaf.
    """

    held = leaf()
    if held is None:
        raise Unavailable("this appliance has no certificate yet: is the CA running?")

    def configuration() -> grpc.ServerCertificateConfiguration:
        nonlocal held
        now = held = leaf() or held
        assert now is not None
        return grpc.ssl_server_certificate_configuration(
            [(now.key_pem.encode(), now.chain_pem.encode())],
            root_certificates=(roots() or now.chain_pem).encode(),
        )

    return grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, require_client_authentication=True
    )


def listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Returns the port. Raises Unavailable."""
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {address}: is it in use, or not ours?") from error
    return int(port)
