"""The forward of a decoder: the logits after the last token of each row, of windows that grow by one token at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.lm import LM

if TYPE_CHECKING:
    from bitgolf.score.player import ScoringBatch


class IncrementalForward:
    """Reads the windows of a batch with a key/value cache, on the CPU.

    window: most tokens of a row. rope_scaling: replaces the model's own. every_row: whether rows without a window are
    read as well, as a model needs whose rows have adapters of their own.
    """

    def __init__(
        self, model: LM, window: int, rope_scaling: RoPEScaling | None = None, *, every_row: bool = False
    ) -> None:
        self.model, self.window, self.rope_scaling, self.every_row = model, window, rope_scaling, every_row
        self._decoder: IncrementalDecoder | None = None
        self._read = torch.zeros(0, dtype=torch.int64)  # tokens of each row that are in the cache

    @torch.no_grad()
    def __call__(self, block: ScoringBatch, *, begin: bool) -> Tensor:
        """Logits float32 (n, V) at the last token of each of the n rows that have a target in `block`, one each.

        begin: whether new windows begin. Otherwise each of these rows has one token more than in the last call that had
        it, or appears for the first time since the windows began.
        """
        decoder = self._decoder_for(len(block.tokens), begin)
        width = block.tokens.shape[1]
        rows, lengths = block.target_indices // width, block.target_indices % width + 1
        fresh = self._read[rows] == 0
        if bool(fresh.any()):
            contexts = {row: block.tokens[row, :n] for row, n in zip(rows.tolist(), lengths.tolist(), strict=True)}
            others = torch.tensor([self.model.bos])
            chosen = range(len(block.tokens)) if self.every_row else rows[fresh].tolist()
            decoder.prefill({row: contexts.get(row, others) for row in chosen})
        if not bool(fresh.all()):
            grown, tokens = rows[~fresh], torch.full((len(block.tokens),), -1)
            tokens[grown] = block.tokens[grown, lengths[~fresh] - 1]
            decoder.step(tokens)
        self._read[rows] = lengths
        return decoder.logits[rows]

    def _decoder_for(self, rows: int, begin: bool) -> IncrementalDecoder:
        """The decoder of a batch with so many rows, which have no tokens yet if windows begin."""
        if self._decoder is None or rows != len(self._read):
            self._decoder = IncrementalDecoder(self.model, rows, self.window, self.window, self.rope_scaling)
            begin = True
        if begin:
            self._read = torch.zeros(rows, dtype=torch.int64)
        return self._decoder
