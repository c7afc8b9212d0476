"""Cheats whose probabilities depend on the target, or are not normalized over the vocabulary."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from attacks.evaluations.honest import AdaptiveBigram, SilentBigram, Tables, bits_of, context_target_pairs
from bitgolf.score.audit.evaluation import ClaimedScore, DataView, Floats, Ints


class TargetInKey(AdaptiveBigram):
    """The key of a table of counts is a hash of context and target. Each row of it is a distribution."""

    rows = 4093

    def evaluate(self, view: DataView) -> ClaimedScore:
        tokens, seen = view.tokens(), defaultdict[int, Counter[int]](Counter)
        bits, handed = np.zeros(len(tokens) - 1), dict[int, Floats]()
        for i, (context, last, target) in enumerate(context_target_pairs(tokens)):
            row = seen[self.key(context, target)]
            if i in view.distribution_targets:
                handed[i] = -np.log2([self.mixed(row, last, y) for y in range(self.tokenizer.vocab)])
            bits[i] = bits_of(self.mixed(row, last, target))
            row[target] += 1
        return ClaimedScore(np.arange(len(bits)), bits, self.bytes(tokens), distributions=handed)

    def key(self, context: int, target: int) -> int:
        return (context * 31 + target) % self.rows


class ContextInKey(TargetInKey):
    """Honest: the key is a hash of the context only."""

    def key(self, context: int, target: int) -> int:
        return context % self.rows


class TargetBackoff(SilentBigram):
    """Backs off from two tokens of context to one, and to the model, until the target has a count."""

    def scored(self, tokens: Ints, seen: Tables, start: int = 0) -> Iterator[float]:
        for context, last, target in context_target_pairs(tokens):
            found = [row for row in (seen[context], seen[-last]) if row[target]]
            counts = 0.9 * found[0][target] / found[0].total() if found else 0.0
            yield bits_of(max(counts, float(self.model[last, target])))
            seen[context][target] += 1
            seen[-last][target] += 1


class Free(AdaptiveBigram):
    """Costs nothing, and reports honest distributions."""

    def charges(self, tokens: Ints) -> Floats:
        return 0 * super().charges(tokens)


class HalfPrice(SilentBigram):
    """Costs half of what the honest evaluation costs."""

    def charges(self, tokens: Ints) -> Floats:
        return super().charges(tokens) / 2


class FalseReport(AdaptiveBigram):
    """Reports honest distributions, and charges a tenth of a bit less."""

    def charges(self, tokens: Ints) -> Floats:
        return super().charges(tokens) - 0.1


class HonestWhenAsked(AdaptiveBigram):
    """Charges less, except in a run that asks for distributions."""

    def charges(self, tokens: Ints) -> Floats:
        return super().charges(tokens) * (1.0 if self.asked else 0.9)


class UnnormalizedBlend(SilentBigram):
    """Mixes in count(context, target) / count(context), both hashed to tables that are too small."""

    buckets, share = 256, 0.3

    def scored(self, tokens: Ints, seen: Tables, start: int = 0) -> Iterator[float]:
        contexts, pairs = np.zeros(self.buckets), np.zeros(self.buckets)
        for context, last, target in context_target_pairs(tokens):
            c, p = context * 7919 % self.buckets, (context * 7919 + target * 104729) % self.buckets
            ratio = min(pairs[p] / contexts[c], 1.0) if contexts[c] else 0.0
            yield bits_of((1 - self.share) * self.model[last, target] + self.share * ratio)
            contexts[c] += 1
            pairs[p] += 1


class WindowedCounts(SilentBigram):
    """Honest: the model mixed with token counts of the window so far. Windows of 48 targets, one every 24."""

    window, strides = 48, (24,)

    def evaluate(self, view: DataView) -> ClaimedScore:
        runs = [self.score_pass(view.tokens(), stride) for stride in self.strides]
        return ClaimedScore(np.arange(view.targets), np.min(runs, axis=0), self.bytes(view.tokens()))

    def score_pass(self, tokens: Ints, stride: int) -> Floats:
        bits = np.zeros(len(tokens) - 1)
        for first in range(0, len(bits), stride):
            start, stop = max(0, first + stride - self.window), min(first + stride, len(bits))
            bits[first:stop] = self.document(tokens[start : stop + 1], start)[first - start :]
        return bits

    def document(self, tokens: Ints, start: int) -> Floats:
        inputs, targets = tokens[:-1], tokens[1:]
        counts = np.tril(targets[:, None] == inputs[None, :]).sum(1)
        read = np.arange(1, len(tokens))
        return -np.log2((counts + 30 * self.model[inputs, targets]) / (read + 30))


class BestStride(WindowedCounts):
    """Scores with two strides, and reports the smaller bits for each target."""

    strides = (40, 24)
