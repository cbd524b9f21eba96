"""Keys that outlive the processes that use them. Owns making, keeping and rotating them.

They travel by descriptor, never by argument, environment or a file that another user can open:
memory files of mode 0400 that belong to root, handed on as read-only descriptions of their own
(each with its own offset).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from appliance.errors import ApplianceError

PUBLISH_KEY_BYTES = 32
TICKET_KEY_BYTES = 80  # name 16, AES-256 key 32, HMAC-SHA-256 key 32 (DP_TICKET_KEY_SIZE)
TICKET_KEYS = 4  # the newest seals, all open
TICKET_ROTATION_S = 8 * 3600.0  # so the oldest still opens a 24 h ticket


class MemoryFile:
    """Bytes of a fixed size that children may read."""

    def __init__(self, name: str, content: bytes) -> None:
        self._file = os.memfd_create(name, os.MFD_CLOEXEC)
        os.fchmod(self._file, 0o400)
        self._size = len(content)
        self.write(content)

    def write(self, content: bytes) -> None:
        assert len(content) == self._size
        os.pwrite(self._file, content, 0)

    def open(self) -> int:
        """A new read-only descriptor; the caller closes it."""
        return os.open(f"/proc/self/fd/{self._file}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._file)


class TicketKeys:
    """TLS session ticket keys of all workers and all data plane processes of this box."""

    def __init__(self) -> None:
        self._keys = [secrets.token_bytes(TICKET_KEY_BYTES) for _ in range(TICKET_KEYS)]
        self.file = MemoryFile("tickets", b"".join(self._keys))
        self.rotations = 0

    def rotate(self) -> None:
        """A new key seals; the oldest is forgotten. The processes must be told (SIGHUP)."""
        self._keys = [secrets.token_bytes(TICKET_KEY_BYTES), *self._keys[:-1]]
        self.file.write(b"".join(self._keys))
        self.rotations += 1


def publish_key(directory: Path) -> MemoryFile:
    """The key by which the data plane knows snapshots of this box's daemon, made at first start.

    Kept on disk (root, 0600): a snapshot saved before a reboot must verify after it.
    """
    path = directory / "publish.key"
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(PUBLISH_KEY_BYTES)
        _write_whole(path, key)
    if len(key) != PUBLISH_KEY_BYTES:
        raise ApplianceError(f"{path} is damaged: delete it and start again")
    return MemoryFile("publish-key", key)


def _write_whole(path: Path, content: bytes) -> None:
    """There after a crash wholly or not at all."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
