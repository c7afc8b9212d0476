"""SentencePiece tokenizer for text with case operators (`bitgolf.text.caseops`).

Source of the published byte counts: openai/parameter-golf, pull request 1729.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from bitgolf.errors import CorruptFileError
from bitgolf.text.caseops import OPERATORS, decode_case, decode_case_lenient, encode_case, text_byte_mask
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.text_encoding import readable_text
from bitgolf.tokens.tokenizer import Ids, Tokenizer

MAGIC = b"bitgolf case operators\n"


class CaseOpsTokenizer(Tokenizer):
    """Tokenizer that encodes capital letters as case operators.

    serialized: `MAGIC`, then a SentencePiece model with a piece for each of the four operators and for each byte, which
    is `inner`.
    `piece_bytes` and `piece_strings` are those of the encoded text. A token accounts for the bytes of its characters
    without operators. `byte_lengths` is therefore exact except for operators of the original text, which follow ESC and
    count three bytes. Raises `CorruptFileError` for any other model.
    """

    kind = "caseops"

    def __init__(self, serialized: bytes, *, where: str = "tokenizer") -> None:
        self.inner = inner = SentencePieceTokenizer(serialized.removeprefix(MAGIC), where=where)
        missing = [f"U+{ord(operator.decode()):X}" for operator in OPERATORS if operator not in inner.piece_bytes]
        if missing or not inner.byte_fallback:
            what = f"no piece for {missing[0]}" if missing else "no byte fallback"
            raise CorruptFileError(f"not a tokenizer for text with case operators: it has {what}", where=where)
        super().__init__(serialized, where)
        self.bos, self.piece_strings, self.piece_bytes = inner.bos, inner.piece_strings, inner.piece_bytes
        self.is_byte, self.is_boundary, self.has_space = inner.is_byte, inner.is_boundary, inner.has_space
        self.byte_lengths = np.array([int(text_byte_mask(piece).sum()) for piece in self.piece_bytes], np.int64)

    @property
    def lossless(self) -> bool:
        return self.inner.lossless

    def encode_documents(self, documents: Sequence[bytes]) -> list[Ids]:
        return self.inner.encode_documents([encode_case(data) for data in documents])

    def decode(self, ids: Iterable[int] | npt.NDArray[np.integer]) -> bytes:
        return b"".join(decode_case(self.inner.decode(part)) for part in self._documents(ids))

    def decode_lenient(self, ids: Iterable[int]) -> bytes:
        return b"".join(decode_case_lenient(self.inner.decode(part)) for part in self._documents(ids))

    def count_bytes(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        return np.concatenate([self._token_bytes(part) for part in self._documents(ids)])

    def _token_bytes(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Return the number of bytes of the original text that each token of one document accounts for."""
        ends = np.cumsum([0, *self.inner.byte_lengths[ids]])
        before = np.concatenate([[0], np.cumsum(text_byte_mask(self.inner.decode(ids)), dtype=np.int64)])
        return np.diff(before[ends])

    def _documents(self, ids: Iterable[int] | npt.NDArray[np.integer]) -> Iterator[npt.NDArray[np.integer]]:
        """Split before each token without bytes, such as BOS: case operators do not act across documents."""
        every = ids if isinstance(ids, np.ndarray) else np.array(list(ids), np.int64)
        yield from np.split(every, np.flatnonzero(self.is_boundary[every]))

    def normalised(self, data: bytes) -> bytes:
        return decode_case_lenient(self.inner.normalised(encode_case(data)))

    def encode_normalised(self, data: bytes) -> tuple[Ids, int]:
        return self.inner.encode_normalised(encode_case(data))

    def published_bytes(self, data: bytes) -> npt.NDArray[np.int64]:
        """Return the counts of the published byte sidecar for the tokens of `encode_normalised(data)`, int64 (n,).

        Each token counts the part of the original text that it stands for, before normalisation: an operator 0, a
        character its UTF-8 length, on the last of its byte tokens, and a removed character on the token before it. So
        they sum to `len(data)`, unless the normaliser removes characters at the start or white space at the end, which
        no token stands for.
        """
        text = encode_case(readable_text(data).encode())
        before = np.concatenate([[0], np.cumsum(text_byte_mask(text), dtype=np.int64)])
        is_start = (np.frombuffer(text, np.uint8) & 0xC0) != 0x80  # first byte of a character
        before_character = before[np.append(np.flatnonzero(is_start), len(text))]
        return np.diff(before_character[self.inner.surface_spans(text)], axis=1)[:, 0]


def has_case_operators(tokenizer: SentencePieceTokenizer) -> bool:
    """Whether a SentencePiece model was trained on text with case operators: each is a symbol given to the trainer."""
    return tokenizer.byte_fallback and tokenizer.symbols.issuperset(OPERATORS)
