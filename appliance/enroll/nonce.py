"""Nonces for proofs of a key: made here, good once, for a minute. Keeps only used ones.

A nonce carries its time and a MAC by a key of this process, so that asking for one costs no
memory; what is remembered is bounded by how many are *used* within a minute.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from appliance.errors import Denied, LimitReached

LIFE_S = 60
USED_MAX = 10_000


class Nonces:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._used: OrderedDict[str, float] = OrderedDict()  # in order of use, with its end

    def make(self) -> str:
        """80 hex digits: time 8 bytes, random 16, MAC 16."""
        body = int(self._clock() * 1000).to_bytes(8, "big") + secrets.token_bytes(16)
        return (body + self._mac(body)).hex()

    def use(self, nonce: str) -> None:
        """Raises Denied for one that is forged, old or used; LimitReached."""
        data = bytes.fromhex(nonce)
        body, mac = data[:24], data[24:]
        if not hmac.compare_digest(self._mac(body), mac):
            raise Denied("the nonce is not ours (perhaps we restarted): ask for a new one")
        now = self._clock()
        ends = int.from_bytes(body[:8], "big") / 1000 + LIFE_S
        if now >= ends:
            raise Denied("the nonce is too old: ask for a new one")
        while self._used and next(iter(self._used.values())) <= now:
            self._used.popitem(last=False)
        if nonce in self._used:
            raise Denied("the nonce was used already: ask for a new one")
        if len(self._used) >= USED_MAX:
            raise LimitReached("too many late renewals at once: try again in a minute")
        self._used[nonce] = now + LIFE_S

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, hashlib.sha256).digest()[:16]
