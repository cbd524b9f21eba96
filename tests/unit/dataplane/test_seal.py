"""seal: the right key, kind and bytes, or nothing."""

from __future__ import annotations

import pytest

from dataplane import seal
from tests.unit.dataplane.material import KEY


def test_only_the_same_key_kind_and_bytes_verify() -> None:
    given = seal.mac(KEY, "snapshot", b"body")
    assert seal.verify(KEY, "snapshot", b"body", given)
    assert not seal.verify(KEY, "set", b"body", given)
    assert not seal.verify(KEY, "snapshot", b"bodY", given)
    assert not seal.verify(bytes(32), "snapshot", b"body", given)
    assert not seal.verify(KEY, "snapshot", b"body", given[:-1])
    assert not seal.verify(KEY, "snapshot", b"body", b"")


def test_a_key_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        seal.mac(bytes(31), "snapshot", b"")
