"""Scoring with a KV cache: keys and values are kept, so that each token is computed once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bitgolf.config.ranges import ScoringRows, WindowTokens
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.decoding.context import decode
from bitgolf.model.decoding.kv_cache import NGRAM_LOOKBACK, KVCache
from bitgolf.model.lm import LM
from bitgolf.model.numerics import at_least_float32
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.execution.forward import EagerForward, SelectKernels
from bitgolf.score.methods import ScoringMethod, ScoringWindow, TextBatch, TextSection, check_stride
from bitgolf.score.player import Player, ScoringBatch, StaticPlayer
from bitgolf.score.text import TokenizedText

MIN_WINDOWS_PER_PART = 4  # so that the unscored context of the parts is at most a fifth of the tokens read


@register
class CachedScoring(ScoringMethod):
    """Sliding windows with a KV cache: each token is computed once, `stride` tokens at a time.

    The new tokens and the cached ones are at most `window` tokens; the oldest keys are evicted and none is recomputed.
    Cached states depend on tokens that have since left the window. So after the first window, scores differ from those
    of `SlidingScoring`, and the two must not be compared as one method. A running mean over the past, in a model that
    has one, is the mean over the cached tokens.

    isolated: the cache is emptied at each document. Otherwise the stream is cut into at most `rows` parts of equal
    cost; every part but the first begins with `window - stride` context tokens that are read and not scored.
    rows: texts read side by side. If they exceed `batch_tokens`, they are divided over several batches, which the
    processes share.
    """

    name = "cached"

    def __init__(
        self, *, window: WindowTokens = 1024, stride: WindowTokens = 64, rows: ScoringRows = 16, isolated: bool = False
    ) -> None:
        check_stride(window, stride)
        if rows < 1:
            raise RecipeError(f"rows must be at least 1, got {rows}", where="score.rows")
        self.window, self.stride, self.first_stride = window, stride, stride
        self.rows, self.isolated = rows, isolated

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """One section. Documents are sorted by length, longest first, so that all rows end at about the same step."""
        if self.isolated:
            ordered = sorted(text.documents(), key=lambda document: document[0] - document[1])
            texts = [self.windows(stop - start, start) for start, stop in ordered]
        else:
            texts = [self.part_windows(start, stop) for start, stop in self.split_stream(text.num_targets)]
        # one row may have a whole window (at the start of a part), the others `stride` tokens
        max_rows = max(1, 1 + (batch_tokens - self.window) // self.stride)
        rows = min(self.rows, len(texts))
        batches = -(-rows // max_rows)
        parts = [texts[i::batches] for i in range(batches)]
        yield TextSection(0, text.num_targets, [TextBatch(-(-rows // batches), part) for part in parts])

    def split_stream(self, targets: int) -> list[tuple[int, int]]:
        """(start, stop) of the targets of each part. The first has no context to read, so it gets more targets."""
        context = min(self.window - self.stride, targets)
        rest = targets - context
        parts = max(1, min(self.rows, rest // (MIN_WINDOWS_PER_PART * self.window)))
        cuts = [context + rest * i // parts for i in range(1, parts + 1)]
        return list(zip([0, *cuts[:-1]], cuts, strict=True))

    def part_windows(self, start: int, stop: int) -> Iterator[ScoringWindow]:
        """Windows of a part. The first one reads `window` tokens and scores all (first part) or the last `stride`."""
        begin = max(0, start + self.stride - self.window)
        done = min(begin + self.window, stop)
        yield ScoringWindow(begin, done, start)
        yield from self.windows(stop - done, done)

    def windows(self, targets: int, start: int = 0, stride: int = 0) -> Iterator[ScoringWindow]:
        """Windows of `stride` new tokens each, 0 for those of the method; earlier tokens are in the cache."""
        new = stride or self.stride
        for done in range(start, start + targets, new):
            yield ScoringWindow(done, min(done + new, start + targets), done)

    def make_player(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> Player:
        return KVCachePlayer(model, vocab, device, self.window, self.stride)


class KVCachePlayer(StaticPlayer):
    """A model with a KV cache of the last `window` tokens per row. It reads at most `stride` tokens per row at once.

    The cache has space for 1.25 window tokens per row and layer, so that evicting old keys copies it only once in about
    window / 4 tokens. Positions grow with the text; rotary angles stay exact, see `DecodingContext.rotary_angles`.
    """

    def __init__(self, model: LM, vocab: int, device: Device, window: int, stride: int) -> None:
        super().__init__(model, vocab, device, longest=window, forward=EagerForward(model, device))
        self.window, self.stride = window, stride
        self.cache = self._empty(0)
        self.read = torch.zeros(0, dtype=torch.int64)  # tokens of the present window of each row that are in the cache

    def _empty(self, rows: int) -> KVCache:
        return KVCache(rows, self.window + self.window // 4 + NGRAM_LOOKBACK, self.device.torch_device)

    @torch.no_grad()
    def predict(self, block: ScoringBatch) -> Tensor:
        return self.predict_next(block, begin=True)

    @torch.no_grad()
    def predict_next(self, block: ScoringBatch, *, begin: bool) -> Tensor:
        tokens, target_mask, reset_rows, _ = block.to(torch.device("cpu"))
        if len(tokens) != len(self.cache.ids):
            self.cache = self._empty(len(tokens))
        if begin:
            self.read = torch.zeros(len(tokens), dtype=torch.int64)
        self.cache.reset(reset_rows.nonzero()[:, 0])
        counts = (target_mask * torch.arange(1, tokens.shape[1] + 1)).amax(1)
        with self.device.autocast():
            pieces = [self._read_piece(start, tokens, counts) for start in range(0, tokens.shape[1], self.stride)]
            self.read = torch.maximum(self.read, counts)
            rows, columns, states = (torch.cat(parts) for parts in zip(*filter(None, pieces), strict=True))
            hidden = states.new_zeros(*tokens.shape, states.shape[1])
            hidden[rows.to(states.device), columns.to(states.device)] = states
            return at_least_float32(self.model.logits(hidden[target_mask.to(states.device)]))

    def _read_piece(self, start: int, tokens: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Read the new tokens of a piece, at most `stride` columns from `start` on; None if there are none.

        counts: (B,), tokens of each row, of which those in `self.read` are in the cache. Returns rows and columns (n,)
        of the new tokens, and their states (n, D). Keys are evicted before the first token of a piece, as many as a
        whole piece takes: a decoder does not know how many tokens follow.
        """
        width = min(self.stride, tokens.shape[1] - start)
        first, end = (self.read - start).clamp(0, width), (counts - start).clamp(0, width)
        rows = (end > first).nonzero()[:, 0]
        if not len(rows):
            return None
        begun = rows[first[rows] == 0]
        self.cache.evict(begun, torch.full_like(begun, min(self.stride, self.window - start)), self.window)
        new = (end - first)[rows]
        columns = start + first[rows, None] + torch.arange(int(new.max()))
        ids = tokens[rows[:, None], columns.clamp(max=tokens.shape[1] - 1)].to(self.device.torch_device)
        hidden = decode(self.model, self.cache, ids, rows if len(rows) < len(tokens) else None, new)
        valid = columns < start + end[rows, None]
        return rows[:, None].expand_as(columns)[valid], columns[valid], hidden[valid.to(hidden.device)]

    def close(self) -> None:
        super().close()
        self.cache = self._empty(0)
