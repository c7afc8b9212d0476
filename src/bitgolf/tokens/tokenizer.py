"""What a tokenizer is, whatever its kind: tokens, and the exact bytes that they stand for.

The bytes of a document are told by its tokens one after the other, each byte by one of them: `count_bytes` telescopes to the
document, and no byte is counted twice or forgotten (`artifact_and_scoring` calls it the rule for any tokenizer).
`kinds.tokenizer_from_bytes` makes one of its serialized form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from bitgolf.files import digest

Ids = npt.NDArray[np.int32]


class Tokenizer(ABC):
    """proto: the serialized form, all that an artifact needs; digest: its name; place: where it came from, for messages.

    vocab: tokens; bos: the id that starts a document, -1 where there is none; names: the tokens as the model writes
    them; pieces: the bytes that each writes; byte_lengths: int64 [vocab], bytes of a text that each tells, wherever it
    stands (`count_bytes` knows the exceptions); is_byte, is_boundary: bool [vocab], single-byte tokens, and those of no
    bytes (control, unknown, unused). byte_fallback: every byte has a token; has_space: a space is one token.
    """

    bos: int
    piece_strings: list[str]
    piece_bytes: list[bytes]
    byte_lengths: npt.NDArray[np.int64]
    is_byte: npt.NDArray[np.bool_]
    is_boundary: npt.NDArray[np.bool_]
    byte_fallback: bool = True
    has_space: bool = True

    def __init__(self, serialized: bytes, where: str) -> None:
        self.serialized, self.digest, self.where = serialized, digest(serialized), where

    @property
    def vocab(self) -> int:
        return len(self.piece_strings)

    @property
    def lossless(self) -> bool:
        """Whether what others make of a text with the same model is exact too."""
        return True

    # ---- exact ---------------------------------------------------------------------------------------------------

    def encode(self, data: bytes) -> Ids:
        """The tokens of any bytes; `decode(encode(data)) == data`, always. No BOS is added."""
        return self.encode_documents([data])[0]

    @abstractmethod
    def encode_documents(self, documents: Sequence[bytes]) -> list[Ids]:
        """`encode` of each document, in one batch."""

    def decode(self, ids: Iterable[int] | npt.NDArray[np.integer]) -> bytes:
        """The bytes that the tokens stand for, of one document or several. Raises `CorruptFileError` where no text has them."""
        listed = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return b"".join(map(self.piece_bytes.__getitem__, listed))

    def decode_lenient(self, ids: Iterable[int]) -> bytes:
        """What a reader is shown of tokens that a model made up: `decode`, which never fails."""
        return self.decode(ids)

    def count_bytes(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The bytes of the text that each token tells, int64 [n]: over a whole document, or several, they sum to its length."""
        return self.byte_lengths[ids]

    # ---- as others do it -----------------------------------------------------------------------------------------

    def normalised(self, data: bytes) -> bytes:
        """The text that `encode_normalised` encodes in place of `data`."""
        return data

    def encode_normalised(self, data: bytes) -> tuple[Ids, int]:
        """What others make of a text with the same model, and how many raw bytes that loses or changes."""
        return self.encode(data), 0

    def published_byte_count(self, ids: npt.NDArray[np.integer]) -> int:
        """The bytes of a document of `encode_normalised`, as the field counted them with this kind of tokenizer."""
        return int(self.count_bytes(ids).sum())
