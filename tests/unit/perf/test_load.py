"""The load generator and the null relay as they are, over loopback."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf import load_generator

PERF = Path(__file__).resolve().parents[3] / "perf"
DEADLINE_S = 60.0
ASKED = 5
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("perf")
    subprocess.run(["make", "-s", "-C", str(PERF), f"BUILD={path}"], check=True)
    return path


@contextlib.contextmanager
def bound_port() -> Iterator[int]:
    """Nobody else gets it meanwhile, and until one of ours listens there, it refuses."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # both programs set it too
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def origin() -> Iterator[int]:
    with bound_port() as port:
        yield port


def load(build: Path, mode: str, port: int, **options: float) -> dict[str, float]:
    argv = [str(build / "load"), mode, f"--target=127.0.0.1:{port}"]
    argv += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return load_generator.parse(done.stdout)


@contextlib.contextmanager
def null(build: Path, way: str, origin: int) -> Iterator[tuple[int, int]]:
    """Its port and its process's number, once it listens."""
    with (
        bound_port() as port,
        subprocess.Popen([str(build / "null"), way, str(port), str(origin)]) as process,
    ):
        end = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert time.monotonic() < end, "the relay does not listen"
            select.select([], [], [], 0.01)
        try:
            yield port, process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("way", ["copy", "splice"])
def test_null_relay_carries_every_load(build: Path, origin: int, way: str) -> None:
    with null(build, way, origin) as (port, pid):
        common = {"origin": origin, "warmup": 0.1, "cpu_of": pid}
        got = load(build, "bulk", port, connections=2, seconds=1, **common)
        assert got["bytes"] > 1 << 20
        assert got["cpu_ns"] > 0
        for mode in ("requests", "connections"):
            got = load(build, mode, port, connections=8, total=500, seconds=30, **common)
            assert got["count"] == 500
            assert [got[name] for name in ("refused", "reset", "ended", "timeout", "other")] == [
                0
            ] * 5
            assert 0 < got["p50_us"] <= got["p99_us"] <= got["max_us"]
        got = load(build, "requests", port, connections=4, bulk=1, rate=200, seconds=1, **common)
        assert got["bytes"] > 0
        assert got["count"] == 200  # what was due in the time, however late


def test_total_is_kept_to_the_letter(build: Path, origin: int) -> None:
    with null(build, "copy", origin) as (port, _):
        got = load(
            build, "connections", port, origin=origin, rate=2000, total=500, seconds=30, warmup=0
        )
    assert got["count"] == 500


def test_refused_connections_are_counted_and_tried_again(build: Path, origin: int) -> None:
    got = load(build, "connections", origin, connections=2, total=20, seconds=30, warmup=0)
    assert got["refused"] == 20
    assert got["count"] == 0


class Stalling:
    """Answers one request after the other; before one of them, it stops for a while."""

    def __init__(self, stall_at: int, stall_s: float) -> None:
        self._stall_at, self._stall_s = stall_at, stall_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._over, self._told = os.pipe()
        self._thread.start()

    def close(self) -> None:
        os.close(self._told)
        self._thread.join(DEADLINE_S)
        self._listener.close()
        os.close(self._over)

    def _serve(self) -> None:
        open_: dict[int, socket.socket] = {}
        asked = 0
        while True:
            ready, _, _ = select.select([self._over, self._listener.fileno(), *open_], [], [])
            if self._over in ready:
                break
            for number in ready:
                if number == self._listener.fileno():
                    accepted = self._listener.accept()[0]
                    open_[accepted.fileno()] = accepted
                    continue
                if len(open_[number].recv(100)) < 100:
                    open_.pop(number).close()
                    continue
                asked += 1
                if asked == self._stall_at:
                    select.select([], [], [], self._stall_s)
                open_[number].sendall(REPLY)
        for left in open_.values():
            left.close()


def test_by_the_clock_a_stall_shows_in_every_request_that_was_due(build: Path) -> None:
    """A closed loop would see one slow request in thousands: coordinated omission."""
    server = Stalling(stall_at=40, stall_s=0.5)  # due after a fifth of the second
    try:
        got = load(build, "requests", server.port, connections=1, rate=200, seconds=1, warmup=0)
    finally:
        server.close()
    assert got["count"] == 200
    assert got["max_us"] > 400_000
    assert got["p90_us"] > 200_000  # half of all were due while it stood still


class Scripted:
    """Answers each request with the same segments, and keeps what came."""

    def __init__(self, *segments: bytes) -> None:
        self.requests: list[bytes] = []
        self._segments = segments
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE_S)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._listener.accept()[0] as client, contextlib.suppress(OSError):
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while request := client.recv(1000):
                        self.requests.append(request)
                        for each in self._segments:
                            client.sendall(each)


def asked(build: Path, *segments: bytes) -> tuple[dict[str, float], list[bytes]]:
    """What connections made, one at a time, of somebody who answers so; and their requests."""
    server = Scripted(*segments)
    try:
        got = load(
            build, "connections", server.port, connections=1, total=ASKED, seconds=30, warmup=0
        )
    finally:
        server.close()
    return got, server.requests


def test_a_request_has_100_bytes_of_http_and_its_reply_1000(build: Path, origin: int) -> None:
    _, requests = asked(build, REPLY)
    assert {len(each) for each in requests} == {100}
    assert all(each.startswith(b"GET / HTTP/1.1\r\nHost: ") for each in requests)
    assert all(each.endswith(b"\r\n\r\n") and each.count(b"\r\n\r\n") == 1 for each in requests)
    argv = [str(build / "load"), "hold", f"--origin={origin}", "--connections=1"]
    with subprocess.Popen(
        [*argv, f"--target=127.0.0.1:{origin}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"held": 1}
        with socket.create_connection(("127.0.0.1", origin), DEADLINE_S) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in requests[0]:  # its end is found wherever it is cut
                client.sendall(bytes([byte]))
            client.shutdown(socket.SHUT_WR)
            reply = b"".join(iter(lambda: client.recv(4096), b""))
        process.stdin.close()
    head, _, body = reply.partition(b"\r\n\r\n")
    assert len(reply) == 1000
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert int(head.partition(b"Content-Length: ")[2]) == len(body)


@pytest.mark.parametrize(
    "segments",
    [
        (REPLY,),
        tuple(bytes([each]) for each in REPLY),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 3\r\nDate: now\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",),
    ],
    ids=["whole", "byte by byte", "another head", "no body"],
)
def test_replies_are_taken_however_they_come(build: Path, segments: tuple[bytes, ...]) -> None:
    got, _ = asked(build, *segments)
    assert got["count"] == ASKED
    assert got["other"] == 0


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n5\r",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX-Content-Length: 2\r\n\r\nhi",
        b"\r\n\r\n",
        b"x" * 600,
        bytes(1000),
    ],
)
def test_any_other_reply_is_a_failure(build: Path, reply: bytes) -> None:
    got, _ = asked(build, reply)
    assert got["count"] == 0
    assert got["other"] > 0


def test_held_connections_stay_until_told(build: Path, origin: int) -> None:
    argv = [str(build / "load"), "hold", f"--origin={origin}", "--connections=50"]
    with null(build, "copy", origin) as (port, _):
        process = subprocess.Popen(
            [*argv, f"--target=127.0.0.1:{port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"held": 50}
        output, _ = process.communicate(timeout=DEADLINE_S)
    assert json.loads(output) == {"lost": 0}


def test_slices_are_measured_when_told_from_rest_to_rest(build: Path, origin: int) -> None:
    argv = [str(build / "load"), "requests", f"--origin={origin}", "--connections=4", "--slices"]
    argv += ["--seconds=0.1", "--warmup=0.02", "--rate=500", "--bulk=1"]
    with null(build, "splice", origin) as (port, pid):
        process = subprocess.Popen(
            [*argv, f"--target=127.0.0.1:{port}", f"--cpu-of={pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"ready": 1}
        said, spent_ns = [], [cpu_ns(pid)]
        for word in ("alone", "beside", "alone"):
            process.stdin.write(f"{word}\n")
            said.append(load_generator.parse(process.stdout.readline()))
            spent_ns.append(cpu_ns(pid))
        process.communicate(timeout=DEADLINE_S)
        assert cpu_ns(pid) - spent_ns[-1] < said[-1]["cpu_ns"] / 2  # it did rest
    assert process.returncode == 0
    assert [each["count"] for each in said] == [50, 50, 50]
    assert [each["bytes"] > 0 for each in said] == [False, True, False]
    for each, before, after in zip(said, spent_ns, spent_ns[1:], strict=False):
        assert 0 < each["cpu_ns"] < after - before  # without what warmed it up


SHORT_LIVED = """
import threading, time
def burn():
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass
print(flush=True)
while True:
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
"""


def test_time_of_threads_that_end_counts(build: Path, origin: int) -> None:
    with subprocess.Popen([sys.executable, "-c", SHORT_LIVED], stdout=subprocess.PIPE) as burner:
        try:
            assert burner.stdout is not None
            burner.stdout.readline()
            with null(build, "copy", origin) as (port, _):
                common = {"origin": origin, "seconds": 2, "warmup": 0.1, "rate": 100}
                got = load(build, "requests", port, connections=1, cpu_of=burner.pid, **common)
        finally:
            burner.kill()
    # Of many that lived for 20 ms each, so of more than one; at most the window, on one processor.
    assert 40_000_000 < got["cpu_ns"] < 1.5e9 * got["seconds"]


def cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def test_slices_add_up() -> None:
    found = load_generator.Sum()
    found.add({"seconds": 0.5, "count": 3, "latency": [[10.0, 2], [30.0, 1]]})
    found.add({"seconds": 0.25, "count": 97, "latency": [[10.0, 88], [20.0, 8], [90.0, 1]]})
    got = found.as_metrics()
    assert (got["seconds"], got["count"]) == (0.75, 100)
    wanted = {"p50_us": 10.0, "p90_us": 20.0, "p99_us": 90.0, "max_us": 90.0}
    assert {name: got[name] for name in wanted} == wanted
    assert "p50_us" not in load_generator.parse('{"bytes": 1}')


@pytest.mark.parametrize(
    "arguments",
    [
        ["requests"],
        ["sing", "--target=127.0.0.1:1"],
        ["bulk", "--target=nowhere"],
        ["bulk", "--target=127.0.0.1:1", "--seconds=0"],
        ["requests", "--target=127.0.0.1:1", "--reply-bytes=99999999"],
        ["requests", "--target=127.0.0.1:1", "--request-bytes=63"],
    ],
)
def test_bad_arguments_are_refused(build: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [str(build / "load"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("load: ")
