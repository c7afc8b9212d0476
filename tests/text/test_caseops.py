"""Tests of case operators: exact round trip of any bytes, rejection of ill-formed text, and exact byte counts."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitgolf.errors import CorruptFileError
from bitgolf.text.caseops import (
    ALLCAPS,
    CAPNEXT,
    ESC,
    OPERATORS,
    TITLE,
    decode_case,
    decode_case_lenient,
    encode_case,
    text_byte_mask,
)
from helpers.examples import examples

SIGNS = dict(zip("^#>!", OPERATORS, strict=True))  # TITLE, ALLCAPS, CAPNEXT, ESC
OPERATOR = re.compile(b"|".join(OPERATORS))

letters = st.sampled_from([*"aBcDEz", *"'\n\t\0 7"]).map(str.encode)
odd = st.sampled_from(["é", "É", "e\u0301", "\ue000", "\ue005", "\U000f0001", "Ａ", "🙂", "\u2581"]).map(str.encode)
torn = st.sampled_from([b"\xee", b"\xee\x80", b"\x80\x81", b"\x81", b"\xff", b"\xed\xa0\x80"])
any_bytes = st.lists(letters | odd | torn | st.sampled_from(OPERATORS) | st.binary(max_size=4), max_size=16).map(
    b"".join
)


def written(signs: str) -> bytes:
    return b"".join(SIGNS.get(sign, sign.encode()) for sign in signs)


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ("the end", "the end"),
        ("The NASA Launch", "^the #nasa ^launch"),
        ("iPhone OpenAI", "i>phone ^open>a>i"),
        ("I A. X2", "^i ^a. ^x2"),
        ("AB ABc AbC aB", "#ab ^a>bc ^ab>c a>b"),
        ("don'T STOP'S", "don'^t #stop'^s"),
        ("Éa ÉA aÉB", "Éa É^a aÉ^b"),
        ("\ue001\ue004a\ue002B", "!^!!a!#^b"),
    ],
)
def test_how_words_are_written(text: str, signs: str) -> None:
    """The same encoding as that of the original script."""
    assert encode_case(text.encode()) == written(signs)
    assert decode_case(written(signs)) == text.encode()


@settings(max_examples=examples(500), deadline=None)
@given(data=any_bytes)
@example(data=b"\xee\x80" + b"A\x81")
@example(data=b"\xeeA\xee\x80\x81\x81")
def test_any_bytes_come_back(data: bytes) -> None:
    moved = encode_case(data)
    assert decode_case(moved) == data == decode_case_lenient(moved)
    assert not re.search(b"[A-Z]", moved)


@settings(max_examples=examples(200), deadline=None)
@given(text=st.text(max_size=30))
def test_it_is_the_same_on_characters(text: str) -> None:
    """The transform keeps valid UTF-8 valid, and does not change bytes that are not UTF-8."""
    assert encode_case(text.encode()).decode().encode() == encode_case(text.encode())
    data = text.encode("utf-16-le", "surrogatepass")
    escaped = data.decode("utf-8", "surrogateescape")
    assert encode_case(escaped.encode("utf-8", "surrogateescape")) == encode_case(data)


@settings(max_examples=examples(800), deadline=None)
@given(data=st.lists(st.sampled_from([b"a", b"b", b" ", b"B", "é".encode(), *OPERATORS]), max_size=10).map(b"".join))
def test_only_what_the_transform_makes_is_read(data: bytes) -> None:
    try:
        text = decode_case(data)
    except CorruptFileError as error:
        assert re.fullmatch(r"byte \d+", error.where)
        assert encode_case(decode_case_lenient(data)) != data
    else:
        assert encode_case(text) == data


@pytest.mark.parametrize(
    ("signs", "what", "at"),
    [
        ("a^b", "U+E001", 1),  # within a word
        ("a#bc", "U+E002", 1),
        ("^^a", "U+E001", 0),  # twice
        ("a>>b", "U+E003", 1),
        ("^ a", "U+E001", 0),  # no letter after it
        ("#", "U+E002", 0),  # the end
        ("a>", "U+E003", 1),
        ("!a", "U+E004", 0),  # nothing to escape
        ("!!!", "U+E004", 6),
        (">a", "U+E003", 0),  # not the transform's own way to write these
        ("#a", "U+E002", 0),
        ("^a>b", "U+E001", 0),
        ("#ab>c", "U+E002", 0),
        ("a B", "capital letter", 2),
    ],
)
def test_what_is_ill_formed_is_named_with_its_place(signs: str, what: str, at: int) -> None:
    with pytest.raises(CorruptFileError, match="misplaced .*" + re.escape(what)) as error:
        decode_case(written(signs))
    assert error.value.where == f"byte {at}"


@settings(max_examples=examples(300), deadline=None)
@given(data=any_bytes)
def test_the_bytes_of_a_text_are_counted_once(data: bytes) -> None:
    moved = encode_case(data)
    kept = text_byte_mask(moved)
    assert kept.shape == (len(moved),) and kept.sum() == len(data)
    assert bytes(b for b, keep in zip(moved, kept, strict=True) if keep) == data.lower()


def test_operators_count_nothing_and_literal_ones_three() -> None:
    assert text_byte_mask(written("^a!^")).tolist() == [False] * 3 + [True] + [False] * 3 + [True] * 3
    assert text_byte_mask(b"").shape == (0,)


@settings(max_examples=examples(200), deadline=None)
@given(data=any_bytes)
def test_anything_is_readable_and_what_is_read_is_what_is_counted(data: bytes) -> None:
    assert len(decode_case_lenient(data)) == text_byte_mask(data).sum()


def test_it_is_linear_in_any_text() -> None:
    """A megabyte of the worst case takes a second or two; with backtracking it would take hours."""
    started = time.perf_counter()
    for text in (b"a" * 10**6, b"A" * 10**6, b"aB" * 10**5, ESC * 10**5, TITLE + b"a" + (CAPNEXT + b"a") * 10**5):
        moved = encode_case(text)
        assert decode_case(moved) == text and len(moved) <= 4 * len(text)
        decode_case_lenient(text)
    decode_case_lenient(ALLCAPS + b"a" * 10**6 + CAPNEXT)
    assert time.perf_counter() - started < 20
