"""Loading of tokenizers; the contents of a serialized tokenizer identify its type."""

from __future__ import annotations

from pathlib import Path

from bitgolf.errors import BitgolfError, UsageError, error_location
from bitgolf.files import require_file
from bitgolf.tokens import byte_tokenizer, caseops_tokenizer, tiktoken_tokenizer
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.tokens.caseops_tokenizer import CaseOpsTokenizer, has_case_operators
from bitgolf.tokens.huggingface_tokenizer import HuggingFaceTokenizer
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.tiktoken_tokenizer import TiktokenTokenizer, is_tiktoken_file, serialize_tiktoken
from bitgolf.tokens.tokenizer import Tokenizer


def tokenizer_from_bytes(proto: bytes, *, where: str = "tokenizer") -> Tokenizer:
    """Return the tokenizer of a serialized form, recognized by its contents.

    It is a byte tokenizer, a tokenizer.json of Hugging Face, a tiktoken file with its pattern, or a SentencePiece model.
    A SentencePiece model whose symbols include the case operators, as published, is one for text with case operators.
    Raises `CorruptFileError` otherwise, and `BitgolfError` if a package is missing.
    """
    for magic, opened in (
        (byte_tokenizer.MAGIC, ByteTokenizer),
        (caseops_tokenizer.MAGIC, CaseOpsTokenizer),
        (tiktoken_tokenizer.MAGIC, TiktokenTokenizer),
    ):
        if proto.startswith(magic):
            return opened(proto, where=where)
    if proto.lstrip()[:1] == b"{":
        return HuggingFaceTokenizer(proto, where=where)
    if is_tiktoken_file(proto):
        with error_location(where):
            return TiktokenTokenizer(serialize_tiktoken(proto), where=where)
    plain = SentencePieceTokenizer(proto, where=where)
    return CaseOpsTokenizer(caseops_tokenizer.MAGIC + proto, where=where) if has_case_operators(plain) else plain


def load_tokenizer(path: Path, *, pattern: str = "") -> Tokenizer:
    """Return the tokenizer of a file.

    pattern: of a tiktoken file, as in `serialize_tiktoken`. Raises `BitgolfError` if the file cannot be read,
    `CorruptFileError` if it is not a tokenizer, and `UsageError` if it takes no pattern or needs one, or if it is a
    device.
    """
    try:
        if path.exists():
            require_file(path)
        proto = path.read_bytes()
    except OSError as error:
        raise BitgolfError(f"the tokenizer cannot be read ({error.strerror})", where=str(path)) from error
    if not pattern:
        return tokenizer_from_bytes(proto, where=str(path))
    if not is_tiktoken_file(proto):
        raise UsageError("only a tiktoken file takes a pattern", where=str(path), hint="leave the pattern out")
    with error_location(str(path)):
        return TiktokenTokenizer(serialize_tiktoken(proto, pattern), where=str(path))
