"""`sluice ca …` against a running CA: what an admin sees and types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.unit.appliance.ca.test_ca_process import WEB, running


def sluice(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance.cli", "--run", str(directory / "run")]
    return subprocess.run(
        [*command, "ca", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_approve_list_withdraw_and_audit(tmp_path: Path) -> None:
    with running(tmp_path, we_are_the_daemon=False):
        assert "No identity" in sluice(tmp_path, "list").stdout
        assert sluice(tmp_path, "approve", WEB, "--grade", "l2").returncode == 0
        listed = json.loads(sluice(tmp_path, "list", "-o", "json").stdout)
        assert [(a["spiffe_id"], a["max_grade"]) for a in listed] == [(WEB, "l2")]
        assert "web" in sluice(tmp_path, "list").stdout
        assert sluice(tmp_path, "withdraw", WEB).returncode == 0
        again = sluice(tmp_path, "withdraw", WEB)
        assert again.returncode == 3
        assert again.stderr == f"sluice: {WEB} is not approved\n"
        assert sluice(tmp_path, "approve", "nonsense").returncode == 2
        audit = json.loads(sluice(tmp_path, "audit", "-o", "json").stdout)
        assert [e["what"] for e in audit][-2:] == ["withdraw", "approve"]
        assert "BEGIN CERTIFICATE" in sluice(tmp_path, "bundle").stdout
        info = json.loads(sluice(tmp_path, "info", "-o", "json").stdout)
        assert len(info["pin"]) == 32
        missing = sluice(tmp_path, "import", "--key", "/nonexistent", "--chain", "/nonexistent")
        assert missing.returncode == 2
        assert "/nonexistent" in missing.stderr


def test_the_daemons_user_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, we_are_the_daemon=True):
        refused = sluice(tmp_path, "approve", WEB)
        assert refused.returncode == 5
        assert "the daemon may not approve" in refused.stderr
