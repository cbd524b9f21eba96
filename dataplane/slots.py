"""The last accepted snapshot on disk, so that a restart serves without the daemon.

Owns two files, opened once (the sandbox forbids later opens) and written in turn, so that one
whole snapshot is there whatever happens in the middle. During a hot restart two processes share
them under a lock. Holds leaf keys: the directory is 0700 and the files are 0600. Only whole
snapshots are kept, not later updates of single sets: after a crash without a daemon, endpoints'
health is that of the last snapshot, and ejection corrects it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataplane import seal
from dataplane.wire import BODY_BYTES_MAX

_MAGIC = b"SLUICE01"
# magic, version, body's length, body's mac; then the mac of these
_HEAD = struct.Struct("<8sQQ32s")
_HEAD_BYTES = _HEAD.size + seal.MAC_BYTES


@dataclass(frozen=True, slots=True)
class Kept:
    version: int
    body: bytes
    mac: bytes


@dataclass(frozen=True, slots=True)
class _Head:
    version: int
    length: int
    mac: bytes


class Slots:
    """Blocking file work: call it from a thread. Raises OSError."""

    def __init__(self, directory: Path, key: bytes) -> None:
        self._key = key
        self._files: list[int] = []
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            for number in (0, 1):
                self._files.append(os.open(directory / f"snapshot.{number}", flags, 0o600))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())

    def load(self) -> Iterator[Kept]:
        """Snapshots that verify, newest first."""
        with self._locked():
            heads = [(head, file) for file in self._files if (head := self._head(file))]
            found = [self._kept(head, file) for head, file in heads]
        yield from sorted((k for k in found if k), key=lambda kept: kept.version, reverse=True)

    def write(self, version: int, body: bytes, mac: bytes) -> bool:
        """Keeps it on disk; False = one at least as new is there (another process wrote it).

        A full disk raises and leaves what was there.
        """
        with self._locked():
            heads = [self._head(file) for file in self._files]
            versions = [head.version if head else 0 for head in heads]
            if max(versions) >= version:
                return False
            file = self._files[versions.index(min(versions))]
            os.posix_fallocate(file, 0, _HEAD_BYTES + len(body))
            # Without a head while the body is in the making; the head only once it is on disk.
            _write(file, bytes(_HEAD_BYTES), 0)
            os.fdatasync(file)
            _write(file, body, _HEAD_BYTES)
            os.ftruncate(file, _HEAD_BYTES + len(body))
            os.fsync(file)
            head = _HEAD.pack(_MAGIC, version, len(body), mac)
            _write(file, head + seal.mac(self._key, "slot", head), 0)
            os.fdatasync(file)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._files[0], fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._files[0], fcntl.LOCK_UN)

    def _head(self, file: int) -> _Head | None:
        data = os.pread(file, _HEAD_BYTES, 0)
        if len(data) < _HEAD_BYTES:
            return None
        head = data[: _HEAD.size]
        if not seal.verify(self._key, "slot", head, data[_HEAD.size :]):
            return None
        magic, version, length, mac = _HEAD.unpack(head)
        return _Head(version, length, mac) if magic == _MAGIC and length <= BODY_BYTES_MAX else None

    def _kept(self, head: _Head, file: int) -> Kept | None:
        body = _read(file, head.length, _HEAD_BYTES)
        if len(body) != head.length or not seal.verify(self._key, "snapshot", body, head.mac):
            return None
        return Kept(head.version, body, head.mac)


def _write(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def _read(file: int, length: int, at: int) -> bytes:
    parts: list[bytes] = []
    while length and (part := os.pread(file, length, at)):
        parts.append(part)
        length, at = length - len(part), at + len(part)
    return b"".join(parts)
