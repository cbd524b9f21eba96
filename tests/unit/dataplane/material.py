"""What the tests of the data plane are made of: certificates, snapshots, and a real process."""

from __future__ import annotations

import contextlib
import datetime
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dataplane import snapshot as s

ROOT = Path(__file__).resolve().parents[3]
KEY = bytes(range(32))
DEADLINE_S = 40.0


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition, with a deadline."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"timed out: {what}"
        select.select([], [], [], 0.01)


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A site's CA."""

    def __init__(self, trust_domain: str) -> None:
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        self._cert = (
            x509.CertificateBuilder()
            .subject_name(_name(trust_domain))
            .issuer_name(_name(trust_domain))
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def bundle(self) -> s.Bundle:
        return s.Bundle(self.trust_domain, _pem(self._cert))

    def leaf(self, path: str, key: str | None = None, seconds: float = 3600) -> s.Leaf:
        """seconds: until it expires; may be negative."""
        spiffe_id = f"spiffe://{self.trust_domain}/{path}"
        private = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        cert = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._cert.subject)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]),
                critical=True,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        return s.Leaf(key or f"{spiffe_id}|-", spiffe_id, _pem(cert), pem)


@cache
def authority(trust_domain: str = "a.example") -> Authority:
    return Authority(trust_domain)


def small(version: int, leaves: tuple[s.Leaf, ...] = (), port: int = 5432) -> s.Snapshot:
    """One host, one service with one endpoint, one policy; the first leaf is the service's."""
    key = leaves[0].key if leaves else None
    match = s.Match(s.Part.FROM, 0, s.Field.NAMESPACE, text="default")
    return s.Snapshot(
        version=version,
        trust_domain="a.example",
        own_addresses=(IPv4Address("198.18.0.1"),),
        bundles=(authority().bundle,),
        leaves=leaves,
        appliance_leaf=key,
        hosts=(
            s.Host("a1", s.Grade.L3, key, address=IPv4Address("198.18.0.10")),
            s.Host("a2", s.Grade.KEY, key, agent_id="spiffe://a.example/ns/default/sa/a2"),
        ),
        services=(
            s.Service(
                name="db.default",
                namespace="default",
                port=port,
                vips=(IPv4Address("198.19.0.1"),),
                outbound_set=1,
                leaf=key,
                mtls=s.MtlsMode.PERMISSIVE,
                policies=("AuthorizationPolicy default/p",),
            ),
        ),
        inbound=(s.Inbound(f"_.{port}.db.default.a.example", "db.default", port, 1),),
        sets=(endpoint_set(1, 1),),
        policies=(s.Policy("AuthorizationPolicy default/p", s.Action.DENY, ((match,),)),),
        names=(s.Name("db.default.mesh", (IPv4Address("198.19.0.1"),)),),
        denied=(
            s.Denied("a.example", serial="0a0b"),
            s.Denied("a.example", spiffe_id="spiffe://a.example/ns/default/sa/gone"),
        ),
    )


def endpoint_set(id: int, count: int, healthy: bool = True) -> s.EndpointSet:
    return s.EndpointSet(
        id,
        "db.default",
        tuple(
            s.Endpoint(
                f"h{number}",
                s.EndpointKind.PLAIN,
                IPv4Address(0xC6120000 + number + 20),
                5432,
                healthy=healthy,
            )
            for number in range(count)
        ),
    )


def memory(data: bytes) -> int:
    number = os.memfd_create("test")
    os.write(number, data)
    return number


def listener(address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen(1024)
    return sock


@dataclass
class Sockets:
    """What the supervisor would hold."""

    transparent: socket.socket = field(default_factory=listener)
    mesh: socket.socket = field(default_factory=listener)
    dns_udp: socket.socket = field(default_factory=lambda: socket.socket(type=socket.SOCK_DGRAM))
    dns_tcp: socket.socket = field(default_factory=listener)
    tickets: int = field(default_factory=lambda: memory(os.urandom(160)))
    publish_key: int = field(default_factory=lambda: memory(KEY))

    def __post_init__(self) -> None:
        self.dns_udp.bind(("127.0.0.1", 0))

    def close(self) -> None:
        for sock in (self.transparent, self.mesh, self.dns_udp, self.dns_tcp):
            sock.close()
        os.close(self.tickets)
        os.close(self.publish_key)

    def fds(self, ready: int) -> tuple[str, list[int]]:
        numbers = {
            "transparent4": self.transparent.fileno(),
            "mesh4": self.mesh.fileno(),
            "dns-udp": self.dns_udp.fileno(),
            "dns-tcp": self.dns_tcp.fileno(),
            "tickets": self.tickets,
            "publish-key": self.publish_key,
            "ready": ready,
        }
        text = ";".join(f"{name}={number}" for name, number in numbers.items())
        return text, list(numbers.values())


class Process:
    """A data plane process as the supervisor starts it, without the change of user."""

    def __init__(
        self,
        directory: Path,
        sockets: Sockets,
        generation: int = 1,
        drain_s: float = 5,
        nicer: int = 0,
    ) -> None:
        state, run = directory / "state", directory / "run"
        state.mkdir(mode=0o700, exist_ok=True)
        run.mkdir(exist_ok=True)
        self.socket = run / f"dp-{generation}.sock"
        self.log = directory / f"dp-{generation}.log"
        self._ready, write = os.pipe()
        text, numbers = sockets.fds(write)
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [
                    "nice", "-n", str(nicer),
                    sys.executable, "-m", "dataplane", "--state", str(state),
                    "--socket", str(self.socket), "--drain-seconds", str(drain_s),
                ],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "SLUICE_FDS": text},
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )  # fmt: skip
        os.close(write)

    def wait_ready(self) -> None:
        readable, _, _ = select.select([self._ready], [], [], DEADLINE_S)
        assert readable, self.log.read_text()
        assert os.read(self._ready, 16) == b"ready\n", self.log.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def wait(self) -> int:
        return self.child.wait(DEADLINE_S)

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(DEADLINE_S)
        os.close(self._ready)
        self.socket.unlink(missing_ok=True)


@contextlib.contextmanager
def running(directory: Path, sockets: Sockets, **options: float) -> Iterator[Process]:
    process = Process(directory, sockets, **options)  # type: ignore[arg-type]
    try:
        process.wait_ready()
        yield process
    finally:
        process.close()


@contextlib.contextmanager
def run_directory() -> Iterator[Path]:
    """Short, since a Unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="dp-") as name:
        yield Path(name)
