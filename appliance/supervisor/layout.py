"""The directories of paths.py with their owners and modes, and the lock that says "running".

Owns making them; what is inside belongs to their users and is never touched, but for stale
sockets and the factory reset.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import ApplianceError, Conflict
from appliance.paths import Paths
from appliance.site import Users


def _table(paths: Paths, users: Users) -> tuple[tuple[Path, int, int, int], ...]:
    """Directory, owner, group, mode; parents first."""
    return (
        (paths.state, 0, 0, 0o755),
        (paths.supervisor_state, 0, 0, 0o700),
        (paths.daemon_state, users.daemon, users.daemon, 0o700),
        (paths.ca_state, users.ca, users.ca, 0o700),
        (paths.dataplane_state, users.dataplane, users.dataplane, 0o700),
        (paths.run, 0, 0, 0o755),
        (paths.supervisor_socket.parent, 0, 0, 0o755),
        (paths.daemon_run, users.daemon, users.daemon, 0o755),
        (paths.ca_run, users.ca, users.ca, 0o755),
        (paths.dataplane_run, users.dataplane, users.daemon, 0o750),
    )


def make(paths: Paths, users: Users) -> None:
    """Makes what is missing and puts owners and modes right. Raises ApplianceError."""
    for path, uid, gid, mode in _table(paths, users):
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise ApplianceError(f"{path} is not a directory: move it away")
            os.chown(path, uid, gid, follow_symlinks=False)
            path.chmod(mode)
        except OSError as error:
            raise ApplianceError(f"{path}: {error.strerror}: run as root") from error


@contextmanager
def lock(paths: Paths) -> Iterator[None]:
    """Held while a supervisor runs on this run directory. Raises Conflict."""
    file = os.open(paths.supervisor_socket.parent / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"`sluice up` runs already on {paths.run}") from None
        # Sockets that an earlier run left when it was killed.
        for stale in (paths.supervisor_socket, *paths.dataplane_run.glob("dp-*.sock")):
            stale.unlink(missing_ok=True)
        yield
    finally:
        os.close(file)


def wipe(paths: Paths) -> None:
    """Factory reset: everything below the state directory. The children must have ended."""
    for directory in (
        paths.daemon_state,
        paths.ca_state,
        paths.dataplane_state,
        paths.supervisor_state,
    ):
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
