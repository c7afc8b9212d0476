"""Tokenizers in the format of tiktoken: a file with one line per token, its bytes in base64 and its rank.

Such a file lacks the pattern that splits text into words, and the special tokens. Bitgolf stores the pattern in front of
the file, and adds one special token, `<|endoftext|>`, which starts a document. The package's own lists are not read,
because it downloads them.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np

from bitgolf.errors import CorruptFileError, UsageError, error_location
from bitgolf.tokens.text_encoding import TextTokenizer, import_package

MAGIC = b"bitgolf tiktoken\n"
BOS_NAME = "<|endoftext|>"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k_base": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k_base": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""Patterns by name, as the package tiktoken 0.14 states them for these encodings (`tiktoken_ext.openai_public`)."""
_PATTERN_OF_SIZE = {50_256: "gpt2", 50_280: "gpt2", 100_256: "cl100k_base", 199_998: "o200k_base"}
_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]{1,9})")


class TiktokenTokenizer(TextTokenizer):
    """Tokenizer of a tiktoken file. `piece_strings` are the bytes of a token as Latin-1 characters.

    serialized: `MAGIC`, a line of JSON with the key `pattern`, and the file. bos: the smallest id that the file does not
    use, normally the last one. Raises `CorruptFileError` for a malformed file, one with gaps between the ranks, or one
    without a token for each byte, and `BitgolfError` if the package `tiktoken` is missing.
    """

    kind = "tiktoken"

    def __init__(self, serialized: bytes, *, where: str = "tokenizer") -> None:
        super().__init__(serialized, where)
        with error_location(where):
            header, _, lines = serialized.removeprefix(MAGIC).partition(b"\n")
            pattern, ranks = _read_pattern(header), _read_ranks(lines)
            self.bos = next(token for token in range(len(ranks) + 1) if token not in ranks)
            self._encoding = _open(pattern, {piece: token for token, piece in ranks.items()}, self.bos)
            self._set_pieces(ranks)

    def _set_pieces(self, ranks: dict[int, bytes]) -> None:
        vocab = range(len(ranks) + 1)
        if max(ranks) > len(ranks):
            raise CorruptFileError(f"the ranks of its {len(ranks):,} tokens have gaps: one is {max(ranks):,}")
        self.piece_bytes = [ranks.get(token, b"") for token in vocab]
        self.piece_strings = [piece.decode("latin-1") or BOS_NAME for piece in self.piece_bytes]
        self.is_boundary = np.arange(len(vocab)) == self.bos
        self.byte_lengths = np.array([len(piece) for piece in self.piece_bytes], np.int64)
        self.is_byte = self.byte_lengths == 1
        self._use_byte_tokens()

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        return [self._encoding.encode_ordinary(text) for text in texts]


def serialize_tiktoken(file: bytes, pattern: str = "") -> bytes:
    """Return the serialized form of the contents of a tiktoken file.

    pattern: a name in `PATTERNS`, or a regular expression; "" chooses by the number of tokens. Raises `UsageError` if
    the number of tokens is not that of a known encoding.
    """
    if not pattern:
        count = len(_read_ranks(file))
        if count not in _PATTERN_OF_SIZE:
            raise UsageError(
                f"a tiktoken file does not state the pattern that splits text, and {count:,} tokens are not a known "
                "encoding's",
                hint=f"name the pattern ({', '.join(PATTERNS)}, or a regular expression): --pattern in `data make`, "
                "tokens.pattern in a recipe",
            )
        pattern = _PATTERN_OF_SIZE[count]
    header = json.dumps({"pattern": PATTERNS.get(pattern, pattern)}).encode()
    return MAGIC + header + b"\n" + file


def is_tiktoken_file(file: bytes) -> bool:
    """Whether the first line of a file is one of tiktoken's format."""
    return _LINE.fullmatch(file[:4096].split(b"\n", 1)[0].rstrip(b"\r")) is not None


def _read_ranks(lines: bytes) -> dict[int, bytes]:
    """Return id -> bytes of the tokens of a file."""
    ranks: dict[int, bytes] = {}
    for number, line in enumerate(lines.splitlines(), 1):
        if not line:
            continue
        found = _LINE.fullmatch(line)
        piece = _decoded(found[1]) if found else b""
        if not found or not piece or int(found[2]) in ranks:
            raise CorruptFileError(f"line {number} is not `BASE64 RANK` of a new token: {line[:40]!r}")
        ranks[int(found[2])] = piece
    if missing := sorted({bytes([byte]) for byte in range(256)} - set(ranks.values())):
        raise CorruptFileError(f"no token for {len(missing)} of the 256 bytes, the first one {missing[0]!r}")
    if len(set(ranks.values())) < len(ranks):
        raise CorruptFileError("two tokens have the same bytes")
    return ranks


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _read_pattern(header: bytes) -> str:
    try:
        pattern = json.loads(header)["pattern"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFileError(f"not a tiktoken tokenizer: the header {header[:40]!r} states no pattern") from error
    if not isinstance(pattern, str):
        raise CorruptFileError(f"not a tiktoken tokenizer: its pattern is {pattern!r}")
    return pattern


def _open(pattern: str, ranks: dict[bytes, int], bos: int) -> Any:
    """Return the `Encoding` of the package tiktoken."""
    package = import_package("tiktoken", "a tiktoken file")
    try:
        return package.Encoding("bitgolf", pat_str=pattern, mergeable_ranks=ranks, special_tokens={BOS_NAME: bos})
    except ValueError as error:
        raise CorruptFileError(f"the pattern {pattern!r} is not a regular expression of tiktoken ({error})") from error
