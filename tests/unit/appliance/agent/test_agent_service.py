"""The agent's systemd unit: systemd understands it, and it grants no more than is needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.agent import service
from appliance.agent.service import ServiceFault


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "sluice-agent"
    program.write_text("")
    path = tmp_path / "sluice-agent.service"
    path.write_text(service.unit("/usr/bin/python3", program, tmp_path))
    run = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    assert "sluice-agent.service" not in run.stderr, run.stderr


def test_the_unit_runs_from_its_state_and_has_one_capability() -> None:
    text = service.unit("/usr/bin/python3", Path("/s/sluice-agent"), Path("/s"))
    assert "ExecStart=/usr/bin/python3 /s/sluice-agent run --state /s\n" in text
    assert "CapabilityBoundingSet=CAP_NET_ADMIN\n" in text
    assert "ReadWritePaths=/s\n" in text
    assert "{" not in text


def test_an_agent_without_a_file_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(ServiceFault, match="--no-service"):
        service.install(tmp_path / "missing", tmp_path)
    assert list(tmp_path.iterdir()) == []
