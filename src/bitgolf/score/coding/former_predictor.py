"""The predictors of files of formats 3 and 4, in which a document goes on until its end is decoded."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.model.lm import LM
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.coding.predictor import MAX_TARGETS, DocumentPredictor, DocumentState
from bitgolf.score.methods import ScoringMethod, ScoringWindow
from bitgolf.score.player import ScoringBatch


class FormerPredictor(DocumentPredictor):
    """Plain windows. When half of the rows have no document, the others are read again, not copied."""

    def __init__(self, model: LM, method: ScoringMethod, documents: int, rows: int) -> None:
        super().__init__(model, method, [MAX_TARGETS] * documents, rows)

    def _advance(self, tokens: Tensor) -> None:
        """Read `tokens` (rows,), -1 for none. Rows whose window is complete start their next window or document."""
        complete = [i for i, row in self.active if not row.needs_token]
        for i in complete:
            self._next_window(i)
        if 0 < 2 * sum(row is not None for row in self.rows) <= len(self.rows):
            self._compact_rows()
            return
        if bool((tokens >= 0).any()):
            self.reader.step(tokens)
        if contexts := {i: row.context for i in complete if (row := self.rows[i])}:
            self.reader.prefill(contexts)

    def _compact_rows(self) -> None:
        """Remove the rows without a document, once they are half of all rows and no document is waiting."""
        self.rows = [row for row in self.rows if row]
        self.reader = self._reader(len(self.rows))
        self.reader.prefill({i: row.context for i, row in enumerate(self.rows) if row})


class FormerLoRAPredictor(DocumentPredictor):
    """Rows wait for one another at the end of a window; then adapters are updated.

    Every forward reads all rows, also those that wait or have no document, since each row has its own adapters.
    """

    def __init__(self, player: LoRAPlayer, method: DocumentLoRA, documents: int) -> None:
        self.player = player
        super().__init__(player.model, method, [MAX_TARGETS] * documents, method.rows)

    def _advance(self, tokens: Tensor) -> None:
        if bool((tokens >= 0).any()):
            self.reader.step(tokens)
            return
        self.player.observe(*_window_batch(self.rows))
        before = list(self.rows)
        for i in range(len(self.rows)):
            self._next_window(i)
        self.player.reset(torch.tensor([row is not old for row, old in zip(self.rows, before, strict=True)]))
        empty = torch.tensor([self.model.bos])
        self.reader.prefill({i: row.context if row else empty for i, row in enumerate(self.rows)})


def _window_batch(rows: list[DocumentState | None]) -> tuple[ScoringBatch, Tensor]:
    """The batch that the referee would pass for these windows, and its targets."""
    inputs, targets = list[tuple[Tensor, int]](), list[int]()
    for row in rows:
        window, known = (row.window, row.tokens) if row else (ScoringWindow(0, 0, 0), [])
        own = known[window.first_target + 1 : window.stop + 1]
        read = torch.tensor(known[window.start : window.first_target + len(own)], dtype=torch.int64)
        inputs.append((read, len(own)))
        targets += own
    return ScoringBatch.collate(inputs, torch.zeros(len(rows), dtype=torch.bool)), torch.tensor(targets)
