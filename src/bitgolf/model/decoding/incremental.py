"""Incremental decoding of several texts: tokens are appended one by one, with the logits of the next token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bitgolf.errors import UsageError
from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.decoding.context import decode
from bitgolf.model.decoding.kv_cache import KVCache
from bitgolf.model.lm import LM


class IncrementalDecoder:
    """Decodes B texts token by token. `logits`, float32 (B, V), are those of the next token of each text.

    The contexts are those of sliding windows: a row that holds `window` tokens is reset, and its last window - stride
    tokens are processed again. The logits therefore equal those of `SlidingScoring`, up to rounding.
    """

    logits: Tensor

    def __init__(self, model: LM, rows: int, window: int, stride: int, rope_scaling: RoPEScaling | None = None) -> None:
        """Each row starts with BOS as its only token. rope_scaling: replaces the model's own."""
        self.model, self.window, self.stride, self.rope_scaling = model.eval(), window, stride, rope_scaling
        self.device = next(model.parameters()).device
        self.cache = KVCache(rows, window, self.device)
        self.prefill(dict.fromkeys(range(rows), torch.tensor([model.bos])))

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these (b,), which get the numbers 0 to b - 1."""
        self.cache.keep(rows)
        self.logits = self.logits[rows.to(self.device)]

    def prefill(self, contexts: Mapping[int, Tensor]) -> None:
        """Reset rows, and process their contexts, (n,) tokens each, in one forward pass. Updates `logits`.

        Raises `UsageError` if a context has no token or more than `window`.
        """
        for row, context in contexts.items():
            if not 1 <= len(context) <= self.window:
                message = f"a context must have between 1 and {self.window} tokens (the window), got {len(context)}"
                raise UsageError(message, where=f"row {row}")
        rows = torch.tensor(sorted(contexts))
        logits = self._last_logits(*self._prefill_rows(rows, [contexts[row] for row in sorted(contexts)]))
        whole = len(rows) == len(self.cache.ids)
        self.logits = logits if whole else self.logits.index_copy(0, rows.to(self.device), logits)

    def step(self, tokens: Tensor) -> None:
        """Append one token to each row, (B,), -1 for rows without a new token, and update their `logits`."""
        tokens = tokens.cpu()
        active = tokens >= 0
        full = (active & (self.cache.lengths == self.window)).nonzero()[:, 0]
        if len(full) and self.stride < self.window:
            self._prefill_rows(full, list(self.cache.ids[full.to(self.device), self.stride :]))
        elif len(full):
            self.cache.reset(full)
        if active.any():
            ids, counts = tokens.clamp_min(0)[:, None].to(self.device), active.long()
            hidden = decode(self.model, self.cache, ids, counts=counts, rope_scaling=self.rope_scaling)
            logits = self._last_logits(hidden, counts)
            whole = bool(active.all())
            self.logits = logits if whole else torch.where(active[:, None].to(self.device), logits, self.logits)

    def _prefill_rows(self, rows: Tensor, contexts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Reset rows and process their contexts. Returns final hidden states (b, T, D) and token counts (b,)."""
        self.cache.reset(rows)
        counts = torch.tensor([len(context) for context in contexts])
        ids = pad_sequence(contexts, batch_first=True).to(self.device)
        subset = None if len(rows) == len(self.cache.ids) else rows
        return decode(self.model, self.cache, ids, subset, counts, self.rope_scaling), counts

    @torch.no_grad()
    def _last_logits(self, hidden: Tensor, counts: Tensor) -> Tensor:
        """Logits after the last valid token of each row, (b, V)."""
        rows = torch.arange(len(hidden))
        last = hidden[rows.to(self.device), (counts - 1).clamp_min(0).to(self.device)]
        return self.model.logits(last[:, None])[:, 0].float()
