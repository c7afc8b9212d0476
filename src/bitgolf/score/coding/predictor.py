"""The walk over documents that encoder and decoder take alike: which tokens are predicted when, and from what.

Documents are texts of their own, read side by side in rows, in the order given; where one ends the next takes its row.
Contexts are those of the scoring method's windows, and every step is decided by what is already known: so both sides
call the model with the same shapes in the same order, and on one thread they see the same floats.
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
from bitgolf.score.adapt.document_lora import DocumentLoRA, LoRAPlayer
from bitgolf.score.methods import ScoringMethod, ScoringWindow
from bitgolf.score.player import ScoringBatch

CPU_FLOAT32 = Device(torch.device("cpu"), torch.float32, "what is coded here is decoded elsewhere: plain float32")
MAX_TARGETS = 1 << 40  # targets: a decoder learns how long a document is by coming to its end
Symbols = npt.NDArray[np.int32]


class DocumentState:
    """A document as far as it is known, and the window that is open in it."""

    def __init__(self, document: int, method: ScoringMethod, bos: int) -> None:
        self.document, self.tokens = document, [bos]
        self._windows = method.windows(MAX_TARGETS)
        self.window = next(self._windows)

    @property
    def num_known(self) -> int:
        """How many of its targets are known; the last one is BOS: the end."""
        return len(self.tokens) - 1

    @property
    def ended(self) -> bool:
        return len(self.tokens) > 1 and self.tokens[-1] == self.tokens[0]

    @property
    def needs_token(self) -> bool:
        return not self.ended and self.num_known < self.window.stop

    @property
    def context(self) -> Tensor:
        """What the window shows of what is known, (n,)."""
        return torch.tensor(self.tokens[self.window.start :])

    def next_window(self) -> None:
        self.window = next(self._windows)


class DocumentPredictor:
    """With a model that does not change: each row goes from window to window at its own pace.

    While rows are `active`, `tables` are what their next tokens are coded with, and `update` is told those tokens.
    """

    def __init__(self, model: LM, method: ScoringMethod, documents: int, rows: int) -> None:
        self.model, self.method = model, method
        self._waiting = iter(range(documents))
        self.rows: list[DocumentState | None] = [self._next() for _ in range(rows)]
        self.reader = IncrementalDecoder(
            model, rows, method.window, method.stride
        )  # has read BOS: every document's first context
        self.active = self._asking()

    def _next(self) -> DocumentState | None:
        """The next document, if there is one."""
        return next((DocumentState(document, self.method, self.model.bos) for document in self._waiting), None)

    def _asking(self) -> list[tuple[int, DocumentState]]:
        return [(i, row) for i, row in enumerate(self.rows) if row and row.needs_token]

    def log_probabilities(self) -> Tensor:
        """Of the next token of each row that asks: (n, V), float32. Raises where the model does not say."""
        logits = self.reader.logits[[i for i, _ in self.active]]
        if not bool(torch.isfinite(logits).all()):
            raise BitgolfError("the model returned logits that are not finite", where=self.position())
        return torch.log_softmax(logits, -1)

    def update(self, symbols: Symbols) -> None:
        """The tokens that were asked for, (n,)."""
        told = torch.full((len(self.rows),), -1)
        for (i, row), symbol in zip(self.active, symbols.tolist(), strict=True):
            row.tokens.append(symbol)
            if row.needs_token:
                told[i] = symbol
        self._advance(told)
        self.active = self._asking()

    def _advance(self, tokens: Tensor) -> None:
        """Rows whose window is open read on; the others turn to their next window, or to the next document."""
        turning = [i for i, row in self.active if not row.needs_token]
        for i in turning:
            self._next_window(i)
        if 0 < 2 * sum(row is not None for row in self.rows) <= len(self.rows):
            self._compact_rows()
            return
        if bool((tokens >= 0).any()):
            self.reader.step(tokens)
        if contexts := {i: row.context for i in turning if (row := self.rows[i])}:
            self.reader.prefill(contexts)

    def _next_window(self, i: int) -> None:
        row = self.rows[i]
        if row and row.ended:
            self.rows[i] = self._next()
        elif row:
            row.next_window()

    def _compact_rows(self) -> None:
        """Where half the rows have no document, and there are no more, the others go on alone."""
        self.rows = [row for row in self.rows if row]
        self.reader = IncrementalDecoder(self.model, len(self.rows), self.method.window, self.method.stride)
        self.reader.prefill({i: row.context for i, row in enumerate(self.rows) if row})

    def position(self) -> str:
        """The first token that is asked for."""
        row = self.active[0][1]
        return f"document {row.document}, token {row.num_known}"


class AdaptivePredictor(DocumentPredictor):
    """With adapters of each document's own: rows wait for one another at the end of a window, and then all learn.

    All rows are read in every forward, those that wait or have no document too, as each has adapters of its own.
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
    """What the referee shows of these windows, and the targets that it then reveals."""
    shown, targets = list[tuple[Tensor, int]](), list[int]()
    for row in rows:
        window, known = (row.window, row.tokens) if row else (ScoringWindow(0, 0, 0), [])
        own = known[window.first_target + 1 : window.stop + 1]
        shown.append((torch.tensor(known[window.start : window.first_target + len(own)], dtype=torch.int64), len(own)))
        targets += own
    return ScoringBatch.collate(shown, torch.zeros(len(rows), dtype=torch.bool)), torch.tensor(targets)


# ---- what can be walked ---------------------------------------------------------------------------------------------


def is_codable(method: ScoringMethod) -> bool:
    """Whether documents can be decoded one by one, each from what is known of it alone."""
    static = type(method).make_player is ScoringMethod.make_player
    return static or (isinstance(method, DocumentLoRA) and not method.cross_document)


def check_codable(method: ScoringMethod) -> None:
    if not is_codable(method):
        cause = f"{method.name!r} cannot be coded: a document's probabilities depend on what came before the document"
        raise UsageError(cause, where="method", hint="--with contiguous, sliding or lora (lora without keep_a)")


@contextmanager
def open_predictor(
    model: LM, vocab: int, method: ScoringMethod, documents: int, rows: int
) -> Iterator[DocumentPredictor]:
    """A walk over so many documents, on one thread; the model is left as it was.

    rows: documents side by side; adapters have as many as their method says.
    """
    check_codable(method)
    with _one_thread(), closing(method.make_player(model, vocab, CPU_FLOAT32, SINGLE_PROCESS)) as player:
        if isinstance(player, LoRAPlayer) and isinstance(method, DocumentLoRA):
            yield AdaptivePredictor(player, method, documents)
        else:
            yield DocumentPredictor(model, method, documents, rows)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of every sum is then fixed, and small products run no slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
