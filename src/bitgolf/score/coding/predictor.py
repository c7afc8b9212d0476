"""The predictors that encoder and decoder share: the order in which tokens are predicted, and the probabilities.

Every step depends only on tokens that are already known. So both sides call the model with the same shapes in the same
order, and in the same arithmetic they get the same floats. The predictor of this module is for plain windows: documents
are isolated and read side by side in rows; when one ends, the next takes its row. `player_predictor` has that of
methods that learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.lm import LM
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.rope_scaling import active_rope_scaling

MAX_TARGETS = 1 << 40  # length of a document while its end is not yet decoded
Symbols = npt.NDArray[np.int32]


class Predictor(Protocol):
    """Predicts tokens in an order that depends on known tokens only."""

    @property
    def targets(self) -> Sequence[tuple[int, int]]:
        """(document, index in it) of the n tokens that are predicted next; empty at the end."""
        ...

    def log_probabilities(self) -> Tensor:
        """Log probabilities of the targets: float32 (n, V), in nats. Raises `BitgolfError` if they are not finite."""
        ...

    def update(self, symbols: Symbols) -> None:
        """Take the tokens (n,) of the targets, and move on to the next targets."""
        ...

    def position(self) -> str:
        """Document and index of the first target, for messages."""
        ...


class DocumentState:
    """The known tokens of a document, and its current window. targets: with the end, or `MAX_TARGETS`.

    ended: whether the final BOS is known. needs_token: whether the current window has a target that is not known.
    """

    def __init__(self, document: int, method: ScoringMethod, bos: int, targets: int) -> None:
        self.document, self.tokens = document, [bos]
        self._windows = method.windows(targets)
        self.window = next(self._windows)
        self.ended, self.needs_token = False, True

    @property
    def num_known(self) -> int:
        """Number of known targets. The last target of a document is BOS, its end."""
        return len(self.tokens) - 1

    def append(self, symbol: int) -> None:
        """Take the next token."""
        self.tokens.append(symbol)
        self.ended = symbol == self.tokens[0]
        self.needs_token = not self.ended and len(self.tokens) <= self.window.stop

    @property
    def context(self) -> Tensor:
        """The known tokens of the current window, (n,)."""
        return torch.tensor(self.tokens[self.window.start :])

    def next_window(self) -> None:
        """Continue with the next window of the document."""
        self.window = next(self._windows)
        self.needs_token = True


class DocumentPredictor:
    """The predictor of a model that does not change. Rows move from window to window independently.

    lengths: targets of each document, its end included. The longest document begins first, so that all rows end at
    about the same time. `MAX_TARGETS` stands for a length that is not known.
    """

    def __init__(self, model: LM, method: ScoringMethod, lengths: Sequence[int], rows: int) -> None:
        self.model, self.method, self._lengths = model, method, lengths
        self._waiting = iter(sorted(range(len(lengths)), key=lambda document: -lengths[document]))
        self._scaling = active_rope_scaling(model, method.rope_scaling) if method.rope_scaling else None
        self.rows: list[DocumentState | None] = [self._next() for _ in range(rows)]
        # it begins with BOS in every row, the first context of each document
        self.reader = self._reader(rows)
        self.active = self._rows_that_need_a_token()

    def _reader(self, rows: int) -> IncrementalDecoder:
        return IncrementalDecoder(self.model, rows, self.method.window, self.method.stride, self._scaling)

    @property
    def targets(self) -> Sequence[tuple[int, int]]:
        return [(row.document, row.num_known) for _, row in self.active]

    def _next(self) -> DocumentState | None:
        """The next document, if there is one."""
        document = next(self._waiting, None)
        if document is None:
            return None
        return DocumentState(document, self.method, self.model.bos, self._lengths[document])

    def _rows_that_need_a_token(self) -> list[tuple[int, DocumentState]]:
        return [(i, row) for i, row in enumerate(self.rows) if row and row.needs_token]

    def log_probabilities(self) -> Tensor:
        """Log probabilities of the next tokens of the n active rows: float32 (n, V), in nats."""
        whole = len(self.active) == len(self.rows)
        logits = self.reader.logits if whole else self.reader.logits[[i for i, _ in self.active]]
        return finite_log_softmax(logits, self.position())

    def update(self, symbols: Symbols) -> None:
        """Take the next tokens (n,) of the active rows, and move on to the tokens after them."""
        tokens = torch.full((len(self.rows),), -1)
        for (i, row), symbol in zip(self.active, symbols.tolist(), strict=True):
            row.append(symbol)
            if row.needs_token:
                tokens[i] = symbol
        self._advance(tokens)
        self.active = self._rows_that_need_a_token()

    def _advance(self, tokens: Tensor) -> None:
        """Read `tokens` (rows,), -1 for none. Rows whose window is complete start their next window or document.

        Rows without a document are dropped once they are half of all rows.
        """
        complete = [i for i, row in self.active if not row.needs_token]
        for i in complete:
            self._next_window(i)
        live = [i for i, row in enumerate(self.rows) if row]
        if 0 < 2 * len(live) <= len(self.rows):
            complete = [live.index(i) for i in complete if self.rows[i]]
            self.rows, tokens = [self.rows[i] for i in live], tokens[live]
            self.reader.keep(torch.tensor(live))
        if bool((tokens >= 0).any()):
            self.reader.step(tokens)
        if contexts := {i: row.context for i in complete if (row := self.rows[i])}:
            self.reader.prefill(contexts)

    def _next_window(self, i: int) -> None:
        row = self.rows[i]
        if row and row.ended:
            self.rows[i] = self._next()
        elif row:
            row.next_window()

    def position(self) -> str:
        """Document and token index of the first active row, for messages."""
        row = self.active[0][1]
        return f"document {row.document}, token {row.num_known}"


def finite_log_softmax(logits: Tensor, where: str) -> Tensor:
    """Log probabilities (n, V) of logits. Raises `BitgolfError` if the logits are not finite."""
    logs = torch.log_softmax(logits, -1)
    if not np.isfinite(logs.numpy().sum()):  # a tenth of the time of a test of each logit
        count = int((~torch.isfinite(logits)).sum())
        raise BitgolfError(f"{count} of {logits.numel()} logits of the model are not finite", where=where)
    return logs
