"""The predictor of methods that learn: the method's own plan and player, as the referee uses them, token by token.

The lengths of all documents are known, so the plan is that of the referee, and so are the tokens that the player learns
from and the moments at which it does: all of them are decoded by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.score.coding.predictor import Symbols, finite_log_softmax
from bitgolf.score.methods import ScoringMethod, ScoringWindow
from bitgolf.score.player import CodingPlayer, ScoringBatch
from bitgolf.score.referee import batch_rounds
from bitgolf.score.text import TokenizedText


def text_of_lengths(lengths: Sequence[int], bos: int) -> TokenizedText:
    """A text of documents with so many targets each, in which only the BOS tokens are known; the others are not BOS."""
    ends = np.cumsum([0, *lengths])
    tokens = np.full(int(ends[-1]) + 1, int(not bos), np.int64)
    tokens[ends] = bos
    return TokenizedText(tokens, 0, bos)


class PlayerPredictor:
    """Predicts the targets of a text in the order of a method's plan, those of a step side by side as far as they can be.

    A target can be predicted once all tokens of its window before it are known. player: of the method, not used before.
    lengths: targets of each document, its end included, in corpus order. batch_tokens: as for the referee's `score`.
    """

    def __init__(
        self, player: CodingPlayer, method: ScoringMethod, lengths: Sequence[int], bos: int, batch_tokens: int
    ) -> None:
        self._player, self._method, self._batch_tokens = player, method, batch_tokens
        self._documents = method.order.permutation(np.array(lengths, np.int64))
        self._text = text_of_lengths([lengths[document] for document in self._documents], bos)
        self._starts = np.array([start for start, _ in self._text.documents()])
        self._tokens = torch.from_numpy(self._text.tokens)
        self._known = self._tokens == bos
        self._steps, self._logits = self._walk(), torch.empty(0)
        self._places = list[int]()  # the targets, as indices of the text in the order of scoring
        self._advance()

    @property
    def targets(self) -> Sequence[tuple[int, int]]:
        numbers = np.searchsorted(self._starts, self._places, "right") - 1
        places = np.asarray(self._places, np.int64) - self._starts[numbers]
        return [(self._documents[n], place) for n, place in zip(numbers.tolist(), places.tolist(), strict=True)]

    def log_probabilities(self) -> Tensor:
        """Log probabilities of the targets: float32 (n, V), in nats."""
        return finite_log_softmax(self._logits.float(), self.position())

    def update(self, symbols: Symbols) -> None:
        """Take the tokens (n,) of the targets, and move on to the next targets."""
        places = torch.tensor(self._places) + 1
        self._tokens[places] = torch.from_numpy(symbols.astype(np.int64))
        self._known[places] = True
        self._advance()

    def position(self) -> str:
        """Document and index of the first target, for messages."""
        document, token = self.targets[0]
        return f"document {document}, token {token}"

    def _advance(self) -> None:
        """Compute the logits of the next targets. There are none at the end."""
        logits = next(self._steps, None)
        if logits is None:
            self._places = []
        else:
            self._logits = logits

    def _walk(self) -> Iterator[Tensor]:
        """Yield the logits (n, V) of the next targets `_places`, which must be known before the next call.

        This is the referee's loop, with each step divided into tokens.
        """
        for section in self._method.sections(self._text, self._batch_tokens):
            for batch in section.batches:
                for number, (windows, reset_rows) in enumerate(batch_rounds(batch)):
                    yield from self._read(windows, torch.tensor(reset_rows), reset_all=number == 0)
            if self._method.adapts:
                self._player.adapt(self._tokens[section.start : section.stop + 1].clone(), section.step)

    def _read(
        self, windows: Sequence[ScoringWindow | None], reset_rows: Tensor, *, reset_all: bool
    ) -> Iterator[Tensor]:
        """Predict the targets of one step, a window in each row, then let the player learn from them."""
        rows, begin = GrowingRows(windows, self._tokens), True
        while rows.waiting:
            ready = [row for row, target in rows.waiting.items() if rows.is_known(row, target, self._known)]
            if not ready:
                cause = f"method {self._method.name!r} needs tokens of a later step, so no decoder can follow it"
                raise BitgolfError(cause, where="compress", hint="choose another method with --with")
            self._places = [rows.waiting[row] for row in ready]
            yield self._player.predict_next(rows.batch(ready, reset_rows, reset_all), begin=begin)
            rows.advance(ready)
            begin, reset_rows, reset_all = False, torch.zeros_like(reset_rows), False
        targets = [self._tokens[w.first_target + 1 : w.stop + 1] for w in windows if w]
        self._player.observe(rows.whole(reset_rows), torch.cat(targets))


class GrowingRows:
    """The windows of one step, of which targets become known one by one. tokens: of the text, filled in by the caller.

    waiting: row -> its next target, for the rows that have one left.
    """

    def __init__(self, windows: Sequence[ScoringWindow | None], tokens: Tensor) -> None:
        self.windows = {row: window for row, window in enumerate(windows) if window}
        self.waiting = {row: window.first_target for row, window in self.windows.items()}
        self._tokens, self._begun = tokens, set[int]()
        width = max(window.stop - window.start for window in self.windows.values())
        self._inputs = torch.zeros(len(windows), width, dtype=torch.int64)

    def is_known(self, row: int, target: int, known: Tensor) -> bool:
        """Whether all inputs of the next target of a row are known. Those before its first target are copied then."""
        if row in self._begun:
            return True
        start = self.windows[row].start
        if not bool(known[start : target + 1].all()):
            return False
        self._begun.add(row)
        self._inputs[row, : target + 1 - start] = self._tokens[start : target + 1]
        return True

    def batch(self, ready: Sequence[int], reset_rows: Tensor, reset_all: bool) -> ScoringBatch:
        """The windows up to the next target of each ready row, which is their only target."""
        columns = [self.waiting[row] - self.windows[row].start for row in ready]
        mask = torch.zeros(len(self._inputs), max(columns) + 1, dtype=torch.bool)
        mask[list(ready), columns] = True
        return ScoringBatch(self._inputs[:, : mask.shape[1]], mask, reset_rows, reset_all)

    def advance(self, ready: Sequence[int]) -> None:
        """The next targets of these rows are known: go to those after them."""
        for row in ready:
            window, target = self.windows[row], self.waiting[row] + 1
            if target < window.stop:
                self._inputs[row, target - window.start] = self._tokens[target]
                self.waiting[row] = target
            else:
                del self.waiting[row]

    def whole(self, reset_rows: Tensor) -> ScoringBatch:
        """The batch that the referee passes to the player for these windows."""
        mask = torch.zeros(self._inputs.shape, dtype=torch.bool)
        for row, window in self.windows.items():
            self._inputs[row, : window.stop - window.start] = self._tokens[window.start : window.stop]
            mask[row, window.first_target - window.start : window.stop - window.start] = True
        return ScoringBatch(self._inputs, mask, reset_rows)
