"""Scoring with a memory: keys and values are kept, so that every token is read once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

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

MIN_WINDOWS_PER_PART = (
    4  # windows of targets in a lane: what lanes read only to begin with is then at most a fifth of all
)


@register
class CachedScoring(ScoringMethod):
    """Each token is read once, `stride` at a time, and sees what a sliding window would show it of what came before.

    A block of `stride` tokens and the keys that are held make up at most `window` tokens; the oldest keys are dropped.
    No key is computed anew. So the states that a token sees have themselves seen tokens that have left the window
    since: past the first window the score is another than `SlidingScoring`'s, and not to be compared with it as the same method.
    Sums over the past, where a model has such, forget nothing but are taken over what is held.

    isolated: each document begins with an empty memory. Else the stream is cut into lanes, at most `rows`, that read as
    many tokens each; all but the first one begin with `window - stride` tokens that are read and not scored.
    rows: texts side by side; those for which `batch_tokens` has no room go into further tracks, which processes share.
    """

    name = "cached"

    def __init__(self, *, window: int = 1024, stride: int = 64, rows: int = 16, isolated: bool = False) -> None:
        check_stride(window, stride)
        if rows < 1:
            raise RecipeError(f"{rows} texts side by side are none", where="score.rows", hint="at least 1")
        self.window, self.stride, self.first_stride = window, stride, stride
        self.rows, self.isolated = rows, isolated

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """One section. Texts of like length side by side, the longest first, so that all rows end at about one time."""
        if self.isolated:
            ordered = sorted(text.documents(), key=lambda document: document[0] - document[1])
            texts = [self.windows(stop - start, start) for start, stop in ordered]
        else:
            texts = [self.part_windows(start, stop) for start, stop in self.split_stream(text.num_targets)]
        beside = max(1, 1 + (batch_tokens - self.window) // self.stride)  # of one row a whole window may be asked for
        rows = min(self.rows, len(texts))
        tracks = -(-rows // beside)
        parts = [texts[i::tracks] for i in range(tracks)]
        yield TextSection(0, text.num_targets, [TextBatch(-(-rows // tracks), part) for part in parts])

    def split_stream(self, targets: int) -> list[tuple[int, int]]:
        """(start, stop) of the targets of each lane. The first one, which has no context to read, has as many more."""
        context = min(self.window - self.stride, targets)
        rest = targets - context
        lanes = max(1, min(self.rows, rest // (MIN_WINDOWS_PER_PART * self.window)))
        cuts = [context + rest * i // lanes for i in range(1, lanes + 1)]
        return list(zip([0, *cuts[:-1]], cuts, strict=True))

    def part_windows(self, start: int, stop: int) -> Iterator[ScoringWindow]:
        """Windows of a lane: the first one reads `window` tokens, of which it scores all or the last `stride`."""
        begin = max(0, start + self.stride - self.window)
        done = min(begin + self.window, stop)
        yield ScoringWindow(begin, done, start)
        yield from self.windows(stop - done, done)

    def windows(self, targets: int, start: int = 0) -> Iterator[ScoringWindow]:
        """Nothing is read again: each window is its `stride` new tokens."""
        for done in range(start, start + targets, self.stride):
            yield ScoringWindow(done, min(done + self.stride, start + targets), done)

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
    """A model with a memory of the last `window` tokens of each row; it reads at most `stride` of each at a time.

    Holds keys and values of rows * 1.25 window tokens in every layer. Moved to the front, they are copied once in about
    window / 4 tokens. Positions grow for as long as a text does: their angles are exact, see `DecodingContext.rotary_angles`.
    """

    def __init__(self, model: LM, vocab: int, device: Device, window: int, stride: int) -> None:
        super().__init__(model, vocab, device, forward=EagerForward(model, device))
        self.window, self.stride = window, stride
        self.memory = self._empty(0)

    def _empty(self, rows: int) -> KVCache:
        return KVCache(rows, self.window + self.window // 4 + NGRAM_LOOKBACK, self.device.torch_device)

    @torch.no_grad()
    def predict(self, block: ScoringBatch) -> Tensor:
        tokens, asked, fresh, _ = block.to(torch.device("cpu"))
        if len(tokens) != len(self.memory.ids):
            self.memory = self._empty(len(tokens))
        self.memory.reset(fresh.nonzero()[:, 0])
        counts = (asked * torch.arange(1, tokens.shape[1] + 1)).amax(1)
        with self.device.autocast():
            pieces = [self._decode_step(piece, (counts - i * self.stride).clamp(0, self.stride))
                      for i, piece in enumerate(tokens.split(self.stride, 1))]  # fmt: skip
            hidden = torch.cat(pieces, 1)[asked.to(self.device.torch_device)]
            return at_least_float32(self.model.logits(hidden))

    def _decode_step(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Read on where there is something to read: states (B, n, D) for tokens (B, n), of which a row has `counts`."""
        rows, widest = counts.nonzero()[:, 0], int(counts.max())
        self.memory.evict(rows, counts[rows], self.window)
        own = rows if len(rows) < len(tokens) else None
        hidden = decode(self.model, self.memory, tokens[rows, :widest].to(self.device.torch_device), own, counts[rows])
        if hidden.shape[:2] == tokens.shape:
            return hidden
        whole = hidden.new_zeros(*tokens.shape, hidden.shape[2])
        whole[rows.to(hidden.device), :widest] = hidden
        return whole

    def close(self) -> None:
        super().close()
        self.memory = self._empty(0)
