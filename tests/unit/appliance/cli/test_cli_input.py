"""`sluice` given what it cannot use: one line, the documented exit code, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from appliance.api._gen import admin_pb2 as pb
from appliance.api.remote import Remote
from appliance.api.text import shown
from appliance.cli.output import show_list
from appliance.cli.root import cli
from tui import __main__ as tui_main

ESC = "\x1b"


def sluice(*arguments: str | bytes, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "appliance.cli", *arguments],
        input=stdin, capture_output=True, timeout=60, check=False,
        env={**os.environ, "SLUICE_RUN": "/nonexistent"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rollback", "99999999999999999999"), b"not in the range"),
        (("diff", "1", "99999999999999999999"), b"not in the range"),
        (("diff", "0"), b"not in the range"),
        (("host", "add", b"b\xff", "--address", "192.0.2.1"), b"not UTF-8"),
        (("apply", "-f", "-"), b"not UTF-8"),
        (("tui",), b"needs a terminal"),
        (("flows", "--limit", "0"), b"not in the range"),
        (("nonsense",), b"No such command"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    arguments: tuple[str | bytes, ...], says: bytes
) -> None:
    done = sluice(*arguments, stdin=b"\xff\xfe")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"sluice: ")
    assert says in done.stderr
    assert done.stderr.count(b"\n") == 1


# What these print is a text of its own (YAML, PEM, a script), a screen, or one line of success.
NO_FORMAT = {
    "up", "restart", "tui", "completion", "confirm", "rescue documents", "rescue rollback",
    "rescue release", "host remove", "peer add", "peer remove", "ca approve", "ca withdraw",
    "ca bundle", "ca admin", "ca revoke-admin", "ca import",
}  # fmt: skip


def commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")
        else:
            yield above + name, command


def test_every_list_has_every_format() -> None:
    without = {
        name
        for name, command in commands(cli)
        if not any(parameter.name == "fmt" for parameter in command.params)
    }
    assert without == NO_FORMAT


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    done = sluice("apply", "-f", str(tmp_path))
    assert done.returncode == 2
    assert f"{tmp_path}/bad.yaml: not UTF-8 text".encode() in done.stderr


REMOTE = ("--remote", "192.0.2.1:15011", "--credential", "/nonexistent")


@pytest.mark.parametrize(
    "command", [("ca", "list"), ("rescue", "status"), ("rescue", "release", "--yes"), ("up",)]
)
def test_what_works_on_this_box_alone_says_so_when_another_is_named(
    command: tuple[str, ...],
) -> None:
    done = sluice(*REMOTE, *command)
    assert done.returncode == 2
    assert b"on 192.0.2.1:15011" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_the_console_opens_what_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal; the program it becomes makes its client of just that."""
    became: list[str] = []
    opened: list[object] = []
    monkeypatch.setattr(os, "execv", lambda program, argv: became.extend(argv))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    cli.main([*REMOTE, "tui"], standalone_mode=False)
    assert became[1:3] == ["-m", "tui"]

    class App:
        def __init__(self, connect: Callable[[], object], interval_ms: int) -> None:
            connect()

        def run(self) -> None:
            pass

    monkeypatch.setattr(tui_main, "SluiceApp", App)
    monkeypatch.setattr(tui_main, "AdminClient", lambda paths, remote: opened.append(remote))
    monkeypatch.setattr(sys, "argv", became[2:])
    tui_main.main()
    assert opened == [Remote("192.0.2.1:15011", Path("/nonexistent"))]


def test_without_a_command_it_tells_which_there_are() -> None:
    done = sluice()
    assert done.returncode == 2
    assert done.stderr.startswith(b"Usage: sluice")
    assert sluice("--version").returncode == 0


@pytest.mark.parametrize("text", ["[/x] gone", "listens on [fd00::1]:15010"])
def test_what_others_wrote_is_no_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = pb.AuditEntry(detail=f"{text}{ESC}[2J")
    show_list([entry], {"detail": lambda e: e.detail}, "table", "")
    printed = capsys.readouterr().out
    assert text in printed
    assert ESC not in printed


def test_shown_keeps_lines_and_letters() -> None:
    assert shown("Grüße\n[x]\x07\u202e") == "Grüße\n[x]��"
