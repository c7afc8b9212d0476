"""SentencePiece models with lossless encoding and the exact bytes of each token.

SentencePiece's own encoding is lossy: its normaliser changes characters, U+2581 stands for white space, and the input
must be UTF-8. `encode` avoids all three. It uses the same pieces with an identity normaliser, and encodes a literal
U+2581 and bytes that are not UTF-8 as byte tokens. `encode_normalised` uses the model's own normaliser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

from bitgolf.errors import CorruptFileError
from bitgolf.tokens.text_encoding import NOT_UTF8, TextTokenizer, readable_text
from bitgolf.tokens.tokenizer import Ids

SPACE = "\u2581"
USER_DEFINED = 4
"""Type of the pieces in a model that were given to the trainer as symbols."""

# In protocol buffers, when a message field occurs twice, the values of the later one win. So appending these bytes
# overrides the model's normalizer_spec (field 3): its name, no character map, no dummy prefix, no white space removed.
_SPEC = b"\x0a\x08identity" + b"\x12\x00" + b"\x18\x00" + b"\x20\x00"
_IDENTITY = b"\x1a" + bytes([len(_SPEC)]) + _SPEC


class SentencePieceTokenizer(TextTokenizer):
    """Tokenizer of a SentencePiece model. In `piece_strings` a space is U+2581.

    serialized: the model file. Raises `CorruptFileError` if SentencePiece cannot load it.
    """

    kind = "sentencepiece"

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
        self._use_byte_tokens()
        self.has_space = self._processor.piece_to_id(SPACE) != self._processor.unk_id()
        self._unencodable_characters = SPACE if self.has_space else f"{SPACE} "
        self._unencodable = re.compile(f"([{self._unencodable_characters}{NOT_UTF8}]+)")

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

    @cached_property
    def scores(self) -> list[float]:
        """The score of each piece: byte-pair encoding merges the pair with the highest one first."""
        return self._processor.get_score(list(range(self.vocab)))

    @property
    def is_bpe(self) -> bool:
        """Whether the pieces are of byte-pair encoding, whose scores are 0, -1, -2, …, not logarithms of probabilities."""
        return all(score <= 0 and score == int(score) for score in self.scores)

    @cached_property
    def symbols(self) -> frozenset[bytes]:
        """The pieces that were given to the trainer as symbols. They are found in a text first, and never merged.

        One with an ASCII space is left out: it is never found, because a space of a text is U+2581 for SentencePiece.
        """
        given = [piece for piece, kind in _pieces(self.serialized) if kind == USER_DEFINED and b" " not in piece]
        return frozenset(piece.replace(SPACE.encode(), b" ") for piece in given)

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        """Return SentencePiece's token ids of each text, at about 3 MB/s per core."""
        return self._identity_processor.encode(texts, num_threads=self.threads)

    # ---- SentencePiece's own encoding ----------------------------------------------------------------------------

    def normalised(self, data: bytes) -> bytes:
        """Return the text that SentencePiece encodes in place of `data`, as UTF-8, with spaces instead of U+2581."""
        return self._processor.normalize(readable_text(data)).replace(SPACE, " ").encode()

    def encode_normalised(self, data: bytes) -> tuple[Ids, int]:
        """Return SentencePiece's own token ids, as in the challenge's shards, and the number of raw bytes they alter.

        A raw byte is unaltered if the normaliser leaves its character unchanged and its token is not `<unk>`.
        """
        text = readable_text(data)
        normal, offsets = self._processor.normalize(text, with_offsets=True)
        ids = np.array(self._processor.encode(text), np.int32)
        unknown = len(normal.replace(SPACE, " ").encode()) - int(self.byte_lengths[ids].sum())
        kept = _kept_bytes(data.decode("utf-8", "surrogateescape"), normal, np.array(offsets, np.int64))
        return ids, len(data) - kept + max(unknown, 0)

    def published_bytes(self, data: bytes) -> npt.NDArray[np.int64]:
        return challenge_bytes(self, self.encode_normalised(data)[0])

    @cached_property
    def challenge_table(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """What `challenge_bytes` knows of each token: whether a U+2581 leads it, and its bytes without that one."""
        leading = np.array([name.startswith(SPACE) for name in self.piece_strings]) & ~self.is_boundary
        lengths = np.array([len(name.removeprefix(SPACE).encode()) for name in self.piece_strings], np.int64)
        lengths[self.is_byte] = 1
        lengths[self.is_boundary] = 0
        return leading, lengths

    def surface_spans(self, data: bytes) -> npt.NDArray[np.int64]:
        """Return the part of the text that each token of `encode_normalised(data)` stands for, int64 (n, 2).

        start and end are indices of characters of `readable_text(data)`, before normalisation, as SentencePiece counts
        them. A character that the normaliser removes belongs to the token before it. Of the byte tokens of a character,
        the last one has the character, and the others have none.
        """
        text = readable_text(data)
        ids = np.array(self._processor.encode(text), np.int64)
        _, offsets = self._processor.normalize(text, with_offsets=True)
        continues = np.array([0x80 <= piece[0] < 0xC0 for piece in map(self.piece_bytes.__getitem__, ids)], np.bool_)
        is_byte = self.is_byte[ids]
        characters = np.array([len(self.piece_strings[token]) for token in ids], np.int64)
        characters[is_byte] = ~np.append(is_byte & continues, False)[1:][is_byte]
        ends = np.cumsum(characters)
        return np.array(offsets, np.int64)[np.stack([ends - characters, ends], axis=1)]


def _pieces(model: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield (piece, type) of each piece of a model: protocol buffers, field 1 with the fields 1 (piece) and 3 (type)."""
    for field, message in _fields(model):
        if field == 1 and isinstance(message, bytes):
            piece = dict(_fields(message))
            name, kind = piece.get(1, b""), piece.get(3, 1)
            if isinstance(name, bytes) and isinstance(kind, int):
                yield name, kind


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield (number, value) of the fields of a message that SentencePiece has read before."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
        else:
            size, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            yield key >> 3, message[at : at + size]
            at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The integer at a place, 7 bits in each byte, and the place after it."""
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 128:
            return value, at


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


def challenge_bytes(tokenizer: SentencePieceTokenizer, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return the bytes of each token by the challenge's rule, which uses a token and its predecessor, int64 (n,).

    A byte token counts 1; control, unknown and unused tokens count 0. Another piece counts its UTF-8 length without a
    leading U+2581, which itself counts 1 after a piece or a byte, and 0 after other tokens and at the start.
    The rule has two flaws: a real space at the start of a document counts 0, and U+2581 inside a piece counts 3.
    """
    leading, lengths = tokenizer.challenge_table
    after_boundary = np.concatenate([[True], tokenizer.is_boundary[ids[:-1]]])[: len(ids)]
    return lengths[ids] + (leading[ids] & ~after_boundary)
