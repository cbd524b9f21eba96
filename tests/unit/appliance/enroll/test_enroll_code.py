"""Codes: what is printed can be read, what is mistyped is found, only the hash is kept."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.enroll import code

PIN = bytes(range(16))
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@given(st.sampled_from([code.HOST, code.PEER]), st.binary(min_size=16, max_size=16))
def test_printed_codes_are_read_back(purpose: str, pin: bytes) -> None:
    made = code.make(purpose, pin)
    text = str(made)
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{6}-){7}[0-9A-HJKMNP-TV-Z]{6}", text)
    assert code.parse(text) == made
    assert code.parse(text.lower().replace("-", " ")) == made
    assert code.parse(f"  {text}\n") == made


def test_letters_that_look_alike_are_forgiven() -> None:
    text = str(code.Code(code.HOST, bytes(10), PIN))
    assert "0" in text
    assert code.parse(text.replace("0", "o").replace("1", "l")) == code.parse(text)


@given(st.integers(0, 47), st.sampled_from(ALPHABET))
def test_one_wrong_letter_is_found(at: int, letter: str) -> None:
    text = str(code.Code(code.PEER, b"0123456789", PIN)).replace("-", "")
    if text[at] == letter:
        return
    with pytest.raises(ValueError, match="mistyped"):
        code.parse(text[:at] + letter + text[at + 1 :])


@given(st.text(max_size=300))
def test_garbage_is_refused_with_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the code ") as caught:
        code.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [1, 6, 47])
def test_part_of_a_code_says_how_much_is_missing(cut: int) -> None:
    text = str(code.make(code.HOST, PIN)).replace("-", "")
    with pytest.raises(ValueError, match=f"{48 - cut} of 48"):
        code.parse(text[cut:])


def test_only_a_hash_is_kept_and_purposes_differ() -> None:
    made = code.make(code.HOST, PIN)
    other = code.Code(code.PEER, made.secret, PIN)
    assert made.hash() != other.hash()
    assert made.secret.hex() not in made.hash()
    assert made.secret.hex() not in repr(made)
    assert code.make(code.HOST, PIN).secret != made.secret


def test_macs_cover_order_side_and_boundaries() -> None:
    mac = code.transcript_mac
    seen = {
        mac(b"k", "join", b"ab", b"c"),
        mac(b"k", "join", b"a", b"bc"),
        mac(b"k", "join", b"c", b"ab"),
        mac(b"k", "admit", b"ab", b"c"),
        mac(b"l", "join", b"ab", b"c"),
    }
    assert len(seen) == 5
