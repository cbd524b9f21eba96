"""Single-use codes: make, print, read, hash. Pure but for randomness; knows no store.

A code is 30 bytes in base32 (Crockford's alphabet: no I, L, O, U), in eight groups of six:

    kind 1 | secret 10 | CA pin 16 | check 3

The pin is the start of SHA-256 of the site's CA certificate: it tells the joiner whom it may talk
to before it says a word. The check finds typing errors; it protects nothing. Only the secret's
hash is ever stored. The agent carries this file too: standard library, Python 3.9.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

HOST = "host"
PEER = "peer"
TTL_S = 15 * 60
PIN_BYTES = 16

_KINDS = {1: HOST, 2: PEER}
_SECRET_BYTES = 10
_CHECK_BYTES = 3
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_VALUES.update({"O": 0, "I": 1, "L": 1})  # as people read them
_LETTERS = 48
_TEXT_MAX = 200


@dataclass(frozen=True)
class Code:
    purpose: str  # HOST or PEER
    secret: bytes = field(repr=False)
    pin: bytes  # 16 bytes

    def __str__(self) -> str:
        """The code itself, to be shown once. Never log it."""
        kind = next(number for number, purpose in _KINDS.items() if purpose == self.purpose)
        data = bytes([kind]) + self.secret + self.pin
        number = int.from_bytes(data + _check(data), "big")
        letters = [_ALPHABET[number >> shift & 31] for shift in range(235, -1, -5)]
        text = "".join(letters)
        return "-".join(text[at : at + 6] for at in range(0, _LETTERS, 6))

    def hash(self) -> str:
        """What the store keeps: hex SHA-256. 80 random bits need no salt and no stretching."""
        return secret_hash(self.purpose, self.secret)


def _check(data: bytes) -> bytes:
    return hashlib.sha256(b"sluice code check\0" + data).digest()[:_CHECK_BYTES]


def make(purpose: str, pin: bytes) -> Code:
    """A new code for a site whose CA has this pin."""
    if purpose not in _KINDS.values() or len(pin) != PIN_BYTES:
        raise ValueError("a code is for a host or a peer and carries a pin of 16 bytes")
    return Code(purpose, secrets.token_bytes(_SECRET_BYTES), pin)


def parse(text: str) -> Code:
    """Reads a code as people type it: either case, any grouping. Raises ValueError (one line)."""
    if len(text) > _TEXT_MAX:
        raise ValueError("the code is too long: copy it again")
    letters = [c for c in text.upper() if c not in " -\t\r\n"]
    bad = next((c for c in letters if c not in _VALUES), None)
    if bad is not None:
        raise ValueError(f"the code has a character that codes do not have: {bad!r}")
    if len(letters) != _LETTERS:
        raise ValueError(f"the code has {len(letters)} of {_LETTERS} characters: copy all of it")
    number = 0
    for letter in letters:
        number = number << 5 | _VALUES[letter]
    data = number.to_bytes(30, "big")
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if not hmac.compare_digest(_check(body), check) or body[0] not in _KINDS:
        raise ValueError("the code is mistyped: copy it again")
    return Code(_KINDS[body[0]], body[1 : 1 + _SECRET_BYTES], body[1 + _SECRET_BYTES :])


def secret_hash(purpose: str, secret: bytes) -> str:
    return hashlib.sha256(b"sluice code " + purpose.encode() + b"\0" + secret).hexdigest()


def transcript_mac(secret: bytes, side: str, *parts: bytes) -> str:
    """Hex HMAC-SHA-256 by a code's secret over what was said, in order, unambiguously."""
    mac = hmac.new(secret, b"sluice transcript " + side.encode(), hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(8, "big") + part)
    return mac.hexdigest()
