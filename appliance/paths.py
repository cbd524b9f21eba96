"""Where things are on the box. Owns the names; makes nothing (the supervisor does).

state/ survives reboots, run/ does not. Each process's directory belongs to its own user, 0700
in state/; see the table in ARCHITECTURE.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

SITE_FILE = Path("/etc/sluice/site.yaml")
STATE = Path("/var/lib/sluice")
RUN = Path("/run/sluice")
_CHECKOUT = Path(__file__).resolve().parents[1] / "firmware-config"


def shipped(folder: str) -> Path:
    """A folder of firmware-config: the checkout's, or where the package's installation put it."""
    return (_CHECKOUT if _CHECKOUT.is_dir() else Path(sys.prefix) / "share" / "sluice") / folder


@dataclass(frozen=True, slots=True)
class Paths:
    state: Path = STATE
    run: Path = RUN

    @property
    def daemon_state(self) -> Path:
        """user sluice, 0700: state.db"""
        return self.state / "daemon"

    @property
    def database(self) -> Path:
        return self.daemon_state / "state.db"

    @property
    def ca_state(self) -> Path:
        """user sluice-ca, 0700: the CA key and its table of approvals"""
        return self.state / "ca"

    @property
    def dataplane_state(self) -> Path:
        """user sluice-dp, 0700: two slots for the last accepted snapshot"""
        return self.state / "dataplane"

    @property
    def supervisor_state(self) -> Path:
        """root, 0700: the key that authenticates snapshots"""
        return self.state / "supervisor"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor" / "supervisor.sock"

    @property
    def daemon_run(self) -> Path:
        return self.run / "daemon"

    @property
    def admin_socket(self) -> Path:
        """Anyone may connect; peer credentials decide what they may do."""
        return self.daemon_run / "admin.sock"

    @property
    def ca_run(self) -> Path:
        return self.run / "ca"

    @property
    def ca_socket(self) -> Path:
        """Anyone may connect; peer credentials decide: sign (daemon), approve (admin group)."""
        return self.ca_run / "ca.sock"

    @property
    def dataplane_run(self) -> Path:
        """user sluice-dp, group sluice, 0750: one dp-<generation>.sock a process"""
        return self.run / "dataplane"
