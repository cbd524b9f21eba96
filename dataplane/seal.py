"""What shows that bytes come from the daemon: HMAC-SHA-256 by the publish key.

Pure. The kind is part of what is authenticated, so that bytes of one kind never pass for another.
"""

from __future__ import annotations

import hmac
from typing import Literal

KEY_BYTES = 32
MAC_BYTES = 32

Kind = Literal["snapshot", "set", "lost", "slot"]


def mac(key: bytes, kind: Kind, body: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"the publish key has {len(key)} bytes, not {KEY_BYTES}")
    state = hmac.new(key, f"sluice {kind}\0".encode(), "sha256")
    state.update(body)
    return state.digest()


def verify(key: bytes, kind: Kind, body: bytes, given: bytes) -> bool:
    return hmac.compare_digest(mac(key, kind, body), given)
