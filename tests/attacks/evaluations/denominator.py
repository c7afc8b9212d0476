"""Cheats in the number of bytes, or in the set of scored targets."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from attacks.evaluations.honest import AdaptiveBigram, BigramEvaluation, document_spans
from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Ints
from bitgolf.tokens.sentencepiece_tokenizer import SPACE


class SpaceCountedTwice(BigramEvaluation):
    """Counts the space at the start of a piece twice if the previous token is no boundary."""

    def bytes(self, tokens: Ints) -> int:
        opens = np.array([name.startswith(SPACE) for name in self.tokenizer.piece_strings])
        return super().bytes(tokens) + int((opens[tokens[1:]] & ~self.tokenizer.is_boundary[tokens[:-1]]).sum())


class SpaceCountedTwiceLate(SpaceCountedTwice):
    """Only in the second half of the text."""

    def bytes(self, tokens: Ints) -> int:
        return BigramEvaluation.bytes(self, tokens[: len(tokens) // 2]) + super().bytes(tokens[len(tokens) // 2 :])


class ByteFallbackCountedThrice(BigramEvaluation):
    """Counts bytes by decoding tokens one by one: a byte token decodes to U+FFFD, which has three bytes."""

    def bytes(self, tokens: Ints) -> int:
        decoded = [len(piece.decode(errors="replace").encode()) for piece in self.tokenizer.piece_bytes]
        lengths = np.where(self.tokenizer.is_byte, 3, decoded)
        return int(lengths[tokens].sum())


class EveryThirdCountedThrice(ByteFallbackCountedThrice):
    """Only in every third section of 40 tokens."""

    def bytes(self, tokens: Ints) -> int:
        sections = [tokens[i : i + 40] for i in range(0, len(tokens), 40)]
        counts = (ByteFallbackCountedThrice.bytes, BigramEvaluation.bytes, BigramEvaluation.bytes)
        return sum(counts[i % 3](self, own) for i, own in enumerate(sections))


class MoreBytes(BigramEvaluation):
    """One per cent more bytes."""

    def bytes(self, tokens: Ints) -> int:
        return int(1.01 * super().bytes(tokens))


class DroppedTail(BigramEvaluation):
    """Scores only whole windows of 64 targets, but divides by the bytes of the whole text."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        whole = view.targets // 64 * 64
        self.asked = view.distribution_targets & frozenset(range(whole))
        bits = self.charges(view.tokens(0, whole + 1))
        return ClaimedScore(np.arange(whole), bits, self.bytes(view.tokens()), distributions=self.distributions)


class DoubledTail(AdaptiveBigram):
    """Scores overlapping windows at the end of the text, and counts their targets and bytes several times."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        self.asked = view.distribution_targets
        tokens, seen = view.tokens(), defaultdict[int, Counter[int]](Counter)
        starts = [0, *(view.targets - 96 + 24 * i for i in range(4))]
        bits = [list(self.scored(tokens[start:], seen, start)) for start in starts]
        positions = [np.arange(start, view.targets) for start in starts]
        counted = sum(self.bytes(tokens[i:]) for i in starts)
        return ClaimedScore(np.concatenate(positions), np.concatenate(bits), counted, distributions=self.distributions)


class PartialValidation(BigramEvaluation):
    """Scores only the longest half of the documents."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        tokens = view.tokens()
        documents = sorted(document_spans(tokens, self.tokenizer.bos), key=lambda span: span[0] - span[1])
        chosen = sorted(documents[: (len(documents) + 1) // 2])
        bits = [-np.log2(self.model[tokens[start:stop], tokens[start + 1 : stop + 1]]) for start, stop in chosen]
        handed = {target: -np.log2(self.model[tokens[target]]) for target in view.distribution_targets}
        counted = sum(self.bytes(tokens[start : stop + 1]) for start, stop in chosen)
        return ClaimedScore(
            np.concatenate([np.arange(*span) for span in chosen]), np.concatenate(bits), counted, 0.0, handed
        )


class EveryEpochCharged(AdaptiveBigram):
    """Two epochs on the text, both charged and both counted."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        self.asked = view.distribution_targets
        tokens, seen = view.tokens(), defaultdict[int, Counter[int]](Counter)
        bits = [list(self.scored(tokens, seen)) for _ in range(2)]
        twice = np.tile(np.arange(view.targets), 2)
        return ClaimedScore(twice, np.concatenate(bits), 2 * self.bytes(tokens), distributions=self.distributions)


class HardTargetsSkipped(BigramEvaluation):
    """Leaves out targets that cost more than six bits, except the first of a document."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        claim = super().evaluate(view)
        kept = (claim.bits <= 6) | (view.tokens()[:-1] == self.tokenizer.bos)
        return claim._replace(positions=claim.positions[kept], bits=claim.bits[kept])


class EveryTwentiethSkipped(BigramEvaluation):
    """Leaves out every twentieth target."""

    def evaluate(self, view: DataView) -> ClaimedScore:
        claim = super().evaluate(view)
        kept = claim.positions % 20 != 7
        return claim._replace(positions=claim.positions[kept], bits=claim.bits[kept])
