"""systemd's side of the agent: its unit, and mesh names in systemd-resolved.

Owns the two files it writes; touches nothing else. Only when systemd runs this host.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from appliance.agent.state import State, write

UNIT = Path("/etc/systemd/system/sluice-agent.service")
RESOLVED = Path("/etc/systemd/resolved.conf.d/sluice-agent.conf")
FILE = "sluice-agent"
TIMEOUT_S = 60

_UNIT = """\
[Unit]
Description=Sluice agent: this host's end of the mesh
After=network.target nftables.service

[Service]
ExecStart={python} {program} run --state {state}
ExecStopPost=-{python} {program} clean --state {state}
Restart=always
RestartSec=1
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ReadWritePaths={state}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


class ServiceFault(Exception):
    """One line that says what to do."""


def available() -> bool:
    return Path("/run/systemd/system").is_dir()


def _systemctl(*args: str) -> bool:
    run = subprocess.run(
        ("systemctl", *args), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    return run.returncode == 0


def unit(python: str, program: Path, state: Path) -> str:
    return _UNIT.format(python=python, program=program, state=state)


def install(program: Path, directory: Path) -> None:
    """Copies the agent beside its state, enables and starts the unit. Raises ServiceFault."""
    if not program.is_file():
        raise ServiceFault("the agent does not run from its file: use --no-service")
    copy = directory / FILE
    if program.resolve() != copy:
        write(copy, program.read_bytes(), 0o700)
    write(UNIT, unit(sys.executable, copy, directory).encode(), 0o644)
    if not (_systemctl("daemon-reload") and _systemctl("enable", "--now", UNIT.name)):
        raise ServiceFault(f"systemd does not start {UNIT.name}: see `systemctl status` of it")


def delegate_names(state: State) -> bool:
    """Mesh names to the appliance's DNS, all others as before. False without systemd-resolved."""
    if not _systemctl("is-active", "--quiet", "systemd-resolved"):
        return False
    RESOLVED.parent.mkdir(mode=0o755, exist_ok=True)
    domains = " ".join(f"~{zone}" for zone in state.zones)
    text = f"[Resolve]\nDNS={' '.join(state.dns)}\nDomains={domains}\n"
    write(RESOLVED, text.encode(), 0o644)
    return _systemctl("reload-or-restart", "systemd-resolved")


def remove() -> None:
    """Takes both files back. Fine when there are none."""
    if UNIT.exists():
        _systemctl("disable", "--now", UNIT.name)
        UNIT.unlink()
        _systemctl("daemon-reload")
    if RESOLVED.exists():
        RESOLVED.unlink()
        _systemctl("reload-or-restart", "systemd-resolved")
