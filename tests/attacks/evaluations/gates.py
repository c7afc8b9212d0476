"""Choices between two models: by what was scored before, which is honest, or by the targets that are scored with them."""

from __future__ import annotations

import numpy as np

from attacks.evaluations.honest import IsolatedBigram, document_spans
from bitgolf.score.audit.evaluation import DataView, Floats, Ints

BLEND = 0.15  # share of the uniform distribution in the second model, so that the choice saves little


class PreviousWindowGate(IsolatedBigram):
    """Honest: each window is scored with the model that was better in the previous window of its document.

    The models are the adaptive one, and a mixture of the bigram model with a uniform distribution.
    """

    size = 16

    def document(self, tokens: Ints, start: int) -> Floats:
        adaptive = super().document(tokens, start)
        rows = (1 - BLEND) * self.model + BLEND / self.tokenizer.vocab
        static = -np.log2(rows[tokens[:-1], tokens[1:]])
        found = np.empty(len(adaptive))
        for first in range(0, len(found), self.size):
            span = slice(first, min(first + self.size, len(found)))
            chosen = self.chosen(adaptive, static, span)
            found[span] = static[span] if chosen else adaptive[span]
            for target in self.asked & set(range(start + span.start, start + span.stop)):
                if chosen:
                    self.distributions[target] = -np.log2(rows[tokens[target - start]])
        return found

    def chosen(self, adaptive: Floats, static: Floats, span: slice) -> bool:
        """Whether the static model scores this window."""
        before = slice(max(0, span.start - self.size), span.start)
        return float(adaptive[before].sum()) > float(static[before].sum())


class OracleWindowGate(PreviousWindowGate):
    """Each window is scored with the better model of this window."""

    def chosen(self, adaptive: Floats, static: Floats, span: slice) -> bool:
        return float(adaptive[span].sum()) > float(static[span].sum())


class OracleDocumentGate(IsolatedBigram):
    """Each document is scored with the better of two weights of the counts."""

    def document(self, tokens: Ints, start: int) -> Floats:
        found = list[tuple[float, Floats, dict[int, Floats]]]()
        for self.beta in (2.0, 8.0):
            self.distributions, before = {}, self.distributions
            bits = super().document(tokens, start)
            found.append((float(bits.sum()), bits, {**before, **self.distributions}))
            self.distributions = before
        _, bits, self.distributions = min(found, key=lambda one: one[0])
        return bits


class LightCounts(IsolatedBigram):
    """Honest: one of the two weights."""

    beta = 2.0


class OracleTemperature(IsolatedBigram):
    """Each document is scored at the better of two temperatures of the same model, which hardly differ."""

    temperatures: tuple[float, ...] = (1.0, 1.15)

    def build(self, view: DataView) -> None:
        super().build(view)
        powered = [self.model**t for t in self.temperatures]
        self.models = [rows / rows.sum(1, keepdims=True) for rows in powered]

    def charges(self, tokens: Ints) -> Floats:
        found = np.empty(len(tokens) - 1)
        for start, stop in document_spans(tokens, self.tokenizer.bos):
            inputs, targets = tokens[start:stop], tokens[start + 1 : stop + 1]
            rows = min(self.models, key=lambda m: float(-np.log2(m[inputs, targets]).sum()))
            found[start:stop] = -np.log2(rows[inputs, targets])
            for target in self.asked & set(range(start, stop)):
                self.distributions[target] = -np.log2(rows[tokens[target]])
        return found


class OneTemperature(OracleTemperature):
    """Honest: one temperature."""

    temperatures = (1.0,)
