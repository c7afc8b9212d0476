"""A larger logit for the token that has nearly always followed the present context, with another method below.

Source: openai/parameter-golf, pull requests 1145, 1514 and 2135. There, the counts run through the text in corpus order
while documents are scored longest first, so no order of the tokens exists in which every prediction uses only earlier
ones. Here, a token is counted when it has been scored, which a decoder can repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.ranges import NGramOrder, NonNegative, Range
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.execution.async_copy import copy_to_device
from bitgolf.score.execution.forward import Forward, SelectKernels
from bitgolf.score.methods import ScoringMethod, SlidingScoring, TextBatch, TextSection
from bitgolf.score.player import AdaptationStep, Player, ScoringBatch, coding_player
from bitgolf.score.text import TokenizedText

NO_CONTEXT = b""  # of a target with fewer tokens before it than a context has


class ContextSuccessors(NamedTuple):
    """What has followed a context: tokens in all, and the most frequent one with its number."""

    total: int = 0
    most: int = 0
    token: int = -1

    @property
    def share(self) -> float:
        """Share of the most frequent token, 0 if nothing has followed."""
        return self.most / self.total if self.total else 0.0


class ContextCounts:
    """Exact counts of the tokens that follow each context, the bytes of its int32 ids. About 300 bytes per context."""

    def __init__(self) -> None:
        self.contexts: dict[bytes, ContextSuccessors] = {}
        self.pairs: dict[tuple[bytes, int], int] = {}

    def add(self, context: bytes, token: int) -> None:
        """Count a token after a context. The most frequent token is replaced only by one with a larger count."""
        if context == NO_CONTEXT:
            return
        count = self.pairs.get((context, token), 0) + 1
        self.pairs[context, token] = count
        known = self.contexts.get(context, ContextSuccessors())
        best = (count, token) if count > known.most else known[1:]
        self.contexts[context] = ContextSuccessors(known.total + 1, *best)

    def successors(self, context: bytes, other: ContextCounts) -> ContextSuccessors:
        """What has followed a context in both counts.

        A token with more than half of the sum is the most frequent one in either, so it is found.
        """
        own, more = self.contexts.get(context, ContextSuccessors()), other.contexts.get(context, ContextSuccessors())
        sums = [(self.pairs.get((context, t), 0) + other.pairs.get((context, t), 0), t) for t in (own[2], more[2])]
        return ContextSuccessors(own.total + more.total, *max(sums, key=lambda pair: pair[0]))


def contexts(ids: NDArray[np.int32], positions: NDArray[np.integer], length: int) -> list[bytes]:
    """The last `length` ids up to each position, as bytes; `NO_CONTEXT` if there are fewer."""
    data, size = np.ascontiguousarray(ids, dtype=np.int32).tobytes(), 4 * length
    ends = (4 * (positions + 1)).tolist()
    return [data[end - size : end] if end >= size else NO_CONTEXT for end in ends]


@register
class NGramTilt(ScoringMethod):
    """Another method, with `boost` added to the logit of the token that usually follows the last `length` tokens.

    method: the method below; adaptation and training there see its own logits. threshold: least share of the token
    among all that have followed the context; a single earlier occurrence is enough.
    Counts are of the sections that are complete, and of what the present batch of texts has scored so far. With
    `PhasedLoRA` a section ends at each phase. Rows are read side by side, so a row sees the counts of the others.
    """

    name = "tilted"
    adapts = True

    def __init__(
        self,
        *,
        method: Spec[ScoringMethod] = part(SlidingScoring),
        length: NGramOrder = 15,
        threshold: Annotated[float, Range(0.5, 1.0, above=True)] = 0.8,
        boost: NonNegative = 2.625,
    ) -> None:
        self.method, self._spec = method(), method
        if not (self.method.adapts or type(self.method).make_player is ScoringMethod.make_player):
            cause = f"method {self.method.name!r} needs batches of its own, in which nothing can be counted"
            raise RecipeError(cause, where="score.method", hint="contiguous, sliding, or a method that adapts")
        self.length, self.threshold, self.boost = length, threshold, boost
        self.window, self.stride, self.first_stride = self.method.window, self.method.stride, self.method.first_stride
        self.isolated, self.order = self.method.isolated, self.method.order
        self.native_only = self.method.native_only
        self.full_windows, self.rope_scaling = self.method.full_windows, self.method.rope_scaling

    @property
    def cross_document(self) -> bool:
        return True

    @property
    def serial(self) -> bool:
        return self.method.serial or not self.method.adapts

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """Those of the method below; if it does not adapt, one batch: each step has the next windows side by side."""
        if self.method.adapts:
            yield from self.method.sections(text, batch_tokens)
            return
        spans = self.method.text_spans(text)
        windows = [[w] for start, stop in spans for w in self.method.windows(stop - start, start)]
        rows = min(max(1, batch_tokens // self.window), len(windows))
        yield TextSection(0, text.num_targets, [TextBatch(rows, windows)])

    def warnings(self, text: TokenizedText) -> list[str]:
        return self.method.warnings(text)

    def make_player(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> Player:
        return NGramTiltPlayer(self.method.make_player(model, vocab, device, distributed, kernels), self)

    def without_adaptation(self) -> Spec[ScoringMethod]:
        return self.method.without_adaptation() or self._spec


class NGramTiltPlayer:
    """A player whose logits are changed by counts. `close` closes it."""

    def __init__(self, player: Player, method: NGramTilt) -> None:
        self.player, self.method, self.vocab = player, method, player.vocab
        self.sections, self.batch = ContextCounts(), ContextCounts()  # complete sections; the present text batch
        self.pending = list[bytes]()  # contexts of the targets that were predicted last

    @property
    def forward(self) -> Forward | None:
        return self.player.forward

    def predict(self, block: ScoringBatch) -> Tensor:
        self.pending = self._contexts(block)
        return self._tilted(self.player.predict(block), block, self.pending)

    def predict_next(self, block: ScoringBatch, *, begin: bool) -> Tensor:
        return self._tilted(coding_player(self.player).predict_next(block, begin=begin), block, self._contexts(block))

    def _tilted(self, logits: Tensor, block: ScoringBatch, contexts: list[bytes]) -> Tensor:
        """Logits (n, V) with the boost of what has usually followed each of n contexts."""
        if block.reset_all:
            self.batch = ContextCounts()
        found = [self.batch.successors(context, self.sections) for context in contexts]
        gated = [i for i, known in enumerate(found) if known.share >= self.method.threshold]
        if not gated:
            return logits
        indices = torch.tensor([gated, [found[i].token for i in gated]])
        rows, tokens = copy_to_device(indices, logits.device)
        raised = logits[rows, tokens] + self.method.boost
        return logits.index_put((rows, tokens), raised)  # a copy: the player below keeps its own

    def _contexts(self, block: ScoringBatch) -> list[bytes]:
        """The context of each target, row by row."""
        found = list[bytes]()
        for ids, mask in zip(block.tokens.numpy().astype(np.int32), block.target_mask.numpy(), strict=True):
            found += contexts(ids, np.flatnonzero(mask), self.method.length)
        return found

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        self.player.observe(block, targets)
        for context, token in zip(self.pending or self._contexts(block), targets.tolist(), strict=True):
            self.batch.add(context, token)
        self.pending = []

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        self.player.adapt(revealed, step)
        self.batch = ContextCounts()
        if not step.last:
            ids = revealed.numpy().astype(np.int32)
            positions = np.arange(len(ids) - 1)
            for context, token in zip(contexts(ids, positions, self.method.length), ids[1:].tolist(), strict=True):
                self.sections.add(context, token)

    def close(self) -> None:
        self.player.close()
        self.sections, self.batch = ContextCounts(), ContextCounts()
