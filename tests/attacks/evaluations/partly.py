"""Cheats that cheat in one place only: an honest evaluation whose bits are replaced there by those of a cheat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from attacks.evaluations.honest import document_spans
from bitgolf.score.audit.evaluation import Bools, ClaimedScore, DataView, Evaluation, Ints

MakeEvaluation = Callable[[Any], Evaluation]
Place = Callable[[Ints, list[tuple[int, int]]], Bools]  # targets and spans of documents → where the cheat applies


class Partly:
    """The honest evaluation, except at some targets. The place depends on the layout of the documents alone.

    silent: report no distributions.
    """

    def __init__(
        self, tokenizer: Any, cheat: MakeEvaluation, honest: MakeEvaluation, place: Place, silent: bool
    ) -> None:
        self.tokenizer, self.parts, self.place, self.silent = (
            tokenizer,
            (honest(tokenizer), cheat(tokenizer)),
            place,
            silent,
        )
        self.isolated = self.parts[0].isolated

    def build(self, view: DataView) -> None:
        for part in self.parts:
            part.build(view)

    def warm_up(self, view: DataView) -> None:
        for part in self.parts:
            part.warm_up(view)

    def evaluate(self, view: DataView) -> ClaimedScore:
        tokens = view.tokens()
        views = [
            DataView(view.phase, tokens, view.training(), view.bytes, view.distribution_targets) for _ in self.parts
        ]
        honest, cheat = (part.evaluate(own) for part, own in zip(self.parts, views, strict=True))
        view.log += views[1].log[1:]  # only further passes of the cheat
        here = self.place(np.arange(view.targets), document_spans(tokens, self.tokenizer.bos))
        distributions = {
            target: (cheat if here[target] else honest).distributions.get(target)
            for target in view.distribution_targets
        }
        handed = {target: bits for target, bits in distributions.items() if bits is not None and not self.silent}
        return honest._replace(bits=np.where(here, cheat.bits, honest.bits), distributions=handed)


def only(place: Place, cheat: MakeEvaluation, honest: MakeEvaluation, *, silent: bool = False) -> MakeEvaluation:
    """The cheat in one place, the honest evaluation elsewhere."""
    return lambda tokenizer: Partly(tokenizer, cheat, honest, place, silent)


def text(start: float, stop: float) -> Place:
    """Targets from a fraction of the text to another, which are also a fraction of the time."""
    return lambda targets, spans: (targets >= start * len(targets)) & (targets < stop * len(targets))


def documents(start: float, stop: float) -> Place:
    """The targets of the documents from a fraction of their number to another."""

    def place(targets: Ints, spans: list[tuple[int, int]]) -> Bools:
        here = np.zeros(len(targets), bool)
        for first, end in spans[round(start * len(spans)) : round(stop * len(spans))]:
            here[first:end] = True
        return here

    return place


def depth(start: float, stop: float) -> Place:
    """The targets from a fraction of each document to another."""

    def place(targets: Ints, spans: list[tuple[int, int]]) -> Bools:
        here = np.zeros(len(targets), bool)
        for first, end in spans:
            here[first + int(start * (end - first)) : first + int(stop * (end - first))] = True
        return here

    return place


def every(period: int) -> Place:
    """Every so many targets."""
    return lambda targets, spans: targets % period == period - 1
