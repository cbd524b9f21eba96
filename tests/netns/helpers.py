"""What tests of whole sites need below a site: sockets inside a namespace, a service to talk to,
a TLS client that may say anything, nft's counters, and waiting for a condition.

A socket belongs for good to the namespace that it was made in, so tests make it there and use it
from here: no process a connection.
"""

from __future__ import annotations

import ctypes
import errno
import json
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from appliance.agent import link

LIMIT_S = 20.0  # of one connection
UNTIL_S = 60.0  # of a condition, however busy the machine
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def each_file(directory: Path, look: Callable[[Path], T]) -> dict[Path, T]:
    """What look finds at every file below, but for those that go meanwhile, as a journal does."""
    found = {}
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                found[path] = look(path)
    return found


def until(what: str, test: Callable[[], T], seconds: float = UNTIL_S) -> T:
    """The first true thing that test returns; fails, saying what did not come."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := test()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:.0f} s"
        pause.wait(0.05)
    return found


def run(argv: Sequence[str], given: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, input=given, capture_output=True, text=True, check=False, timeout=120, **more
    )


def sh(*argv: str) -> str:
    done = run(argv)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread alone is in the namespace while the context lasts."""
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{namespace}") as wanted:
        _enter(wanted.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def connect(
    namespace: str, address: object, port: int, source: str | None = None, mark: int = 0
) -> socket.socket:
    """mark: SO_MARK. Raises OSError."""
    family = socket.AF_INET6 if ip_address(str(address)).version == 6 else socket.AF_INET
    with inside(namespace):
        sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(LIMIT_S)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if source is not None:
            sock.bind((source, 0))
        sock.connect((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def name_of(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    return errno.errorcode.get(error.errno or 0, str(error))


def line(sock: socket.socket) -> str:
    """What comes up to a newline; "closed" or the error's name when the stream ends before."""
    data = b""
    try:
        while not data.endswith(b"\n"):
            more = sock.recv(1)
            if not more:
                return "closed"
            data += more
    except OSError as error:
        return name_of(error)
    return data.decode().strip()


def ask(
    namespace: str, address: object, port: int, source: str | None = None, mark: int = 0
) -> str:
    """Connects, returns the first line, or how it went wrong."""
    try:
        with connect(namespace, address, port, source, mark) as sock:
            return line(sock)
    except OSError as error:
        return name_of(error)


REFUSED = ("closed", "ECONNRESET")  # the listener takes the connection, then ends it


class Answerer:
    """A service on a host, v4 and v6: says its name and whom it sees, then echoes."""

    def __init__(self, namespace: str, name: str, port: int) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                seen = ip_address(self.client_address[0])
                seen = getattr(seen, "ipv4_mapped", None) or seen
                try:
                    self.request.sendall(f"{name} {seen}\n".encode())
                    while data := self.request.recv(65536):
                        self.request.sendall(data)
                except OSError:
                    pass  # the stream was ended from afar: what some tests want

        class Server(socketserver.ThreadingTCPServer):
            address_family = socket.AF_INET6
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 64

            def server_bind(self) -> None:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                super().server_bind()

        with inside(namespace):
            self._server = Server(("::", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class TlsClient:
    """A client of the mesh listener: a certificate (or none), an ALPN, and bytes as one likes."""

    def __init__(
        self,
        certificate: tuple[Path, Path] | None,
        alpn: Sequence[str] = link.ALPN,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE  # who the server is, other tests ask
        self.context.minimum_version = self.context.maximum_version = version
        if alpn:
            self.context.set_alpn_protocols(list(alpn))
        if certificate is not None:
            self.context.load_cert_chain(*map(str, certificate))

    def show(self, certificate: tuple[Path, Path]) -> None:
        """Another certificate from now on; sessions are kept."""
        self.context.load_cert_chain(*map(str, certificate))

    @contextmanager
    def open(
        self,
        namespace: str,
        address: object,
        port: int,
        sni: str | None = None,
        session: ssl.SSLSession | None = None,
        source: str | None = None,
    ) -> Iterator[ssl.SSLSocket]:
        """Raises OSError; ssl.SSLError is one."""
        with (
            connect(namespace, address, port, source) as plain,
            self.context.wrap_socket(plain, server_hostname=sni, session=session) as tls,
        ):
            yield tls

    def speak(
        self,
        namespace: str,
        address: object,
        port: int,
        sni: str | None = None,
        data: bytes = b"",
        session: ssl.SSLSession | None = None,
        source: str | None = None,
    ) -> Answer:
        """Sends data, reads the link reply."""
        try:
            with self.open(namespace, address, port, sni, session, source) as tls:
                if data:
                    tls.sendall(data)
                reply = _reply(tls)
                return Answer(reply, "", tls.session, bool(tls.session_reused))
        except OSError as error:
            return Answer(None, _alert(error))


class Answer:
    """What the mesh listener said: a link reply, or an error's name."""

    def __init__(
        self,
        reply: link.Reply | None,
        error: str,
        session: ssl.SSLSession | None = None,
        reused: bool = False,
    ) -> None:
        self.reply, self.error, self.session, self.reused = reply, error, session, reused

    def __repr__(self) -> str:
        return f"Answer({self.reply}, {self.error!r}, reused={self.reused})"

    @property
    def reason(self) -> int | None:
        """Of the reply; 0 = connected; None = there was none."""
        return self.reply.reason if self.reply is not None else None


def _reply(tls: ssl.SSLSocket) -> link.Reply | None:
    """None when the stream ends before one."""
    version = int((tls.selected_alpn_protocol() or "/2").rpartition("/")[2])
    data = b""
    while more := tls.recv(4096):
        data += more
        if found := link.decode_reply(data, version):
            return found[0]
    return None


def _alert(error: OSError) -> str:
    return error.reason or str(error) if isinstance(error, ssl.SSLError) else name_of(error)


def header(source: object, target: object, port: int, flow_id: bytes = bytes(range(16))) -> bytes:
    """A link header as an appliance or an agent sends it."""
    return link.encode_header(
        link.Header(ip_address(str(source)), 40_000, ip_address(str(target)), port, flow_id)
    )


def nft_counters(namespace: str) -> dict[str, int]:
    """Packets, by the counter's name."""
    listed = json.loads(
        sh("ip", "netns", "exec", namespace, "nft", "-j", "list", "counters", "table", "inet",
           "sluice")
    )  # fmt: skip
    found = [item["counter"] for item in listed["nftables"] if "counter" in item]
    return {each["name"]: each["packets"] for each in found}


def traces(namespace: str) -> str:
    """All of the network's state that a site or an agent could have changed, as tools print it."""
    commands = (
        "nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all",
        "ip -6 route show table all", "ip neigh show nud permanent",
        "ip -6 neigh show nud permanent",
    )  # fmt: skip
    return "\n".join(sh("ip", "netns", "exec", namespace, *each.split()) for each in commands)


def reset(sock: socket.socket) -> None:
    """Closes it with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def ended(sock: socket.socket) -> str:
    """Waits until the far side ends the stream; how it did."""
    try:
        while sock.recv(65536):
            pass
    except OSError as error:
        return name_of(error)
    return "closed"


def unprivileged(uid: int, *groups: int) -> tuple[str, ...]:
    """A setpriv line: that user and these groups."""
    own = str(groups[0] if groups else uid)
    more = ("--groups", ",".join(map(str, groups))) if groups else ("--clear-groups",)
    return ("setpriv", "--reuid", str(uid), "--regid", own, *more)
