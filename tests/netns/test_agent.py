"""The agent as it is shipped: one file, the system's Python, real nftables.

this namespace (its own, made for the test):
  program → 198.19.0.7:80 ⇒ nftables ⇒ agent → mTLS → mesh listener here
                                       agent ← HTTPS → enrolment server here
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from appliance.agent import contexts, intercept, link
from appliance.agent.build import agent_file, agent_sha256, join_line, sources
from appliance.agent.listen import Listeners
from appliance.agent.state import Directory, empty
from appliance.agent.tls import PlainLeg, TlsLeg
from appliance.enroll import credentials
from tests.unit.appliance.enroll.fakes import Need, Site1, running_site

PYTHON = "/usr/bin/python3"
CLONE_NEWNET = 0x40000000
LIMIT_S = 30
VIPS = ("198.19.0.7", "fd53:6c75:6963:6500::7")


def sh(*args: str) -> str:
    return subprocess.run(args, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def network() -> Iterator[None]:
    """This process is in a network namespace of its own, with a route to everywhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as before:
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            sh("ip", "link", "set", "lo", "up")
            sh("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
            for link_name in ("d0", "d1"):
                # No address of its own, whose route would come at some time later.
                sh("ip", "link", "set", link_name, "addrgenmode", "none", "up")
            sh("ip", "addr", "add", "198.18.0.5/24", "dev", "d0")
            sh("ip", "addr", "add", "fd00::5/64", "dev", "d0", "nodad")
            sh("nft", "add table inet other { chain c { tcp dport 22 accept; }; }")
            yield
        finally:
            libc.setns(before.fileno(), CLONE_NEWNET)


def default_routes() -> None:
    sh("ip", "route", "add", "default", "dev", "d0")
    sh("ip", "-6", "route", "add", "default", "dev", "d0")


class Shipped:
    """The single-file agent and its state, run as a host would."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "sluice-agent"
        self.file.write_bytes(agent_file())
        self.state = directory / "state"

    def command(self, *args: str) -> list[str]:
        return [PYTHON, "-I", str(self.file), *args, "--state", str(self.state)]

    async def call(self, *args: str, given: str = "") -> tuple[int, str]:
        """Exit code and what it said."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*args),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(given.encode()), LIMIT_S)
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def join(self, site: Site1, text: str) -> None:
        returned, said = await self.call("join", site.address, "--no-service", given=text + "\n")
        assert returned == 0, said
        assert "joined as spiffe://a.example/ns/default/sa/db" in said

    @asynccontextmanager
    async def running(self, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *self.command("run", *args), stderr=subprocess.PIPE
        )
        try:
            await self.says(process, "serving as")
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.wait(), LIMIT_S)

    @staticmethod
    async def says(process: asyncio.subprocess.Process, text: str) -> None:
        """Waits for a line of its log."""
        assert process.stderr is not None
        lines = []
        try:
            async with asyncio.timeout(LIMIT_S):
                while line := (await process.stderr.readline()).decode():
                    lines.append(line)
                    if text in line:
                        return
        except TimeoutError:
            pass  # what it said instead is what one wants to see
        raise AssertionError(f"no {text!r} in {lines}")


@pytest.fixture
async def site(network: None, tmp_path: Path) -> AsyncIterator[Site1]:
    async with running_site(tmp_path / "a", agent=agent_file()) as running:
        yield running


@pytest.fixture
def shipped(tmp_path: Path) -> Shipped:
    return Shipped(tmp_path)


@asynccontextmanager
async def mesh_listener(site: Site1, directory: Path) -> AsyncIterator[list[link.Header]]:
    """The appliance's: answers each stream with what came, upper case."""
    own = Need("own", site.site.appliance_id, None)
    leaf = (await credentials.obtain(site.ca, own, 3600)).leaf
    kept = Directory(directory)
    kept.make()
    kept.leaf.write_text(leaf.chain_pem)
    kept.key.write_text(leaf.key_pem)
    seen: list[link.Header] = []

    async def accepted(sock: socket.socket) -> None:
        leg = TlsLeg(sock, context, server_side=True)
        await leg.handshake()
        data = b""
        while (found := link.decode_header(data)) is None:
            data += await leg.read()
        header, used = found
        seen.append(header)
        await leg.write(link.encode_reply(link.Reply(link.CONNECTED, header.flow_id), 2))
        data = data[used:]
        while more := await leg.read():
            data += more
        await leg.write(data.upper())
        await leg.write_eof()
        leg.close()

    context = contexts.server(kept, replace(empty("", 0), bundle_pem=site.bundle_pem))
    listeners = Listeners("mesh", accepted, Counter())
    listeners.open("127.0.0.1", site.site.spec.ports.mesh)
    yield seen
    await listeners.close()


async def ask(address: str, data: bytes) -> bytes:
    sock = await asyncio.to_thread(socket.create_connection, (address, 80), LIMIT_S)
    leg = PlainLeg(sock)
    await leg.write(data)
    await leg.write_eof()
    parts = []
    while more := await asyncio.wait_for(leg.read(), LIMIT_S):
        parts.append(more)
    leg.close()
    return b"".join(parts)


async def test_join_run_leave(site: Site1, shipped: Shipped, tmp_path: Path) -> None:
    default_routes()
    before = sh("nft", "list", "ruleset")
    await shipped.join(site, site.add_host())
    assert shipped.state.stat().st_mode & 0o777 == 0o700
    async with mesh_listener(site, tmp_path / "mesh") as seen, shipped.running() as process:
        assert intercept.TABLE in sh("nft", "list", "ruleset")
        for vip in VIPS:
            assert await ask(vip, b"question " * 30_000) == b"QUESTION " * 30_000
        assert [str(h.target) for h in seen] == list(VIPS)
        assert all(h.target_port == 80 for h in seen)
        returned, said = await shipped.call("status")
        assert returned == 0
        assert json.loads(said)["identity"] == "spiffe://a.example/ns/default/sa/db"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), LIMIT_S) == 0
    assert sh("nft", "list", "ruleset") == before
    assert (await shipped.call("leave"))[0] == 0
    assert not shipped.state.exists()
    assert sh("nft", "list", "ruleset") == before


async def test_a_killed_agent_leaves_what_clean_takes_back(site: Site1, shipped: Shipped) -> None:
    def traces() -> str:
        return sh("nft", "list", "ruleset") + sh("ip", "route") + sh("ip", "-6", "route")

    before = traces()
    await shipped.join(site, site.add_host())
    kept = Directory(shipped.state)  # it finds a next hop, but no listener there
    kept.save(replace(kept.load(), mesh=(("198.18.0.1", 15008), ("fd00::1", 15008))), None)
    async with shipped.running() as process:
        process.kill()
        await process.wait()
    assert traces() != before
    async with shipped.running():  # starts over it
        assert sh("nft", "list", "ruleset").count(f"table inet {intercept.TABLE}") == 1
    assert traces() == before
    assert (await shipped.call("clean"))[0] == 0  # nothing there is fine
    assert traces() == before


async def test_it_serves_from_disk_without_the_appliance_and_renews_when_it_is_back(
    site: Site1, shipped: Shipped, tmp_path: Path
) -> None:
    default_routes()
    await shipped.join(site, site.add_host())
    kept = Directory(shipped.state)
    first = x509.load_pem_x509_certificate(kept.leaf.read_bytes()).serial_number
    state = kept.load()
    nowhere = replace(state, enrol_port=1, renew_at=0.0)
    kept.save(nowhere, None)
    async with mesh_listener(site, tmp_path / "mesh"), shipped.running() as process:
        await shipped.says(process, "cannot renew")
        assert await ask(VIPS[0], b"still here") == b"STILL HERE"
    kept.save(replace(state, renew_at=0.0), None)
    async with shipped.running() as process:
        await shipped.says(process, "renewed until")
        assert x509.load_pem_x509_certificate(kept.leaf.read_bytes()).serial_number != first
        assert kept.load().renew_at > state.not_after - 86_400


async def test_a_lapsed_leaf_is_renewed_by_the_enrolled_key(site: Site1, shipped: Shipped) -> None:
    await shipped.join(site, site.add_host())
    kept = Directory(shipped.state)
    kept.save(replace(kept.load(), not_after=1.0, renew_at=0.0), None)  # long ago, by its clock
    async with shipped.running("--no-intercept") as process:
        await shipped.says(process, "renewed until")
    assert ("127.0.0.1", "renew late") in [(who, what) for who, what, _ in site.store.audited]


async def test_joining_twice_wrong_codes_and_wrong_addresses(site: Site1, shipped: Shipped) -> None:
    text = site.add_host()
    for given, address, says in (
        (text[:-1], site.address, "of 48 characters"),
        ("", site.address, "0 of 48"),
        (text, "127.0.0.1:1", "does not answer"),
        (text, "x:y:z:", "no address"),
        (site.new_code("peer", "b"), site.address, "for a peer site"),
    ):
        returned, said = await shipped.call("join", address, "--no-service", given=given + "\n")
        assert returned == 1
        assert says in said
        assert said.count("\n") == 1
        assert not shipped.state.exists()
    returned, said = await shipped.call("run")
    assert (returned, "has not joined" in said) == (1, True)
    await shipped.join(site, text)
    returned, said = await shipped.call("join", site.address, "--no-service", given=text + "\n")
    assert (returned, "joined already" in said) == (1, True)
    assert (await shipped.call("leave"))[0] == 0
    returned, said = await shipped.call("join", site.address, "--no-service", given=text + "\n")
    assert (returned, "used already" in said) == (1, True)  # by the key that is gone


async def test_the_pasted_line_checks_the_hash(
    site: Site1, shipped: Shipped, tmp_path: Path
) -> None:
    """As printed, but for sudo and the agent's arguments of this test."""
    line = join_line("127.0.0.1", site.port)
    line = line.replace("sudo python3", PYTHON) + f" --no-service --state {shipped.state}"
    text = site.add_host()

    async def paste(pasted: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            pasted,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(text.encode() + b"\n"), LIMIT_S)
        return process.returncode, said.decode()

    returned, said = await paste(line.replace(agent_sha256(), "0" * 64))
    assert returned != 0
    assert not shipped.state.exists()
    returned, said = await paste(line)
    assert returned == 0, said
    assert Directory(shipped.state).joined


def test_missing_routes_are_added_and_taken_back(network: None) -> None:
    before = sh("ip", "route"), sh("ip", "-6", "route")
    networks = ("198.19.0.0/16", "fd53:6c75:6963:6500::/112")
    added = intercept.add_routes(networks, ("198.18.0.1", "fd00::1"))
    assert added == networks
    assert "198.19.0.0/16 via 198.18.0.1" in sh("ip", "route")
    assert intercept.add_routes(networks, ("198.18.0.1", "fd00::1")) == ()
    intercept.remove_routes(networks)
    assert (sh("ip", "route"), sh("ip", "-6", "route")) == before
    assert intercept.add_routes(networks[:1], ("203.0.113.1",)) == ()  # out of reach
    sh("ip", "route", "add", "198.19.0.0/16", "via", "198.18.0.1")
    intercept.remove_routes(networks)
    assert "198.19.0.0/16" in sh("ip", "route")  # the admin's own stays


def test_a_bad_table_is_refused_before_nft_sees_it(network: None) -> None:
    for name in ("", "x;flush ruleset", "A", "a" * 40):
        with pytest.raises(intercept.InterceptFault):
            intercept.render(name, VIPS, 1)
    before = sh("nft", "list", "ruleset")
    with pytest.raises(intercept.InterceptFault, match="nft refused"):
        intercept.apply("a2_bad", ("198.19.0.0/16",), 70_000)
    assert sh("nft", "list", "ruleset") == before


def test_the_agent_is_packed_the_same_every_time() -> None:
    agent_file.cache_clear()
    one = agent_file()
    agent_file.cache_clear()
    assert agent_file() == one
    assert "appliance/agent/build.py" not in sources()
