"""The kinds of tokenizer: each serialized form says of which it is."""

from __future__ import annotations

from pathlib import Path

from bitgolf.errors import BitgolfError
from bitgolf.tokens import byte_tokenizer, caseops_tokenizer
from bitgolf.tokens.byte_tokenizer import Bytewise
from bitgolf.tokens.caseops_tokenizer import CaseOperators
from bitgolf.tokens.sentencepiece_tokenizer import SentencePiece
from bitgolf.tokens.tokenizer import Tokenizer


def open_tokenizer(proto: bytes, *, place: str = "tokenizer") -> Tokenizer:
    """The tokenizer of a serialized form: by its first bytes a byte tokenizer, case operators, or else a SentencePiece model.

    Raises `DamagedError` for what is none of them.
    """
    if proto.startswith(byte_tokenizer.MAGIC):
        return Bytewise(proto, place=place)
    if proto.startswith(caseops_tokenizer.MAGIC):
        return CaseOperators(proto, place=place)
    return SentencePiece(proto, place=place)


def load_tokenizer(path: Path, *, case_operators: bool = False) -> Tokenizer:
    """The tokenizer of a file. Raises `BitgolfError` where it cannot be read, `DamagedError` where it is none.

    case_operators: the file is the SentencePiece model alone of text with case operators, as published ones are.
    """
    try:
        proto = path.read_bytes()
    except OSError as error:
        raise BitgolfError(f"the tokenizer cannot be read ({error.strerror})", place=str(path)) from error
    if case_operators:
        proto = caseops_tokenizer.MAGIC + proto.removeprefix(caseops_tokenizer.MAGIC)
    return open_tokenizer(proto, place=str(path))
