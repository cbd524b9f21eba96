"""The listening sockets and the pipes that the data plane gets. Owns opening them, never reads.

The sockets stay open here for the supervisor's life and every data plane process gets duplicates
of the same ones: a connection that arrives while a process dies or is replaced waits in their
queues. (Binding anew with SO_REUSEPORT instead resets those that wait in the old queue.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from appliance.errors import ApplianceError, Conflict
from appliance.site import Address, Site

BACKLOG = 65_535  # the kernel lowers it to net.core.somaxconn
PIPE_BYTES = 1 << 20
PIPES_A_WORKER = 64
PIPES_MAX = 512  # of one process
_IPV6_TRANSPARENT = 75  # linux/in6.h
_IPV6_FREEBIND = 78
_IP_TRANSPARENT = 19  # linux/in.h
_IP_FREEBIND = 15
ANY = {int(socket.AF_INET): "0.0.0.0", int(socket.AF_INET6): "::"}


class Listeners:
    """Every listening socket of the box, by the name that the data plane knows it by."""

    def __init__(self, site: Site, workers: int) -> None:
        """Raises Conflict when somebody else listens there, ApplianceError otherwise."""
        ports = site.spec.ports
        self._held = ExitStack()
        self.by_name: dict[str, list[int]] = {}
        try:
            for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
                if family == socket.AF_INET6 and not _has_ipv6():
                    continue
                for name, port, transparent in (
                    ("transparent", ports.transparent, True),
                    ("mesh", ports.mesh, False),
                ):
                    self._refuse_shared(family, port)
                    for _ in range(workers):
                        self._listen(f"{name}{version}", family, ANY[family], port, transparent)
            for address in site.spec.hosts.addresses:
                self._dns(address, ports.dns)
        except BaseException:
            self._held.close()
            raise

    def close(self) -> None:
        self._held.close()

    def _listen(self, name: str, family: int, host: str, port: int, transparent: bool) -> None:
        sock = self._socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if transparent and family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        elif transparent:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        _bind(sock, host, port)
        sock.listen(BACKLOG)
        self._keep(name, sock)

    def _dns(self, address: Address, port: int) -> None:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        for name, kind in (("dns-udp", socket.SOCK_DGRAM), ("dns-tcp", socket.SOCK_STREAM)):
            sock = self._socket(family, kind)
            # The address may come later than we do: a link that is slow to come up.
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(sock, str(address), port)
            if kind == socket.SOCK_STREAM:
                sock.listen(BACKLOG)
            self._keep(name, sock)

    def _refuse_shared(self, family: int, port: int) -> None:
        """SO_REUSEPORT would let two appliances share a port in silence: find the other first."""
        with _new(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(probe, ANY[family], port)

    def _socket(self, family: int, kind: int) -> socket.socket:
        return self._held.enter_context(_new(family, kind))

    def _keep(self, name: str, sock: socket.socket) -> None:
        self.by_name.setdefault(name, []).append(sock.fileno())


class Pipes:
    """Empty pipes of 1 MiB for one process. An unprivileged user would get 64 and then small ones.

    Each process needs its own: bytes of the draining one may be in its pipes.
    """

    def __init__(self, workers: int) -> None:
        self._ends: list[int] = []
        try:
            for _ in range(min(workers * PIPES_A_WORKER, PIPES_MAX)):
                self._ends += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                fcntl.fcntl(self._ends[-1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:
            self.close()
            raise ApplianceError(
                f"pipes: {error.strerror}: raise the limit of open files (LimitNOFILE)"
            ) from error

    @property
    def ends(self) -> Sequence[int]:
        """read, write, read, write, …"""
        return self._ends

    def close(self) -> None:
        while self._ends:
            os.close(self._ends.pop())


def _new(family: int, kind: int) -> socket.socket:
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _bind(sock: socket.socket, host: str, port: int) -> None:
    try:
        sock.bind((host, port))
    except OSError as error:
        what = f"{host} port {port}"
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"{what} is in use: stop what listens there (ss -lntup)") from error
        raise ApplianceError(f"{what}: {error.strerror}: see spec.ports in site.yaml") from error


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
