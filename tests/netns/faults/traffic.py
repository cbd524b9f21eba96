"""Clients and servers that tests run on hosts: python -m tests.netns.faults.traffic VERB ARGUMENTS.

  serve NAME PORT...          answers "who\\n" with NAME and closes; "echo\\n": all else comes back
  load SERVICE PORT WORKERS   connects, asks who, closes, over and over; resolves SERVICE too
  long SERVICE PORT           one stream: random bytes out, the same expected back
  health KIND PORT FILE       http or grpc: healthy as long as FILE is there
  hold SERVICE PORT COUNT     opens so many streams at once and keeps what it gets

Clients take the mesh name of SERVICE from DNS, print `ready` once they have begun, go on
until SIGTERM, and then print what they counted as one line of JSON. Plain sockets: no mesh here.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import grpc

PATIENCE_S = 25.0
DNS_S = 20.0
CHUNK = 16 << 10
WINDOW = 256 << 10  # of a long stream: sent and not yet back
PACE_S = 0.01


async def serve(name: str, ports: list[int]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            verb = await reader.readline()
            if verb == b"who\n":
                writer.write(f"{name}\n".encode())
            elif verb == b"echo\n":
                while data := await reader.read(CHUNK):
                    writer.write(data)
                    await writer.drain()
            await writer.drain()
            writer.close()

    for port in ports:
        await asyncio.start_server(answer, "0.0.0.0", port, backlog=1024)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def health(kind: str, port: int, well: Callable[[], bool]) -> None:
    if kind == "grpc":
        server = grpc.aio.server()
        handler = grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    lambda request, context: b"\x08\x01" if well() else b"\x08\x02"
                )
            },
        )
        server.add_generic_rpc_handlers((handler,))
        server.add_insecure_port(f"0.0.0.0:{port}")
        await server.start()
    else:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                status = "200 OK" if well() else "503 Service Unavailable"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
                writer.close()

        await asyncio.start_server(answer, "0.0.0.0", port)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def who(address: str, port: int) -> str:
    """Who answers; or how it failed: refused, reset, closed, timeout, unreachable."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(b"who\n")
                return (await reader.readline()).decode().strip() or "closed"
            finally:
                writer.close()
    except TimeoutError:
        return "timeout"
    except OSError as error:
        known = {
            errno.ECONNREFUSED: "refused", errno.ECONNRESET: "reset", errno.EPIPE: "reset",
            errno.ETIMEDOUT: "timeout",
        }  # fmt: skip
        return known.get(error.errno or 0, "unreachable")


def name_server() -> str:
    return Path("/etc/resolv.conf").read_text().split()[1]


async def resolve(name: str, server: str) -> bool:
    """One query, no second try."""
    try:
        answer = await dns.asyncquery.udp(dns.message.make_query(name, "A"), server, DNS_S)
    except (OSError, dns.exception.DNSException):
        return False
    return bool(answer.answer)


async def load(name: str, port: int, workers: int, stop: asyncio.Event) -> dict[str, Any]:
    address = socket.gethostbyname(name)
    server = name_server()
    counted: Counter[str] = Counter()
    names: Counter[bool] = Counter()

    async def connect() -> None:
        while not stop.is_set():
            counted[await who(address, port)] += 1
            await asyncio.sleep(PACE_S)

    async def ask() -> None:
        while not stop.is_set():
            names[await resolve(name, server)] += 1
            await asyncio.sleep(PACE_S)

    print("ready", flush=True)
    await asyncio.gather(ask(), *(connect() for _ in range(workers)))
    return {"counted": counted, "resolved": names[True], "unresolved": names[False]}


async def long(name: str, port: int, stop: asyncio.Event) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection(socket.gethostbyname(name), port)
    sent, back = hashlib.sha256(), hashlib.sha256()
    count = {"sent": 0, "back": 0}
    room = asyncio.Condition()
    problem = ""

    async def send() -> None:
        writer.write(b"echo\n")
        while not stop.is_set():
            async with room:
                await room.wait_for(lambda: count["sent"] - count["back"] < WINDOW)
            data = random.randbytes(CHUNK)
            sent.update(data)
            count["sent"] += len(data)
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(PACE_S)
        writer.write_eof()

    async def receive() -> None:
        while data := await reader.read(CHUNK):
            back.update(data)
            async with room:
                if count["back"] == 0:
                    print("ready", flush=True)
                count["back"] += len(data)
                room.notify_all()
            print(f"back {count['back']}", flush=True)

    sending = asyncio.ensure_future(send())
    try:
        await receive()
        if not stop.is_set():
            problem = "it ended early"
    except OSError as error:
        problem = str(error)
    sending.cancel()
    with suppress(asyncio.CancelledError, OSError):
        await sending
    writer.close()
    return {**count, "problem": problem, "intact": sent.digest() == back.digest()}


async def hold(name: str, port: int, wanted: int, stop: asyncio.Event) -> dict[str, Any]:
    """held: those that answer an echo at the beginning; alive: of these, at the end."""
    address = socket.gethostbyname(name)
    held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_S):
                writer.write(b"ping")
                return await reader.readexactly(4) == b"ping"
        return False

    async def open_one() -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection(address, port)
                writer.write(b"echo\n")
            if await echoes(reader, writer):
                held.append((reader, writer))
            else:
                writer.close()

    await asyncio.gather(*(open_one() for _ in range(wanted)))
    print(f"held {len(held)}", flush=True)
    print("ready", flush=True)
    await stop.wait()
    alive = await asyncio.gather(*(echoes(*each) for each in held))
    for _, writer in held:
        writer.close()
    return {"held": len(held), "alive": sum(alive)}


async def until_told(work: Callable[[asyncio.Event], Awaitable[dict[str, Any]]]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(json.dumps(await work(stop)), flush=True)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["serve", name, *ports]:
            asyncio.run(serve(name, [int(port) for port in ports]))
        case ["health", kind, port, file]:
            asyncio.run(health(kind, int(port), Path(file).exists))
        case ["load", name, port, workers]:
            asyncio.run(until_told(lambda stop: load(name, int(port), int(workers), stop)))
        case ["long", name, port]:
            asyncio.run(until_told(lambda stop: long(name, int(port), stop)))
        case ["hold", name, port, count]:
            asyncio.run(until_told(lambda stop: hold(name, int(port), int(count), stop)))
        case ["who", name, port]:
            print(asyncio.run(who(socket.gethostbyname(name), int(port))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
