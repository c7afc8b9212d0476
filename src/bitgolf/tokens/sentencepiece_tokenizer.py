"""SentencePiece models with lossless encoding and the exact bytes of each token.

SentencePiece's own encoding is lossy: its normaliser changes characters, U+2581 stands for white space, and the input
must be UTF-8. `encode` avoids all three. It uses the same pieces with an identity normaliser, and encodes a literal
U+2581 and bytes that are not UTF-8 as byte tokens. `encode_normalised` uses the model's own normaliser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.tokens.tokenizer import Ids, Tokenizer

SPACE = "\u2581"
THREADS = 2

# In protocol buffers, when a message field occurs twice, the values of the later one win. So appending these bytes
# overrides the model's normalizer_spec (field 3): its name, no character map, no dummy prefix, no white space removed.
_SPEC = b"\x0a\x08identity" + b"\x12\x00" + b"\x18\x00" + b"\x20\x00"
_IDENTITY = b"\x1a" + bytes([len(_SPEC)]) + _SPEC
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, decoded with "surrogateescape"


class SentencePieceTokenizer(Tokenizer):
    """Tokenizer of a SentencePiece model. In `piece_strings` a space is U+2581.

    serialized: the model file. Raises `CorruptFileError` if SentencePiece cannot load it.
    """

    def __init__(self, serialized: bytes, *, where: str = "tokenizer") -> None:
        try:
            self._processor = SentencePieceProcessor(model_proto=serialized)
            self._identity_processor = SentencePieceProcessor(model_proto=serialized + _IDENTITY)
            self.piece_strings = self._processor.id_to_piece(list(range(len(self._processor))))
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter if a message of SentencePiece is not UTF-8
            raise CorruptFileError(f"not a SentencePiece model ({error})", where=where) from error
        if not self.piece_strings:
            raise CorruptFileError("not a SentencePiece model (it has no pieces)", where=where)
        super().__init__(serialized, where)
        self.bos = int(self._processor.bos_id())
        self.is_byte = self._flags(self._processor.is_byte)
        self.is_boundary = self._flags(
            self._processor.is_control, self._processor.is_unknown, self._processor.is_unused
        )
        self.piece_bytes = [self._bytes_of(token) for token in range(self.vocab)]
        self.byte_lengths = np.array([len(piece) for piece in self.piece_bytes], np.int64)
        self._byte_ids = {self.piece_bytes[token][0]: token for token in np.flatnonzero(self.is_byte).tolist()}
        self.byte_fallback = len(self._byte_ids) == 256
        self.has_space = self._processor.piece_to_id(SPACE) != self._processor.unk_id()
        self._unencodable = re.compile(f"([{SPACE}\udc80-\udcff{'' if self.has_space else ' '}]+)")

    def _flags(self, *tests: Callable[[int], bool]) -> npt.NDArray[np.bool_]:
        return np.array([any(test(token) for test in tests) for token in range(self.vocab)])

    def _bytes_of(self, token: int) -> bytes:
        name = self.piece_strings[token]
        if self.is_byte[token]:
            return bytes([int(name[3:5], 16)])
        return b"" if self.is_boundary[token] else name.replace(SPACE, " ").encode()

    @cached_property
    def identity_normaliser(self) -> bool:
        """Whether the model's own normaliser is the identity: overriding it leaves the serialized model the same."""
        return self._processor.serialized_model_proto() == self._identity_processor.serialized_model_proto()

    @property
    def lossless(self) -> bool:
        """Whether SentencePiece's own encoding is exact too, for any text without U+2581."""
        return self.identity_normaliser and self.byte_fallback and self.has_space

    # ---- exact ---------------------------------------------------------------------------------------------------

    def encode_documents(self, documents: Sequence[bytes]) -> list[Ids]:
        """Return the token ids of each document, int32 (n,). About 5 MB/s on two cores.

        Raises `BitgolfError` if the model has no byte fallback.
        """
        if not self.byte_fallback:
            raise BitgolfError(
                "the tokenizer has no byte fallback, so some characters have no token",
                where=self.where,
                hint="use a tokenizer trained with byte_fallback",
            )
        parts = [self._unencodable.split(data.decode("utf-8", "surrogateescape")) for data in documents]
        texts = [text for part in parts for text in part[::2]]
        encoded = iter(zip(texts, self._identity_processor.encode(texts, num_threads=THREADS), strict=True))
        return [self._assemble(part, [self._checked(*next(encoded)) for _ in part[::2]]) for part in parts]

    def _checked(self, text: str, ids: list[int]) -> list[int]:
        """Return SentencePiece's tokens if they decode to `text`, otherwise byte tokens.

        Losslessness then does not depend on SentencePiece's code.
        """
        data = text.encode()
        return ids if self.decode(ids) == data else self._byte_tokens(data)

    def _assemble(self, part: list[str], encoded: list[list[int]]) -> Ids:
        """Join the tokens of the encoded texts (even items of `part`) and the byte tokens of the items between them."""
        ids = list(encoded[0])
        for unencodable, text_ids in zip(part[1::2], encoded[1:], strict=True):
            ids += self._byte_tokens(unencodable.encode("utf-8", "surrogateescape"))
            ids += text_ids
        return np.array(ids, np.int32)

    def _byte_tokens(self, data: bytes) -> list[int]:
        return [self._byte_ids[byte] for byte in data]

    # ---- SentencePiece's own encoding ----------------------------------------------------------------------------

    def normalised(self, data: bytes) -> bytes:
        """Return the text that SentencePiece encodes in place of `data`, as UTF-8, with spaces instead of U+2581."""
        return self._processor.normalize(_readable(data)).replace(SPACE, " ").encode()

    def encode_normalised(self, data: bytes) -> tuple[Ids, int]:
        """Return SentencePiece's own token ids, as in the challenge's shards, and the number of raw bytes they alter.

        A raw byte is unaltered if the normaliser leaves its character unchanged and its token is not `<unk>`.
        """
        text = _readable(data)
        normal, offsets = self._processor.normalize(text, with_offsets=True)
        ids = np.array(self._processor.encode(text), np.int32)
        unknown = len(normal.replace(SPACE, " ").encode()) - int(self.byte_lengths[ids].sum())
        kept = _kept_bytes(data.decode("utf-8", "surrogateescape"), normal, np.array(offsets, np.int64))
        return ids, len(data) - kept + max(unknown, 0)

    def published_byte_count(self, ids: npt.NDArray[np.integer]) -> int:
        return challenge_byte_count(self, ids)


def _readable(data: bytes) -> str:
    return _ESCAPED.sub("\ufffd", data.decode("utf-8", "surrogateescape"))


def _kept_bytes(raw: str, normal: str, offsets: npt.NDArray[np.int64]) -> int:
    """Return the number of UTF-8 bytes of the raw characters that the normaliser leaves unchanged.

    offsets: index of a normalised character -> index of its raw character.
    """
    before, after = _code_points(raw), _code_points(normal)
    after[after == ord(SPACE)] = ord(" ")
    origin = offsets[: len(after)]
    kept = before[np.unique(origin[before[origin] == after])]
    return int((1 + (kept >= 0x80) + (kept >= 0x800) + (kept >= 0x10000)).sum())


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).copy()


# ---- the challenge's byte table ----------------------------------------------------------------------------------


def challenge_byte_count(tokenizer: Tokenizer, ids: npt.NDArray[np.integer]) -> int:
    """Return the number of bytes of a token sequence by the challenge's rule, which uses a token and its predecessor.

    A byte token counts 1; control, unknown and unused tokens count 0. Another piece counts its UTF-8 length without a
    leading U+2581, which itself counts 1 after a piece or a byte, and 0 after other tokens and at the start.
    The rule has two flaws: a real space at the start of a document counts 0, and U+2581 inside a piece counts 3.
    """
    leading = np.array([name.startswith(SPACE) for name in tokenizer.piece_strings]) & ~tokenizer.is_boundary
    lengths = np.array([len(name.removeprefix(SPACE).encode()) for name in tokenizer.piece_strings])
    lengths[tokenizer.is_byte] = 1
    lengths[tokenizer.is_boundary] = 0
    after_boundary = np.concatenate([[True], tokenizer.is_boundary[ids[:-1]]])[: len(ids)]
    return int(lengths[ids].sum() + (leading[ids] & ~after_boundary).sum())
