"""Keys in memory files: rotation, and what a child can do with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.supervisor.keys import (
    PUBLISH_KEY_BYTES,
    TICKET_KEY_BYTES,
    TICKET_KEYS,
    TicketKeys,
    publish_key,
)


def content(file: int) -> bytes:
    try:
        return os.pread(file, 4096, 0)
    finally:
        os.close(file)


def test_rotation_puts_a_new_key_first_and_forgets_the_oldest() -> None:
    tickets = TicketKeys()
    held = tickets.file.open()
    before = content(tickets.file.open())
    assert len(before) == TICKET_KEYS * TICKET_KEY_BYTES
    tickets.rotate()
    after = content(held)  # the same descriptor sees the new keys
    assert len(after) == len(before)
    assert after[TICKET_KEY_BYTES:] == before[:-TICKET_KEY_BYTES]
    assert after[:TICKET_KEY_BYTES] not in before
    tickets.file.close()


def test_a_child_can_read_but_not_write() -> None:
    tickets = TicketKeys()
    file = tickets.file.open()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(file, b"x", 0)
    assert os.fstat(file).st_mode & 0o777 == 0o400
    os.close(file)
    tickets.file.close()


def test_the_publish_key_is_made_once(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        memory = publish_key(tmp_path)
        keys.append(content(memory.open()))
        memory.close()
    assert keys[0] == keys[1]
    assert len(keys[0]) == PUBLISH_KEY_BYTES
    assert (tmp_path / "publish.key").stat().st_mode & 0o777 == 0o600


def test_a_damaged_publish_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "publish.key").write_bytes(b"short")
    with pytest.raises(ApplianceError, match="damaged"):
        publish_key(tmp_path)
