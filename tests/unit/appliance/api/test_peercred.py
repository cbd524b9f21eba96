"""appliance.api.peercred: credentials reach the handler; strangers do not."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from appliance.api.peercred import PeerCredFront, inner_directory, peer_of
from appliance.errors import Denied
from appliance.system.credentials import Peer, Seats


async def _who(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    try:
        peer = peer_of(context)
    except Denied as error:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
    return f"{peer.uid} {peer.gid} {peer.pid} {peer.gid in peer.groups}".encode()


@asynccontextmanager
async def served(tmp_path: Path, limit: int = 8) -> AsyncIterator[PeerCredFront]:
    inner = inner_directory(tmp_path / "inner") / "who.sock"
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(_who)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("Test", {"Who": handler}),)
    )
    server.add_insecure_port(f"unix:{inner}")
    await server.start()
    try:
        async with PeerCredFront(tmp_path / "public.sock", inner, Seats(limit)) as front:
            yield front
    finally:
        await server.stop(None)


async def ask(path: Path) -> bytes:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_unary("/Test/Who")
        reply: bytes = await call(b"", timeout=10)
        return reply


async def test_handler_sees_the_caller(tmp_path: Path) -> None:
    async with served(tmp_path) as front:
        assert await ask(front.public) == f"{os.getuid()} {os.getgid()} {os.getpid()} True".encode()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be somebody else")
async def test_another_user_is_seen_as_such(tmp_path: Path) -> None:
    script = (
        "import os,socket,sys;os.setgroups([6413]);os.setgid(6412);os.setuid(6412);"
        "s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);print('up',flush=True);s.recv(1)"
    )
    seen: list[Peer] = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        class Named:
            def peer(self) -> str:
                return "unix-abstract:" + writer.get_extra_info("peername")[1:].decode()

        seen.append(peer_of(Named()))
        writer.close()

    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    inner = inner_directory(tmp_path / "inner") / "raw.sock"
    server = await asyncio.start_unix_server(accepted, inner)
    async with server, PeerCredFront(tmp_path / "public.sock", inner, Seats(8)) as front:
        child = await asyncio.create_subprocess_exec(
            "/usr/bin/python3", "-c", script, str(front.public)
        )
        assert await asyncio.wait_for(child.wait(), 10) == 0
    assert (seen[0].uid, seen[0].gid, seen[0].pid) == (6412, 6412, child.pid)
    assert 6413 in seen[0].groups


async def test_the_inner_socket_gives_no_credentials(tmp_path: Path) -> None:
    async with served(tmp_path) as front:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await ask(front.inner)
        assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert front.inner.parent.stat().st_mode & 0o777 == 0o700


async def test_connections_are_limited_and_refusals_counted(tmp_path: Path) -> None:
    async with served(tmp_path, limit=2) as front:
        held = []
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(front.public)
            await reader.readexactly(9)  # the server's SETTINGS: it is relayed
            held.append(writer)
        reader, writer = await asyncio.open_unix_connection(front.public)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        assert front._seats.refused == 1
        for one in held:
            one.close()


async def test_a_stale_socket_is_replaced_and_removed(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "public.sock"))
    stale.close()
    async with served(tmp_path) as front:
        assert await ask(front.public)
    assert not (tmp_path / "public.sock").exists()


def test_other_transports_are_refused() -> None:
    class Stranger:
        def peer(self) -> str:
            return "unix-abstract:sluice/0123456789abcdef/0.0.1.0"

    with pytest.raises(Denied):
        peer_of(Stranger())
