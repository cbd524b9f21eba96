"""The CA as a process of its own, asked over its real socket with real peer credentials."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.ca.client import CaClient
from appliance.errors import Denied, InvalidInput, Unavailable
from appliance.paths import Paths
from dataplane.snapshot import Grade

WEB = "spiffe://a.example/ns/default/sa/web"
SITE = """
apiVersion: sluice.dev/v1
kind: Site
metadata: {{name: a}}
spec:
  trustDomain: a.example
  appliance: gw
  hosts: {{interfaces: [eth0], addresses: [198.18.0.1]}}
  mesh: {{addresses: [198.18.255.1]}}
  users: {{daemon: {daemon}, adminGroup: {admin_group}}}
"""


def csr() -> bytes:
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.DER)


@contextmanager
def running(
    directory: Path, *, we_are_the_daemon: bool
) -> Iterator[tuple[Paths, subprocess.Popen[bytes]]]:
    """The same uid cannot be daemon and admin, so a test says which of them it is."""
    paths = Paths(directory / "state", directory / "run")
    for path in (paths.ca_state, paths.ca_run):
        path.mkdir(parents=True, exist_ok=True)
    daemon = os.getuid() if we_are_the_daemon else os.getuid() + 1
    site = directory / "site.yaml"
    site.write_text(SITE.format(daemon=daemon, admin_group=os.getgid()))
    read, write = os.pipe()
    command = [sys.executable, "-m", "appliance.ca", "--site", str(site)]
    command += ["--state", str(paths.state), "--run", str(paths.run)]
    process = subprocess.Popen(
        command,
        pass_fds=[write],
        env={**os.environ, "SLUICE_FDS": f"ready={write}"},
        stderr=subprocess.PIPE,
    )
    os.close(write)
    try:
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
        if said != b"ready\n":
            process.kill()
            raise AssertionError(process.communicate()[1].decode())
        yield paths, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == 0, errors.decode()


async def test_an_admin_approves_then_the_daemon_signs(tmp_path: Path) -> None:
    with running(tmp_path, we_are_the_daemon=False) as (paths, _):
        async with CaClient(paths.ca_socket) as ca:
            await ca.approve(WEB, Grade.L2)
            assert [(a.spiffe_id, a.max_grade) for a in await ca.approvals()] == [(WEB, Grade.L2)]
            with pytest.raises(Denied, match="the daemon does that"):
                await ca.sign(csr(), WEB, Grade.L2, 3600)
            assert (await ca.info()).counters["refused_sign"] == 1
            assert [e.what for e in await ca.audit()] == ["refused sign", "approve"]
            pin = (await ca.info()).pin
    with running(tmp_path, we_are_the_daemon=True) as (paths, _):
        async with CaClient(paths.ca_socket) as ca:
            assert (await ca.info()).pin == pin  # the key and the table survived
            signed = await ca.sign(csr(), WEB, Grade.L2, 3600)
            anchor = x509.load_pem_x509_certificate((await ca.bundle()).encode())
            leaf = x509.load_pem_x509_certificate(signed.chain_pem.encode())
            leaf.verify_directly_issued_by(anchor)
            with pytest.raises(Denied, match="up to grade l2"):
                await ca.sign(csr(), WEB, None, 3600)
            with pytest.raises(Denied, match="not approved"):
                await ca.sign(csr(), WEB + "2", Grade.L3, 3600)
            with pytest.raises(Denied, match="may not approve"):
                await ca.approve(WEB, Grade.KEY)
            with pytest.raises(InvalidInput):
                await ca.sign(b"garbage", WEB, Grade.L2, 3600)


async def test_the_client_finds_a_restarted_ca(tmp_path: Path) -> None:
    client = CaClient(Paths(tmp_path / "state", tmp_path / "run").ca_socket)
    async with client:
        with running(tmp_path, we_are_the_daemon=True) as (_, process):
            assert await client.bundle()
            assert _network_sockets(process.pid) == []
        async with CaClient(client._path, timeout_s=0.3) as hasty:
            with pytest.raises(Unavailable):
                await hasty.bundle()
        with running(tmp_path, we_are_the_daemon=True):
            assert await client.bundle()


def _network_sockets(pid: int) -> list[str]:
    """Lines of the kernel's tables of IP sockets that the process holds."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    assert inodes, "it listens on a Unix socket at least"
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        path = Path(f"/proc/{pid}/net/{table}")
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        found += [line for line in lines if line.split()[9] in inodes]
    return found


def test_a_site_that_is_not_its_own_ends_it_with_one_line(tmp_path: Path) -> None:
    with running(tmp_path, we_are_the_daemon=True):
        pass
    site = tmp_path / "site.yaml"
    site.write_text(site.read_text().replace("a.example", "b.example"))
    command = [sys.executable, "-m", "appliance.ca", "--site", str(site)]
    command += ["--state", str(tmp_path / "state"), "--run", str(tmp_path / "run")]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "does not change" in run.stderr
