"""The predictor that encoder and decoder share: the order in which tokens are predicted, and the probabilities.

Documents are isolated and read side by side in rows, in the given order; when one ends, the next takes its row.
Contexts are those of the scoring method's windows. Every step depends only on tokens that are already known. So both
sides call the model with the same shapes in the same order, and in the same arithmetic they get the same floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.methods import ScoringMethod, ScoringWindow
from bitgolf.score.player import ScoringBatch

CPU_FLOAT32 = Device(torch.device("cpu"), torch.float32, "CPU, float32, for reproducible coding")
MAX_TARGETS = 1 << 40  # length of a document while its end is not yet decoded
Symbols = npt.NDArray[np.int32]


class DocumentState:
    """The known tokens of a document, and its current window."""

    def __init__(self, document: int, method: ScoringMethod, bos: int) -> None:
        self.document, self.tokens = document, [bos]
        self._windows = method.windows(MAX_TARGETS)
        self.window = next(self._windows)

    @property
    def num_known(self) -> int:
        """Number of known targets. The last target of a document is BOS, its end."""
        return len(self.tokens) - 1

    @property
    def ended(self) -> bool:
        """Whether the final BOS is known."""
        return len(self.tokens) > 1 and self.tokens[-1] == self.tokens[0]

    @property
    def needs_token(self) -> bool:
        """Whether the current window has a target that is not known."""
        return not self.ended and self.num_known < self.window.stop

    @property
    def context(self) -> Tensor:
        """The known tokens of the current window, (n,)."""
        return torch.tensor(self.tokens[self.window.start :])

    def next_window(self) -> None:
        """Continue with the next window of the document."""
        self.window = next(self._windows)


class DocumentPredictor:
    """The predictor of a model that does not change. Rows move from window to window independently.

    As long as there are `active` rows: `log_probabilities` returns the distributions of their next tokens, and `update`
    takes those tokens.
    """

    def __init__(self, model: LM, method: ScoringMethod, documents: int, rows: int) -> None:
        self.model, self.method = model, method
        self._waiting = iter(range(documents))
        self.rows: list[DocumentState | None] = [self._next() for _ in range(rows)]
        # it begins with BOS in every row, the first context of each document
        self.reader = IncrementalDecoder(model, rows, method.window, method.stride)
        self.active = self._rows_that_need_a_token()

    def _next(self) -> DocumentState | None:
        """The next document, if there is one."""
        return next((DocumentState(document, self.method, self.model.bos) for document in self._waiting), None)

    def _rows_that_need_a_token(self) -> list[tuple[int, DocumentState]]:
        return [(i, row) for i, row in enumerate(self.rows) if row and row.needs_token]

    def log_probabilities(self) -> Tensor:
        """Log probabilities of the next tokens of the n active rows: float32 (n, V), in nats.

        Raises `BitgolfError` if the model's logits are not finite.
        """
        logits = self.reader.logits[[i for i, _ in self.active]]
        if not bool(torch.isfinite(logits).all()):
            count = int((~torch.isfinite(logits)).sum())
            raise BitgolfError(f"{count} of {logits.numel()} logits of the model are not finite", where=self.position())
        return torch.log_softmax(logits, -1)

    def update(self, symbols: Symbols) -> None:
        """Take the next tokens (n,) of the active rows, and move on to the tokens after them."""
        tokens = torch.full((len(self.rows),), -1)
        for (i, row), symbol in zip(self.active, symbols.tolist(), strict=True):
            row.tokens.append(symbol)
            if row.needs_token:
                tokens[i] = symbol
        self._advance(tokens)
        self.active = self._rows_that_need_a_token()

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

    def _next_window(self, i: int) -> None:
        row = self.rows[i]
        if row and row.ended:
            self.rows[i] = self._next()
        elif row:
            row.next_window()

    def _compact_rows(self) -> None:
        """Remove the rows without a document, once they are half of all rows and no document is waiting."""
        self.rows = [row for row in self.rows if row]
        self.reader = IncrementalDecoder(self.model, len(self.rows), self.method.window, self.method.stride)
        self.reader.prefill({i: row.context for i, row in enumerate(self.rows) if row})

    def position(self) -> str:
        """Document and token index of the first active row, for messages."""
        row = self.active[0][1]
        return f"document {row.document}, token {row.num_known}"


class AdaptivePredictor(DocumentPredictor):
    """The predictor for `DocumentLoRA`. Rows wait for one another at the end of a window; then adapters are updated.

    Every forward reads all rows, also those that wait or have no document, since each row has its own adapters.
    """

    def __init__(self, player: LoRAPlayer, method: DocumentLoRA, documents: int) -> None:
        self.player = player
        super().__init__(player.model, method, documents, method.rows)

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


# ---- methods that can be coded --------------------------------------------------------------------------------------


def is_codable(method: ScoringMethod) -> bool:
    """Whether there is a predictor for the method: for plain windows, and for `DocumentLoRA` without `keep_a`.

    With `full_windows` there is none: the context of a document's last targets would depend on where it ends.
    """
    static = type(method).make_player is ScoringMethod.make_player
    lora = isinstance(method, DocumentLoRA) and not method.cross_document
    return (static or lora) and not method.full_windows


def check_codable(method: ScoringMethod) -> None:
    """Raises `UsageError` if the method cannot be coded."""
    if not is_codable(method):
        cause = f"method {method.name!r} cannot be coded: no predictor lets a decoder reproduce its probabilities"
        raise UsageError(
            cause, where="method", hint="--with contiguous, sliding or lora (without keep_a and full_windows)"
        )


@contextmanager
def open_predictor(
    model: LM, vocab: int, method: ScoringMethod, documents: int, rows: int
) -> Iterator[DocumentPredictor]:
    """A predictor for documents that are coded. The model is restored afterwards.

    rows: documents side by side; ignored for `DocumentLoRA`, which has a fixed number. Raises `UsageError` if the
    method cannot be coded.
    """
    check_codable(method)
    with closing(method.make_player(model, vocab, CPU_FLOAT32, SINGLE_PROCESS)) as player:
        if isinstance(player, LoRAPlayer) and isinstance(method, DocumentLoRA):
            yield AdaptivePredictor(player, method, documents)
        else:
            yield DocumentPredictor(model, method, documents, rows)
