"""Documents with adapters of their own, and now and then descent on the base weights over the documents scored so far."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import World
from bitgolf.score.adapt.document_lora import DocumentLora, LoraPlayer
from bitgolf.score.adapt.gradient import Learner, Sgd, cosine
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import Method, Section
from bitgolf.score.player import AdaptationStep
from bitgolf.score.text import Text


def evenly(documents: int, phases: int) -> tuple[int, ...]:
    """Boundaries of so many phases over the first so many documents: 2500 in 3 are 833, 1666 and 2500 (#1855)."""
    return tuple(documents * (i + 1) // phases for i in range(phases))


@register
class Phased(Method):
    """`DocumentLora`, with descent on the base weights each time so many documents are scored. Parameter Golf #1610, #1626, #1855.

    boundaries: how many documents are scored before each phase; what lies at or beyond the text's end is left out.
    A phase goes once over all documents scored so far, or where not `cumulative` over those since the last one, in chunks of `chunk`
    targets: the learning rate goes down a cosine over them, the last one is left out, as published. Momentum starts at
    zero; then adapters start anew. Published: the longest documents first (`lora.order`); 6 phases overfit.
    """

    name = "phased"
    adapts: ClassVar[bool] = True
    isolated = True

    def __init__(
        self,
        *,
        lora: Spec[DocumentLora] = part(DocumentLora),
        boundaries: tuple[int, ...] = evenly(2500, 3),
        cumulative: bool = True,
        chunk: int = 32768,
        sgd: Spec[Sgd] = part(Sgd, lr=0.001, epochs=1, documents=True),
    ) -> None:
        if not boundaries or any(b >= a for b, a in pairwise([0, *boundaries])):
            raise RecipeError(f"{boundaries} are not counts of documents that grow", place="Phased.boundaries")
        if chunk < 1:
            raise RecipeError(f"a chunk of {chunk} targets is not one", place="Phased.chunk")
        self.lora, self.sgd = lora(), sgd
        self.window, self.stride, self.opening = self.lora.window, self.lora.stride, self.lora.opening
        self.order = self.lora.order
        self.boundaries, self.cumulative, self.chunk = boundaries, cumulative, chunk

    @property
    def crosses(self) -> bool:
        return True

    def sections(self, text: Text, batch_tokens: int) -> Iterator[Section]:
        documents = text.documents()
        ends = [*self.within(text), len(documents)]
        for number, (first, end) in enumerate(pairwise([0, *ends])):
            own = documents[first:end]
            yield Section(own[0][0], own[-1][1], self.lora.tracks(own), AdaptationStep(number, len(ends)))

    def within(self, text: Text) -> tuple[int, ...]:
        """The boundaries that are followed by a document of this text."""
        return tuple(b for b in self.boundaries if b < len(text.documents()))

    def remarks(self, text: Text) -> list[str]:
        """What a reader of the score must know: phases that this text is too short for."""
        documents, held, said = text.documents(), self.within(text), list[str]()
        if left := self.boundaries[len(held) :]:
            said.append(f"the text has {len(documents)} documents: no phase after {', '.join(map(str, left))}")
        for earlier, end in pairwise([0, *held]):
            targets = documents[end - 1][1] - documents[0 if self.cumulative else earlier][0]
            if targets <= self.chunk:
                said.append(f"the phase after {end} documents has one chunk, {targets} targets: it learns nothing")
        return said

    def player(
        self, model: LM, vocab: int, device: Device, world: World, kernels: SelectKernels | None = None
    ) -> PhasedPlayer:
        return PhasedPlayer(model, vocab, device, world, self, kernels)

    def still(self) -> Spec[Method]:
        return self.lora.still()


class PhasedPlayer(LoraPlayer):
    """Adapters on a model whose own weights learn at the end of a section. `close` gives it back its weights."""

    def __init__(
        self,
        model: LM,
        vocab: int,
        device: Device,
        world: World,
        method: Phased,
        kernels: SelectKernels | None = None,
    ) -> None:
        self.learner = Learner(method.sgd(), model.to(device.device), device, world, window=method.window)
        super().__init__(model, vocab, device, method.lora, world, kernels)
        self.phased, self.known = method, torch.zeros(0, dtype=torch.int64)

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        self.learner.check_first(step)
        self.known = torch.cat([self.known[:-1], revealed]) if self.phased.cumulative and step.number else revealed
        if not step.last:
            with self.bare():
                self._descend()
            self.renew()

    def _descend(self) -> None:
        self.learner.begin()
        starts = range(0, len(self.known) - 1, self.phased.chunk)
        for number, start in enumerate(starts[:-1]):
            self.learner.learn(self.known[start : start + self.phased.chunk + 1], cosine(number, len(starts) - 1))

    def close(self) -> None:
        super().close()
        self.learner.restore()
        self.known = self.known[:0]
