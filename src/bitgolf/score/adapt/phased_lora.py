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
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.adapt.document_lora import DocumentLoRA, LoRAPlayer
from bitgolf.score.adapt.gradient import SGDAdaptation, WeightAdapter, cosine_decay
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import ScoringMethod, TextSection
from bitgolf.score.player import AdaptationStep
from bitgolf.score.text import TokenizedText


def even_boundaries(documents: int, phases: int) -> tuple[int, ...]:
    """Boundaries of so many phases over the first so many documents: 2500 in 3 are 833, 1666 and 2500 (#1855)."""
    return tuple(documents * (i + 1) // phases for i in range(phases))


@register
class PhasedLoRA(ScoringMethod):
    """`DocumentLoRA`, with descent on the base weights each time so many documents are scored. Parameter Golf #1610, #1626, #1855.

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
        lora: Spec[DocumentLoRA] = part(DocumentLoRA),
        boundaries: tuple[int, ...] = even_boundaries(2500, 3),
        cumulative: bool = True,
        chunk: int = 32768,
        sgd: Spec[SGDAdaptation] = part(SGDAdaptation, lr=0.001, epochs=1, split_documents=True),
    ) -> None:
        if not boundaries or any(b >= a for b, a in pairwise([0, *boundaries])):
            raise RecipeError(f"{boundaries} are not counts of documents that grow", where="PhasedLoRA.boundaries")
        if chunk < 1:
            raise RecipeError(f"a chunk of {chunk} targets is not one", where="PhasedLoRA.chunk")
        self.lora, self.sgd = lora(), sgd
        self.window, self.stride, self.first_stride = self.lora.window, self.lora.stride, self.lora.first_stride
        self.order = self.lora.order
        self.boundaries, self.cumulative, self.chunk = boundaries, cumulative, chunk

    @property
    def cross_document(self) -> bool:
        return True

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        documents = text.documents()
        ends = [*self.boundaries_in(text), len(documents)]
        for number, (first, end) in enumerate(pairwise([0, *ends])):
            own = documents[first:end]
            yield TextSection(own[0][0], own[-1][1], self.lora.batches(own), AdaptationStep(number, len(ends)))

    def boundaries_in(self, text: TokenizedText) -> tuple[int, ...]:
        """The boundaries that are followed by a document of this text."""
        return tuple(b for b in self.boundaries if b < len(text.documents()))

    def warnings(self, text: TokenizedText) -> list[str]:
        """What a reader of the score must know: phases that this text is too short for."""
        documents, held, said = text.documents(), self.boundaries_in(text), list[str]()
        if left := self.boundaries[len(held) :]:
            said.append(f"the text has {len(documents)} documents: no phase after {', '.join(map(str, left))}")
        for earlier, end in pairwise([0, *held]):
            targets = documents[end - 1][1] - documents[0 if self.cumulative else earlier][0]
            if targets <= self.chunk:
                said.append(f"the phase after {end} documents has one chunk, {targets} targets: it learns nothing")
        return said

    def make_player(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> PhasedLoRAPlayer:
        return PhasedLoRAPlayer(model, vocab, device, distributed, self, kernels)

    def without_adaptation(self) -> Spec[ScoringMethod]:
        return self.lora.without_adaptation()


class PhasedLoRAPlayer(LoRAPlayer):
    """Adapters on a model whose own weights learn at the end of a section. `close` gives it back its weights."""

    def __init__(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        method: PhasedLoRA,
        kernels: SelectKernels | None = None,
    ) -> None:
        self.learner = WeightAdapter(
            method.sgd(), model.to(device.torch_device), device, distributed, window=method.window
        )
        super().__init__(model, vocab, device, method.lora, distributed, kernels)
        self.method_settings, self.revealed = method, torch.zeros(0, dtype=torch.int64)

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        self.learner.check_first(step)
        self.revealed = (
            torch.cat([self.revealed[:-1], revealed]) if self.method_settings.cumulative and step.number else revealed
        )
        if not step.last:
            with self.without_adapters():
                self._train_base_weights()
            self.reset_all()

    def _train_base_weights(self) -> None:
        self.learner.reset_optimizer()
        starts = range(0, len(self.revealed) - 1, self.method_settings.chunk)
        for number, start in enumerate(starts[:-1]):
            self.learner.train_on(
                self.revealed[start : start + self.method_settings.chunk + 1], cosine_decay(number, len(starts) - 1)
            )

    def close(self) -> None:
        super().close()
        self.learner.restore()
        self.revealed = self.revealed[:0]
