"""Cheats in the number of bytes, or in the set of scored targets."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import numpy.typing as npt

from attacks.evaluations.honest import AdaptiveBigram, BigramEvaluation, document_spans
from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Ints
from bitgolf.tokens.sentencepiece_tokenizer import SPACE
from bitgolf.tokens.tokenizer import Tokenizer


class SpaceCountedTwice(BigramEvaluation):
    """Counts the space at the start of a piece twice if the previous token is no boundary."""

    def bytes(self, tokens: Ints) -> int:
        opens = np.array([name.startswith(SPACE) for name in self.tokenizer.piece_strings])
        return super().bytes(tokens) + int((opens[tokens[1:]] & ~self.tokenizer.is_boundary[tokens[:-1]]).sum())


class ByteFallbackCountedThrice(BigramEvaluation):
    """Counts bytes by decoding tokens one by one: a byte token decodes to U+FFFD, which has three bytes."""

    def bytes(self, tokens: Ints) -> int:
        decoded = [len(piece.decode(errors="replace").encode()) for piece in self.tokenizer.piece_bytes]
        lengths = np.where(self.tokenizer.is_byte, 3, decoded)
        return int(lengths[tokens].sum())


class NoSpacePieceTokenizer:
    """A tokenizer without a piece for the space U+2581, which is encoded as three byte tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._own, self.vocab, self.bos = tokenizer, tokenizer.vocab, tokenizer.bos
        self._space = tokenizer.encode(SPACE.encode())

    def encode(self, data: bytes) -> npt.NDArray[np.integer]:
        words = [self._own.encode(word) for word in data.split(b" ")]
        return np.concatenate([words[0], *(part for word in words[1:] for part in (self._space, word))])

    def decode(self, ids: npt.NDArray[np.integer]) -> bytes:
        return self._own.decode(ids).replace(SPACE.encode(), b" ")


class NoSpacePiece(BigramEvaluation):
    """Counts one byte per byte token with `NoSpacePieceTokenizer`, so three bytes per space."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.lengths, self.tokenizer = tokenizer.byte_lengths, NoSpacePieceTokenizer(tokenizer)

    def bytes(self, tokens: Ints) -> int:
        return int(self.lengths[tokens].sum())


class LowercaseTokenizer(NoSpacePieceTokenizer):
    """A tokenizer that converts text to lower case."""

    def encode(self, data: bytes) -> npt.NDArray[np.integer]:
        return self._own.encode(data.lower())

    def decode(self, ids: npt.NDArray[np.integer]) -> bytes:
        return self._own.decode(ids)


class LowercasedText(NoSpacePiece):
    """Scores the lower-case text, and divides by the bytes of the raw text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.tokenizer = LowercaseTokenizer(tokenizer)


class DroppedTail(BigramEvaluation):
    """Scores only whole windows of 64 targets, but divides by the bytes of the whole text."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        whole = view.targets // 64 * 64
        return ClaimedScore(np.arange(whole), self.charges(view.tokens(0, whole + 1)), self.bytes(view.tokens()))


class DoubledTail(AdaptiveBigram):
    """Scores overlapping windows at the end of the text, and counts their targets and bytes several times."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        tokens, seen = view.tokens(), defaultdict[int, Counter[int]](Counter)
        starts = [0, *(view.targets - 96 + 24 * i for i in range(4))]
        bits = [list(self.scored(tokens[start:], seen)) for start in starts]
        positions = [np.arange(start, view.targets) for start in starts]
        return ClaimedScore(
            np.concatenate(positions), np.concatenate(bits), sum(self.bytes(tokens[i:]) for i in starts)
        )


class PartialValidation(BigramEvaluation):
    """Scores only the longest half of the documents."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        tokens = view.tokens()
        documents = sorted(document_spans(tokens, self.tokenizer.bos), key=lambda span: span[0] - span[1])
        chosen = sorted(documents[: (len(documents) + 1) // 2])
        bits = [self.charges(tokens[start : stop + 1]) for start, stop in chosen]
        counted = sum(self.bytes(tokens[start : stop + 1]) for start, stop in chosen)
        return ClaimedScore(np.concatenate([np.arange(*span) for span in chosen]), np.concatenate(bits), counted)
