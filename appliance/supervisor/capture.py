"""A bounded packet capture into a file. Owns the raw socket; looks at no packet.

Packets go as they came, with their times, into a classic pcap file (LINKTYPE_ETHERNET) that the
admin group may read. One capture at a time; the file of the last one is replaced.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from pathlib import Path

from appliance.errors import ApplianceError, Conflict

BYTES_MAX = 64 << 20
SNAP_BYTES = 65_535
BURST = 64  # packets before the loop has its turn again
_ETH_P_ALL = 0x0003
_LINKTYPE_ETHERNET = 1
_MAGIC_NANOSECONDS = 0xA1B23C4D

_running = asyncio.Lock()


async def capture(interface: str, path: Path, *, seconds: int, bytes_max: int, group: int) -> int:
    """Returns the number of packets. Raises Conflict while another capture runs."""
    if _running.locked():
        raise Conflict("a capture runs already: wait for its end")
    async with _running:
        try:
            return await _capture(interface, path, seconds, bytes_max, group)
        except OSError as error:
            raise ApplianceError(f"capture on {interface}: {error.strerror}") from error


async def _capture(interface: str, path: Path, seconds: int, bytes_max: int, group: int) -> int:
    file = _replace(path)
    ended = asyncio.get_running_loop().create_future()
    packets, written = 0, 24

    def take() -> None:
        nonlocal packets, written
        for _ in range(BURST):
            try:
                packet = sock.recv(SNAP_BYTES)
            except BlockingIOError:
                return
            except OSError as error:  # the interface went down
                if not ended.done():
                    ended.set_exception(error)
                return
            whole, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
            head = struct.pack("=IIII", whole, nanoseconds, len(packet), len(packet))
            if written + len(head) + len(packet) > bytes_max:
                if not ended.done():
                    ended.set_result(None)
                return
            os.write(file, head + packet)
            packets, written = packets + 1, written + len(head) + len(packet)

    try:
        os.fchown(file, 0, group)
        os.fchmod(file, 0o640)
        os.write(
            file,
            struct.pack("=IHHiIII", _MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAP_BYTES, _LINKTYPE_ETHERNET),
        )
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL)) as sock:
            sock.bind((interface, _ETH_P_ALL))
            asyncio.get_running_loop().add_reader(sock, take)
            try:
                async with asyncio.timeout(seconds):
                    await ended
            except TimeoutError:
                pass
            finally:
                asyncio.get_running_loop().remove_reader(sock)
    finally:
        os.close(file)
    return packets


def _replace(path: Path) -> int:
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
