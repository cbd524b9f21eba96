"""descriptors: what the supervisor hands over is taken whole or refused with a reason."""

from __future__ import annotations

import os

import pytest

from dataplane import descriptors
from tests.unit.dataplane.material import memory


def test_parse() -> None:
    assert descriptors.parse("") == {}
    assert descriptors.parse("mesh4=3,4;ready=7") == {"mesh4": (3, 4), "ready": (7,)}
    assert descriptors.parse("mesh6=") == {"mesh6": ()}


@pytest.mark.parametrize(
    "text",
    ["mesh4", "nonsense=3", "mesh4=3;mesh4=4", "mesh4=x", "mesh4=-1", "mesh4=3,,4", "mesh4=²",
     "mesh4=3;ready=3", "mesh4=3,3", "mesh4=99999999999999", ";", "mesh4=3;"],
)  # fmt: skip
def test_what_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(descriptors.DescriptorError):
        descriptors.parse(text)


def test_collect_checks_workers_pipes_and_that_they_are_open() -> None:
    read_end, write_end = os.pipe()
    try:
        both = f"{read_end},{write_end}"
        given = descriptors.collect({"SLUICE_FDS": f"pipe={both}"}, 1)
        assert given.pipes == ((read_end, write_end),)
        assert descriptors.collect({"SLUICE_FDS": f"mesh4={both}"}, 2).mesh4 == (
            read_end,
            write_end,
        )
        for bad in (f"mesh4={both}", f"pipe={read_end}", f"ready={both}"):
            with pytest.raises(descriptors.DescriptorError):
                descriptors.collect({"SLUICE_FDS": bad}, 1)
    finally:
        os.close(read_end)
        os.close(write_end)
    with pytest.raises(descriptors.DescriptorError, match="Bad file descriptor"):
        descriptors.collect({"SLUICE_FDS": f"ready={read_end}"}, 1)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_publish_key_has_32_bytes(size: int) -> None:
    number = memory(bytes(size))
    with pytest.raises(descriptors.DescriptorError):
        descriptors.read_publish_key(number)
    os.close(number)


@pytest.mark.parametrize("size", [0, 79, 81, 80 * 9])
def test_ticket_keys_are_whole(size: int) -> None:
    number = memory(bytes(size))
    with pytest.raises(descriptors.DescriptorError):
        descriptors.read_ticket_keys(number)
    os.close(number)


def test_keys_are_read_from_their_start_each_time() -> None:
    number = memory(b"k" * 32)
    assert descriptors.read_publish_key(number) == descriptors.read_publish_key(number)
    os.close(number)
    number = memory(b"t" * 160)
    assert len(descriptors.read_ticket_keys(number)) == 160
    os.close(number)
