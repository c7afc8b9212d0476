"""SentencePiece on text whose capitals are written as operators (`bitgolf.text.caseops`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from bitgolf.errors import DamagedError
from bitgolf.text.caseops import OPERATORS, inverse, is_text, readable, transform
from bitgolf.tokens.sentencepiece_tokenizer import SentencePiece
from bitgolf.tokens.tokenizer import Ids, Tokenizer

MAGIC = b"bitgolf case operators\n"


class CaseOperators(Tokenizer):
    """`proto`: the magic, then a SentencePiece model with a piece for each of the four operators and for each byte.

    `pieces` and `names` are of the transformed text. What a token tells of the text is its characters, operators apart:
    so `byte_lengths` are exact but for an operator that the text itself holds, which tells three bytes where it follows ESC.
    Raises `DamagedError` for any other proto.
    """

    def __init__(self, proto: bytes, *, place: str = "tokenizer") -> None:
        self._inner = inner = SentencePiece(proto.removeprefix(MAGIC), place=place)
        lacking = [f"U+{ord(operator.decode()):X}" for operator in OPERATORS if operator not in inner.pieces]
        if lacking or not inner.byte_fallback:
            what = f"no piece for {lacking[0]}" if lacking else "no byte fallback"
            raise DamagedError(f"not a model for text with case operators: it has {what}", place=place)
        super().__init__(proto, place)
        self.bos, self.names, self.pieces = inner.bos, inner.names, inner.pieces
        self.is_byte, self.is_boundary, self.has_space = inner.is_byte, inner.is_boundary, inner.has_space
        self.byte_lengths = np.array([int(is_text(piece).sum()) for piece in self.pieces], np.int64)

    @property
    def lossless(self) -> bool:
        return self._inner.lossless

    def encode_documents(self, documents: Sequence[bytes]) -> list[Ids]:
        return self._inner.encode_documents([transform(data) for data in documents])

    def decode(self, ids: Iterable[int] | npt.NDArray[np.integer]) -> bytes:
        return b"".join(inverse(self._inner.decode(part)) for part in self._documents(ids))

    def readable(self, ids: Iterable[int]) -> bytes:
        return b"".join(readable(self._inner.decode(part)) for part in self._documents(ids))

    def token_bytes(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        return np.concatenate([self._token_bytes(part) for part in self._documents(ids)])

    def _token_bytes(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Of one document: the bytes of the text in each token's stretch of what all write."""
        ends = np.cumsum([0, *self._inner.byte_lengths[ids]])
        before = np.concatenate([[0], np.cumsum(is_text(self._inner.decode(ids)), dtype=np.int64)])
        return np.diff(before[ends])

    def _documents(self, ids: Iterable[int] | npt.NDArray[np.integer]) -> Iterator[npt.NDArray[np.integer]]:
        """Cut before each token that has no bytes: operators do not reach over a document's end."""
        every = ids if isinstance(ids, np.ndarray) else np.array(list(ids), np.int64)
        yield from np.split(every, np.flatnonzero(self.is_boundary[every]))

    def normalised(self, data: bytes) -> bytes:
        return readable(self._inner.normalised(transform(data)))

    def encode_normalised(self, data: bytes) -> tuple[Ids, int]:
        return self._inner.encode_normalised(transform(data))
