"""Incremental decoding: several texts are read token by token, and the next token of each is predicted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bitgolf.errors import UsageError
from bitgolf.model.decoding.context import decode
from bitgolf.model.decoding.kv_cache import KVCache
from bitgolf.model.lm import LM


class IncrementalDecoder:
    """Reads B texts token by token and predicts the next one of each: `logits`, (B, V) in float32.

    Contexts are those of sliding windows: where a row is full, its last `window - stride` tokens are read again. So a
    token is predicted from what the plain sliding window would show it, up to rounding.
    """

    logits: Tensor

    def __init__(self, model: LM, rows: int, window: int, stride: int) -> None:
        """Every row has read BOS."""
        self.model, self.window, self.stride = model.eval(), window, stride
        self.device = next(model.parameters()).device
        self.memory = KVCache(rows, window, self.device)
        self.prefill(dict.fromkeys(range(rows), torch.tensor([model.bos])))

    def prefill(self, contexts: Mapping[int, Tensor]) -> None:
        """These rows forget everything and read their context, (n,) with 1 <= n <= window, all in one forward."""
        for row, context in contexts.items():
            if not 1 <= len(context) <= self.window:
                raise UsageError(
                    f"a context of {len(context)} tokens for a window of {self.window}", where=f"row {row}"
                )
        rows = torch.tensor(sorted(contexts))
        said = self._last_logits(*self._prefill_rows(rows, [contexts[row] for row in sorted(contexts)]))
        whole = len(rows) == len(self.memory.ids)
        self.logits = said if whole else self.logits.index_copy(0, rows.to(self.device), said)

    def step(self, tokens: Tensor) -> None:
        """A token for each row, (B,), -1 where there is none; afterwards `logits` are those of the next."""
        tokens = tokens.cpu()
        live = tokens >= 0
        full = (live & (self.memory.lengths == self.window)).nonzero()[:, 0]
        if len(full) and self.stride < self.window:
            self._prefill_rows(full, list(self.memory.ids[full.to(self.device), self.stride :]))
        elif len(full):
            self.memory.reset(full)
        if live.any():
            ids, counts = tokens.clamp_min(0)[:, None].to(self.device), live.long()
            said = self._last_logits(decode(self.model, self.memory, ids, counts=counts), counts)
            self.logits = torch.where(live[:, None].to(self.device), said, self.logits)

    def _prefill_rows(self, rows: Tensor, contexts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Rows that forget and read: their last states (b, T, D), and how many of each are tokens (b,)."""
        self.memory.reset(rows)
        counts = torch.tensor([len(context) for context in contexts])
        ids = pad_sequence(contexts, batch_first=True).to(self.device)
        own = None if len(rows) == len(self.memory.ids) else rows
        return decode(self.model, self.memory, ids, own, counts), counts

    @torch.no_grad()
    def _last_logits(self, hidden: Tensor, counts: Tensor) -> Tensor:
        """Logits after the last token of each row, (b, V)."""
        rows = torch.arange(len(hidden))
        last = hidden[rows.to(self.device), (counts - 1).clamp_min(0).to(self.device)]
        return self.model.logits(last[:, None])[:, 0].float()
