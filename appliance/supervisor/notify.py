"""systemd's notification protocol (sd_notify(3)) by plain socket. Silent when there is none."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Sends e.g. "READY=1", "STATUS=serving". Never fails: systemd's absence is no problem."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError:
        pass


def watchdog_interval_s() -> float | None:
    """How often to send "WATCHDOG=1": half of what systemd allows, or None when it does not ask."""
    text = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not text.isdigit() or int(text) == 0 or pid != str(os.getpid()):
        return None
    return int(text) / 2_000_000
