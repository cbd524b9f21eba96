"""slots: the newest whole snapshot survives whatever happens to the other file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane import seal
from dataplane.slots import Slots
from tests.unit.dataplane.material import KEY


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[Slots]:
    slots = Slots(tmp_path, KEY)
    yield slots
    slots.close()


def write(slots: Slots, version: int, body: bytes) -> bool:
    return slots.write(version, body, seal.mac(KEY, "snapshot", body))


def kept(slots: Slots) -> list[tuple[int, bytes]]:
    return [(each.version, each.body) for each in slots.load()]


def test_nothing_is_kept_at_first(slots: Slots, tmp_path: Path) -> None:
    assert kept(slots) == []
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_the_last_two_are_kept_newest_first(slots: Slots) -> None:
    for version in range(1, 6):
        assert write(slots, version, b"x" * (1000 * (6 - version)))
    assert kept(slots) == [(5, b"x" * 1000), (4, b"x" * 2000)]


def test_an_old_one_never_replaces_a_newer(slots: Slots) -> None:
    write(slots, 7, b"seven")
    assert not write(slots, 7, b"again")
    assert not write(slots, 6, b"six")
    assert kept(slots) == [(7, b"seven")]


def test_two_processes_share_the_files(slots: Slots, tmp_path: Path) -> None:
    other = Slots(tmp_path, KEY)
    for version in range(1, 9):
        assert write(slots if version % 2 else other, version, b"%d" % version)
        assert not write(other if version % 2 else slots, version, b"%d" % version)
    assert kept(slots) == kept(other) == [(8, b"8"), (7, b"7")]
    other.close()


@pytest.mark.parametrize("at", [0, 10, 20, 50, 80, 88, 90])
def test_damage_falls_back_to_the_other(slots: Slots, tmp_path: Path, at: int) -> None:
    write(slots, 1, b"a" * 100)
    write(slots, 2, b"b" * 100)
    with (tmp_path / "snapshot.1").open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    assert kept(slots) == [(1, b"a" * 100)]
    assert write(slots, 3, b"c")
    assert (3, b"c") in kept(slots)


def test_cut_short_falls_back_to_the_other(slots: Slots, tmp_path: Path) -> None:
    write(slots, 1, b"a" * 100)
    write(slots, 2, b"b" * 100)
    os.truncate(tmp_path / "snapshot.1", 120)
    assert kept(slots) == [(1, b"a" * 100)]


def test_another_key_sees_nothing_and_may_write(slots: Slots, tmp_path: Path) -> None:
    write(slots, 9, b"nine")
    other = Slots(tmp_path, bytes(32))
    assert kept(other) == []
    assert other.write(1, b"one", seal.mac(bytes(32), "snapshot", b"one"))
    assert kept(other) == [(1, b"one")]
    other.close()


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_a_full_disk_leaves_what_was_there(
    slots: Slots, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write(slots, 1, b"a")
    write(slots, 2, b"b")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        write(slots, 3, b"c")
    monkeypatch.undo()
    assert kept(slots)[0] == (2, b"b")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "snapshot.0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="Too many levels"):
        Slots(tmp_path, KEY)
