"""Per-document LoRA adapters, with phases of SGD on the base weights over the documents scored so far."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from bitgolf.config.ranges import Count, CountOrZero
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation, WeightAdapter, cosine_decay
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.adapt.phase_documents import scored_before_phases, shortest_documents
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import UPDATES_WEIGHTS, ScoringMethod, TextSection
from bitgolf.score.player import AdaptationStep
from bitgolf.score.text import TokenizedText


def even_boundaries(documents: int, phases: int) -> tuple[int, ...]:
    """Boundaries that divide `documents` evenly into `phases`: 2500 in 3 gives 833, 1666 and 2500 (#1855)."""
    return tuple(documents * (i + 1) // phases for i in range(phases))


@register
class PhasedLoRA(ScoringMethod):
    """`DocumentLoRA` with phases of SGD on the base weights (Parameter Golf #1610, #1626, #1855).

    boundaries: number of scored documents before each phase. Boundaries at or after the last document are ignored.
    cumulative: whether a phase trains on all documents scored so far, or only on those since the previous phase.
    batches_in_flight: None begins a phase exactly at its boundary. A number n begins it as published: after the batch
    of `lora.rows` documents that reaches the boundary and n more batches, those of the other GPUs. It then trains on
    as many documents as the boundary, those scored last; see `phase_documents`.
    chunk: targets per chunk. A phase trains once on each chunk but the last (as published), with cosine decay of the
    learning rate and momentum reset to zero. Adapters are reset after each phase.
    Published settings: longest documents first (`lora.order`), 7 batches in flight; 6 phases overfit.
    """

    name = "phased"
    adapts: ClassVar[bool] = True
    native_only = UPDATES_WEIGHTS
    isolated = True

    def __init__(
        self,
        *,
        lora: Spec[DocumentLoRA] = part(DocumentLoRA),
        boundaries: tuple[Count, ...] = even_boundaries(2500, 3),
        cumulative: bool = True,
        batches_in_flight: CountOrZero | None = None,
        chunk: Count = 32768,
        sgd: Spec[SGDAdaptation] = part(SGDAdaptation, lr=0.001, epochs=1, split_documents=True),
    ) -> None:
        if not boundaries or any(b >= a for b, a in pairwise([0, *boundaries])):
            cause = f"boundaries must be one or more increasing numbers of documents from 1, got {boundaries}"
            raise RecipeError(cause, where="PhasedLoRA.boundaries", hint="e.g. (833, 1666, 2500)")
        if chunk < 1:
            raise RecipeError(f"chunk must be at least 1 target, got {chunk}", where="PhasedLoRA.chunk")
        if batches_in_flight is not None and not cumulative:
            cause = f"cumulative=False has no effect with batches_in_flight={batches_in_flight}"
            raise RecipeError(cause, where="PhasedLoRA.cumulative", hint="remove one of the two")
        self.lora, self.sgd, self.batches_in_flight = lora(), sgd, batches_in_flight
        self.window, self.stride, self.first_stride = self.lora.window, self.lora.stride, self.lora.first_stride
        self.order, self.full_windows = self.lora.order, self.lora.full_windows
        self.boundaries, self.cumulative, self.chunk = boundaries, cumulative, chunk
        length = self.sgd["sequence_length"] or self.window
        if not sgd().longest_row(chunk, length):
            cause = f"a chunk of {chunk} targets has no full sequence of {length}, so no phase would train"
            raise RecipeError(cause, where="PhasedLoRA.chunk", hint=f"set it to {length} or more")

    @property
    def cross_document(self) -> bool:
        return True

    @property
    def reads_in_order(self) -> bool:
        return self.lora.reads_in_order

    @property
    def serial(self) -> bool:
        return False

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        documents = text.documents()
        ends = [*self.scored_before_phases(len(documents)), len(documents)]
        for number, (first, end) in enumerate(pairwise([0, *ends])):
            own = documents[first:end]
            yield TextSection(own[0][0], own[-1][1], self.lora.batches(own), AdaptationStep(number, len(ends)))

    def scored_before_phases(self, documents: int) -> list[int]:
        """Number of documents scored before each phase, in a text of so many documents."""
        if self.batches_in_flight is None:
            return [b for b in self.boundaries if b < documents]
        return [*scored_before_phases(documents, self.boundaries, self.lora.rows, self.batches_in_flight)]

    def phase_text(self, revealed: Tensor, number: int, bos: int) -> Tensor:
        """The tokens (n + 1,) that phase `number` trains on. revealed: all that `cumulative` lets it read."""
        return (
            revealed if self.batches_in_flight is None else shortest_documents(revealed, bos, self.boundaries[number])
        )

    def warnings(self, text: TokenizedText) -> list[str]:
        """Warnings about phases for which this text is too short."""
        documents, warnings = text.documents(), self.lora.warnings(text)
        ends = self.scored_before_phases(len(documents))
        if skipped := ", ".join(map(str, self.boundaries[len(ends) :])):
            warnings.append(f"the text has {len(documents)} documents, so there is no phase after {skipped} documents")
        for number, (earlier, end) in enumerate(pairwise([0, *ends])):
            span = documents[0 if self.cumulative else earlier][0], documents[end - 1][1] + 1
            targets = len(self.phase_text(torch.from_numpy(text.tokens[slice(*span)]), number, text.bos)) - 1
            if targets <= self.chunk:
                single = f"its {targets} targets are a single chunk, and the last chunk is left out"
                warnings.append(f"the phase after {end} documents trains on nothing: {single}; set a smaller chunk")
        return warnings

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
    """Adapters on a model whose base weights are trained at the end of each section. `close` restores the weights."""

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
            method.sgd(), model.to(device.torch_device), device, distributed, window=method.window, chunk=method.chunk
        )
        super().__init__(model, vocab, device, method.lora, distributed, kernels)
        self.method_settings, self.revealed = method, torch.zeros(0, dtype=torch.int64)

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        self.learner.check_first(step)
        self.revealed = (
            torch.cat([self.revealed[:-1], revealed]) if self.method_settings.cumulative and step.number else revealed
        )
        if not step.last:
            text = self.method_settings.phase_text(self.revealed, step.number, self.model.bos)
            with self.without_adapters():
                self._train_base_weights(text)
            self.reset_all()

    def _train_base_weights(self, text: Tensor) -> None:
        """Train on all chunks of tokens (n + 1,) but the last."""
        self.learner.reset_optimizer()
        chunk = self.method_settings.chunk
        starts = range(0, len(text) - 1, chunk)
        for number, start in enumerate(starts[:-1]):
            self.learner.train_on(text[start : start + chunk + 1], cosine_decay(number, len(starts) - 1))

    def close(self) -> None:
        super().close()
        self.learner.restore()
        self.revealed = self.revealed[:0]
