"""The daemon's two listeners by mTLS, the admin API and peering: who is let in by which leaf.

The caller stands on the link, with leaves that the test signs with the sites' own CA keys.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from appliance.ca.issue import Authority
from appliance.demo.topology import CHECKOUT
from tests.netns.helpers import run
from tests.netns.mesh import Mesh

CALL = """
import asyncio, json, sys
import grpc
from appliance.api._gen import admin_pb2, admin_pb2_grpc, peering_pb2_grpc

async def one(call):
    try:
        await asyncio.wait_for(call, 20)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"

async def read(stub):
    async def nothing_yet():
        await asyncio.Event().wait()
        yield

    async for _ in stub.Converse(nothing_yet()):
        return

async def main(target, name, roots, *files):
    if files:
        chain, key = (open(file, "rb").read() for file in files)
        shown = grpc.ssl_channel_credentials(open(roots, "rb").read(), key, chain)
    else:
        shown = grpc.ssl_channel_credentials(open(roots, "rb").read())
    options = (("grpc.ssl_target_name_override", name), ("grpc.enable_http_proxy", 0))
    async with grpc.aio.secure_channel(target, shown, options=options) as channel:
        if target.endswith(":15011"):
            stub = admin_pb2_grpc.AdminStub(channel)
            said = [await one(stub.GetStatus(admin_pb2.GetStatusRequest())),
                    await one(stub.Confirm(admin_pb2.ConfirmRequest()))]
        else:
            said = [await one(read(peering_pb2_grpc.PeeringStub(channel)))]
    print(json.dumps(said))

asyncio.run(main(*sys.argv[1:]))
"""
LET_IN_BUT_NOTHING_WAITS = "FAILED_PRECONDITION"


def call(mesh: Mesh, port: int, roots: Path, shown: tuple[Path, ...]) -> list[str]:
    """From site a's place on the link to site b; the statuses of what was asked."""
    site = mesh.a
    done = run(
        site.command("/usr/bin/env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-c", CALL,
                     f"{mesh.b.mesh[0]}:{port}", "edge-b.sluice.b.example", str(roots),
                     *map(str, shown)),
        cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads(done.stdout)
    return said


def shown(
    mesh: Mesh, directory: Path, authority: Authority, spiffe_id: str | None, age_s: int = 0
) -> tuple[tuple[Path, ...], Path]:
    """The files to show, and site b's CA."""
    roots = directory / "roots.pem"
    roots.write_text(mesh.authority(mesh.b).bundle_pem)
    if spiffe_id is None:
        return (), roots
    made = mesh.forge(
        authority, spiffe_id, directory, grade=None, now=time.time() - age_s, ttl_s=60
    )
    return made.files, roots


@pytest.mark.parametrize(
    ("ca", "identity", "says"),
    [
        ("b", "spiffe://b.example/sluice/admin/eve", ["OK", LET_IN_BUT_NOTHING_WAITS]),
        ("b", "spiffe://b.example/sluice/viewer/vic", ["OK", "PERMISSION_DENIED"]),
        ("b", "spiffe://b.example/ns/default/sa/payments", ["PERMISSION_DENIED"] * 2),
        ("b", "spiffe://b.example/sluice/appliance/edge-b", ["PERMISSION_DENIED"] * 2),
        ("b", "spiffe://b.example/sluice/admin/", ["PERMISSION_DENIED"] * 2),
        ("b", "spiffe://b.example/sluice/admin/eve/x", ["PERMISSION_DENIED"] * 2),
        ("b", "spiffe://a.example/sluice/admin/eve", ["PERMISSION_DENIED"] * 2),
        ("a", "spiffe://a.example/sluice/admin/eve", ["UNAVAILABLE"] * 2),
        ("a", "spiffe://b.example/sluice/admin/eve", ["UNAVAILABLE"] * 2),
        ("b", None, ["UNAVAILABLE"] * 2),
    ],
)
def test_the_admin_api(
    mesh: Mesh, tmp_path: Path, ca: str, identity: str | None, says: list[str]
) -> None:
    authority = mesh.authority(mesh.topology.sites[ca])
    files, roots = shown(mesh, tmp_path, authority, identity)
    assert call(mesh, mesh.b.site.spec.ports.admin, roots, files) == says


def test_an_admins_certificates_are_revoked_by_name(mesh: Mesh, tmp_path: Path) -> None:
    def made(out: Path) -> list[str]:
        done = mesh.cli(mesh.b, "ca", "admin", "eve", "--out", str(out))
        assert done.returncode == 0, done.stderr
        files = (out / "chain.pem", out / "key.pem")
        return call(mesh, mesh.b.site.spec.ports.admin, out / "bundle.pem", files)

    let_in = ["OK", LET_IN_BUT_NOTHING_WAITS]
    assert made(tmp_path / "first") == let_in
    assert made(tmp_path / "second") == let_in
    refused = mesh.cli(mesh.b, "ca", "admin", "eve", "--viewer", "--out", str(tmp_path / "first"))
    assert (refused.returncode, "name another folder" in refused.stderr) == (4, True)

    done = mesh.cli(mesh.b, "ca", "revoke-admin", "eve")
    assert (done.returncode, done.stdout) == (
        0,
        "2 certificates of eve are refused from now on.\n",
    )
    files = tuple(tmp_path / "second" / name for name in ("chain.pem", "key.pem"))
    roots = tmp_path / "second" / "bundle.pem"
    said = call(mesh, mesh.b.site.spec.ports.admin, roots, files)
    assert said == ["PERMISSION_DENIED"] * 2
    assert made(tmp_path / "first") == let_in  # anew, into the same folder
    assert mesh.cli(mesh.b, "ca", "revoke-admin", "nobody").returncode == 3


def test_an_admins_leaf_that_ran_out(mesh: Mesh, tmp_path: Path) -> None:
    admin = "spiffe://b.example/sluice/admin/eve"
    files, roots = shown(mesh, tmp_path, mesh.authority(mesh.b), admin, age_s=120)
    assert call(mesh, mesh.b.site.spec.ports.admin, roots, files) == ["UNAVAILABLE"] * 2


@pytest.mark.parametrize(
    ("ca", "identity", "says"),
    [
        ("a", "spiffe://a.example/ns/default/sa/web", "PERMISSION_DENIED"),
        ("a", "spiffe://a.example/sluice/appliance/edge-z", "PERMISSION_DENIED"),
        ("a", "spiffe://b.example/sluice/appliance/edge-b", "PERMISSION_DENIED"),
        ("b", "spiffe://b.example/sluice/appliance/edge-b", "UNAVAILABLE"),
        ("b", "spiffe://a.example/sluice/appliance/edge-a", "UNAVAILABLE"),
        ("a", None, "UNAVAILABLE"),
    ],
)
def test_peering_is_for_the_appliance_that_joined(
    mesh: Mesh, tmp_path: Path, ca: str, identity: str | None, says: str
) -> None:
    authority = mesh.authority(mesh.topology.sites[ca])
    files, roots = shown(mesh, tmp_path, authority, identity)
    before = mesh.counter(mesh.b, "peering_refused")
    assert call(mesh, mesh.b.site.spec.ports.peering, roots, files) == [says]
    if says == "PERMISSION_DENIED":
        assert mesh.counter(mesh.b, "peering_refused") == before + 1
    assert mesh.status(mesh.b).peers_connected == 1
