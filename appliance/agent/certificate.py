"""What the ssl module does not tell of a certificate: whether it has the grade extension.

A leaf with it is *delegated*: an appliance holds its key. A leaf without it is a host's own. Pure:
DER in, answer out (X.690, RFC 5280 section 4.1). Only for certificates that were verified.
"""

from __future__ import annotations

from collections.abc import Iterator

GRADE_OID = "2.25.238561604961263749318104027359125812321"
_SEQUENCE, _OID, _EXTENSIONS = 0x30, 0x06, 0xA3


class Malformed(ValueError):
    """Not a certificate."""


def _oid_der(text: str) -> bytes:
    first, second, *rest = (int(part) for part in text.split("."))
    out = bytearray()
    for number in (first * 40 + second, *rest):
        groups = [number & 127]
        while number := number >> 7:
            groups.append(number & 127 | 128)
        out += bytes(reversed(groups))
    return bytes(out)


_GRADE = _oid_der(GRADE_OID)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element. Raises Malformed."""
    at = 0
    while at < len(data):
        if len(data) - at < 2:
            raise Malformed("an element is cut off")
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 128:
            count = size & 127
            if not 1 <= count <= 3 or len(data) - at < count:
                raise Malformed("a length is malformed")
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if size > len(data) - at:
            raise Malformed("an element is cut off")
        yield tag, data[at : at + size]
        at += size


def _first(data: bytes, tag: int) -> bytes:
    found = next(_items(data), None)
    if found is None or found[0] != tag:
        raise Malformed("an element is missing")
    return found[1]


def is_delegated(certificate_der: bytes) -> bool:
    """Raises Malformed."""
    body = _first(_first(certificate_der, _SEQUENCE), _SEQUENCE)
    for tag, content in _items(body):
        if tag != _EXTENSIONS:
            continue
        for kind, extension in _items(_first(content, _SEQUENCE)):
            if kind != _SEQUENCE:
                raise Malformed("an extension is malformed")
            if _first(extension, _OID) == _GRADE:
                return True
    return False
