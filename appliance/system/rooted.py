"""Asking the supervisor for what only root may do. Owns the daemon's end of its socket.

One request a connection: calls are rare, and a supervisor that was started anew is found again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from appliance.errors import BY_CODE, ApplianceError, Unavailable

ANSWER_BYTES_MAX = 256 << 10


class SupervisorClient:
    def __init__(self, path: Path) -> None:
        """path: paths.supervisor_socket"""
        self._path = path

    async def call(self, verb: str, timeout_s: float = 120.0, **arguments: Any) -> dict[str, Any]:
        """The answer without its "ok". Raises the ApplianceError that the supervisor answered
        with, or Unavailable."""
        loop = asyncio.get_running_loop()
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            async with asyncio.timeout(timeout_s):
                with socket.socket(socket.AF_UNIX, kind) as sock:
                    await loop.sock_connect(sock, str(self._path))
                    with contextlib.suppress(BrokenPipeError):  # refused unheard: it says why
                        request = json.dumps({"verb": verb, **arguments}).encode()
                        await loop.sock_sendall(sock, request)
                    packet = await loop.sock_recv(sock, ANSWER_BYTES_MAX)
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"the supervisor does not answer at {self._path}: is `sluice up` running?"
            ) from error
        if not packet:
            raise Unavailable(f"the supervisor hung up on {verb}")
        answer: dict[str, Any] = json.loads(packet)
        if not answer.pop("ok"):
            raise BY_CODE.get(answer.get("code", ""), ApplianceError)(answer.get("error", verb))
        return answer
