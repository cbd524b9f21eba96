"""Captures frames on one interface of this network namespace into a pcap file, until SIGTERM.

Run inside the namespace: python -m appliance.demo.capture INTERFACE FILE SECONDS_MAX. Prints
`ready`, and at the end `frames N dropped N`; a drop is the kernel's own count (PACKET_STATISTICS,
packet(7)), so that an audit of an incomplete capture can say so.
"""

from __future__ import annotations

import select
import signal
import socket
import struct
import sys
import time
from types import FrameType

from scapy.utils import RawPcapWriter

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 256 << 20
FRAME_BYTES_MAX = 262_144


def capture(interface: str, file: str, seconds_max: float) -> tuple[int, int]:
    """Returns (frames written, frames the kernel dropped)."""
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    frames = 0
    writer = RawPcapWriter(file, linktype=1, sync=False)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        sock.bind((interface, ETH_P_ALL))
        sock.setblocking(False)
        print("ready", flush=True)
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            if not select.select([sock], [], [], 0.2)[0]:
                if stopped:
                    break
                continue
            data = sock.recv(FRAME_BYTES_MAX)
            writer.write(data)
            frames += 1
        dropped = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
    writer.close()
    return frames, dropped


if __name__ == "__main__":
    counted, lost = capture(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    print(f"frames {counted} dropped {lost}", flush=True)
