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
from bitgolf.model.decoding.incremental import Reader
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import ALONE
from bitgolf.score.adapt.document_lora import DocumentLora, LoraPlayer
from bitgolf.score.methods import Method, Window
from bitgolf.score.player import Block

CPU = Device(torch.device("cpu"), torch.float32, "what is coded here is decoded elsewhere: plain float32")
ENDLESS = 1 << 40  # targets: a decoder learns how long a document is by coming to its end
Symbols = npt.NDArray[np.int32]


class Row:
    """A document as far as it is known, and the window that is open in it."""

    def __init__(self, document: int, method: Method, bos: int) -> None:
        self.document, self.tokens = document, [bos]
        self._windows = method.windows(ENDLESS)
        self.window = next(self._windows)

    @property
    def known(self) -> int:
        """How many of its targets are known; the last one is BOS: the end."""
        return len(self.tokens) - 1

    @property
    def ended(self) -> bool:
        return len(self.tokens) > 1 and self.tokens[-1] == self.tokens[0]

    @property
    def asks(self) -> bool:
        return not self.ended and self.known < self.window.stop

    @property
    def context(self) -> Tensor:
        """What the window shows of what is known, (n,)."""
        return torch.tensor(self.tokens[self.window.start :])

    def turn(self) -> None:
        self.window = next(self._windows)


class Walk:
    """With a model that does not change: each row goes from window to window at its own pace.

    While rows are `asking`, `tables` are what their next tokens are coded with, and `reveal` is told those tokens.
    """

    def __init__(self, model: LM, method: Method, documents: int, rows: int) -> None:
        self.model, self.method = model, method
        self._waiting = iter(range(documents))
        self.rows: list[Row | None] = [self._next() for _ in range(rows)]
        self.reader = Reader(model, rows, method.window, method.stride)  # has read BOS: every document's first context
        self.asking = self._asking()

    def _next(self) -> Row | None:
        """The next document, if there is one."""
        return next((Row(document, self.method, self.model.bos) for document in self._waiting), None)

    def _asking(self) -> list[tuple[int, Row]]:
        return [(i, row) for i, row in enumerate(self.rows) if row and row.asks]

    def log_probabilities(self) -> Tensor:
        """Of the next token of each row that asks: (n, V), float32. Raises where the model does not say."""
        logits = self.reader.logits[[i for i, _ in self.asking]]
        if not bool(torch.isfinite(logits).all()):
            raise BitgolfError("the model returned logits that are not finite", place=self.where())
        return torch.log_softmax(logits, -1)

    def reveal(self, symbols: Symbols) -> None:
        """The tokens that were asked for, (n,)."""
        told = torch.full((len(self.rows),), -1)
        for (i, row), symbol in zip(self.asking, symbols.tolist(), strict=True):
            row.tokens.append(symbol)
            if row.asks:
                told[i] = symbol
        self._go_on(told)
        self.asking = self._asking()

    def _go_on(self, told: Tensor) -> None:
        """Rows whose window is open read on; the others turn to their next window, or to the next document."""
        turning = [i for i, row in self.asking if not row.asks]
        for i in turning:
            self._turn(i)
        if 0 < 2 * sum(row is not None for row in self.rows) <= len(self.rows):
            self._close_ranks()
            return
        if bool((told >= 0).any()):
            self.reader.push(told)
        if contexts := {i: row.context for i in turning if (row := self.rows[i])}:
            self.reader.restart(contexts)

    def _turn(self, i: int) -> None:
        row = self.rows[i]
        if row and row.ended:
            self.rows[i] = self._next()
        elif row:
            row.turn()

    def _close_ranks(self) -> None:
        """Where half the rows have no document, and there are no more, the others go on alone."""
        self.rows = [row for row in self.rows if row]
        self.reader = Reader(self.model, len(self.rows), self.method.window, self.method.stride)
        self.reader.restart({i: row.context for i, row in enumerate(self.rows) if row})

    def where(self) -> str:
        """The first token that is asked for."""
        row = self.asking[0][1]
        return f"document {row.document}, token {row.known}"


class LearningWalk(Walk):
    """With adapters of each document's own: rows wait for one another at the end of a window, and then all learn.

    All rows are read in every forward, those that wait or have no document too, as each has adapters of its own.
    """

    def __init__(self, player: LoraPlayer, method: DocumentLora, documents: int) -> None:
        self.player = player
        super().__init__(player.model, method, documents, method.rows)

    def _go_on(self, told: Tensor) -> None:
        if bool((told >= 0).any()):
            self.reader.push(told)
            return
        self.player.observe(*_block(self.rows))
        before = list(self.rows)
        for i in range(len(self.rows)):
            self._turn(i)
        self.player.reset(torch.tensor([row is not old for row, old in zip(self.rows, before, strict=True)]))
        empty = torch.tensor([self.model.bos])
        self.reader.restart({i: row.context if row else empty for i, row in enumerate(self.rows)})


def _block(rows: list[Row | None]) -> tuple[Block, Tensor]:
    """What the referee shows of these windows, and the targets that it then reveals."""
    shown, targets = list[tuple[Tensor, int]](), list[int]()
    for row in rows:
        window, known = (row.window, row.tokens) if row else (Window(0, 0, 0), [])
        own = known[window.first + 1 : window.stop + 1]
        shown.append((torch.tensor(known[window.start : window.first + len(own)], dtype=torch.int64), len(own)))
        targets += own
    return Block.of(shown, torch.zeros(len(rows), dtype=torch.bool)), torch.tensor(targets)


# ---- what can be walked ---------------------------------------------------------------------------------------------


def can_walk(method: Method) -> bool:
    """Whether documents can be decoded one by one, each from what is known of it alone."""
    static = type(method).player is Method.player
    return static or (isinstance(method, DocumentLora) and not method.crosses)


def check_method(method: Method) -> None:
    if not can_walk(method):
        cause = f"{method.name!r} cannot be coded: a document's probabilities depend on what came before the document"
        raise UsageError(cause, place="method", mend="--with contiguous, sliding or lora (lora without warm)")


@contextmanager
def walking(model: LM, vocab: int, method: Method, documents: int, rows: int) -> Iterator[Walk]:
    """A walk over so many documents, on one thread; the model is left as it was.

    rows: documents side by side; adapters have as many as their method says.
    """
    check_method(method)
    with _one_thread(), closing(method.player(model, vocab, CPU, ALONE)) as player:
        if isinstance(player, LoraPlayer) and isinstance(method, DocumentLora):
            yield LearningWalk(player, method, documents)
        else:
            yield Walk(model, method, documents, rows)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of every sum is then fixed, and small products run no slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
