"""Capitals written as operators, so that a word has one spelling: `The NASA iPhone` as `^the ^^nasa i>phone`.

The transform `lossless_caps_caseops_v1` of openai/parameter-golf, pull request 1729, over maximal runs of ASCII letters:

- all lower case: as it is;
- all upper case, two letters or more: ALLCAPS, then the letters in lower case;
- a capital first (or alone): TITLE, then the letters in lower case; a capital anywhere else: CAPNEXT before it;
- a character that is itself one of the operators: ESC before it.

It works on bytes, which need not be UTF-8: ASCII letters are no part of longer characters, and the operators' first byte
never continues one, so this is the same as on characters. `decode_case` is exact: it takes what `encode_case` makes and nothing else.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from bitgolf.errors import CorruptFileError

TITLE, ALLCAPS, CAPNEXT, ESC = OPERATORS = tuple(chr(code).encode() for code in range(0xE001, 0xE005))
_SIZE = len(TITLE)
_OPERATOR = rb"\xee\x80[\x81-\x84]"

# Each pattern begins with one of few bytes, for which `re` looks fast, and gives nothing back (`++`): linear in the text.
_CAPITALS = re.compile(rb"[A-Z\xee](?:(?<=\xee)\x80[\x81-\x84]|(?<=[A-Z])[A-Za-z]*+)")
_CAPITAL = re.compile(rb"[A-Z]")
_ENCODED_WORD = re.compile(
    rb"""[A-Z\xee](?:(?<=\xee)\x80(?:
      \x81(?<![A-Za-z]%(title)b)(?![a-z](?:%(next)b[a-z])++(?![a-z]))([a-z]++(?:%(next)b[a-z]++)*+)  # 1: first, not all
    | \x82(?<![A-Za-z]%(caps)b)([a-z]{2,}+)(?!%(next)b)  # 2: all
    | \x83(?<=[a-z]%(next)b)([a-z]++(?:%(next)b[a-z]++)*+)  # 3: after a small letter
    | \x84(%(any)b)  # 4: a literal operator
    | [\x81-\x84]) | (?<=[A-Z]))  # out of place"""
    % {b"title": TITLE, b"caps": ALLCAPS, b"next": CAPNEXT, b"any": _OPERATOR},
    re.VERBOSE,
)
_NEXT = re.compile(CAPNEXT + rb"([a-z])")
_OPERATOR_BYTES = re.compile(ESC + _OPERATOR + b"|" + _OPERATOR)  # its first character is no text


def encode_case(data: bytes) -> bytes:
    """Any bytes with their capitals as operators; at most four times as long."""
    return _CAPITALS.sub(_encode_word, data)


def _encode_word(found: re.Match[bytes]) -> bytes:
    word, start = found[0], found.start()
    if not word.isalpha():
        return ESC + word
    if found.string[max(start - 1, 0) : start].islower():
        return _CAPITAL.sub(_after_capnext, word)
    if len(word) > 1 and word.isupper():
        return ALLCAPS + word.lower()
    return TITLE + word[:1].lower() + _CAPITAL.sub(_after_capnext, word[1:])


def _after_capnext(found: re.Match[bytes]) -> bytes:
    return CAPNEXT + found[0].lower()


def decode_case(data: bytes) -> bytes:
    """The bytes that `encode_case` made `data` of. Raises `CorruptFileError`, with the position, where it made it of none."""
    return _ENCODED_WORD.sub(_decode_word, data)


def _decode_word(found: re.Match[bytes]) -> bytes:
    if found.lastindex is None:
        what = "a capital letter" if found[0].isalpha() else f"operator U+{ord(found[0].decode()):X}"
        raise CorruptFileError(f"text with case operators has {what} out of place", where=f"byte {found.start()}")
    text = found[found.lastindex]
    if found.lastindex == 4:
        return text
    if found.lastindex == 2:
        return text.upper()
    return text[:1].upper() + _NEXT.sub(lambda letter: letter[1].upper(), text[1:])


def decode_case_lenient(data: bytes) -> bytes:
    """`decode_case` where that is defined; operators out of place are left out. For what a model makes up."""
    return _ENCODED_WORD.sub(_decode_word_lenient, data)


def _decode_word_lenient(found: re.Match[bytes]) -> bytes:
    return _decode_word(found) if found.lastindex else found[0] if found[0].isalpha() else b""


def text_byte_mask(data: bytes) -> npt.NDArray[np.bool_]:
    """Which bytes of a transformed text are bytes of the text too: all but operators; bool [len(data)]."""
    kept = np.ones(len(data), np.bool_)
    starts = np.array([found.start() for found in _OPERATOR_BYTES.finditer(data)], np.int64)
    kept[starts[:, None] + np.arange(_SIZE)] = False
    return kept
