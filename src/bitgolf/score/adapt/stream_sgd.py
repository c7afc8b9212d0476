"""Test-time training on the stream: score a chunk, train on it with SGD, then score the next chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from bitgolf.config.ranges import Count, WindowTokens
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.adapt.gradient import SGDAdaptation, WeightAdapter, cosine_decay
from bitgolf.score.execution.forward import SelectKernels, make_forward
from bitgolf.score.methods import (
    UPDATES_WEIGHTS,
    ScoringMethod,
    ScoringWindow,
    SlidingScoring,
    TextSection,
    batch_windows,
    check_stride,
)
from bitgolf.score.player import AdaptationStep, StaticPlayer
from bitgolf.score.text import TokenizedText


@register
class StreamSGD(ScoringMethod):
    """Sliding windows, with SGD on each chunk of `chunk` targets after its score (Parameter Golf #461, #549, #1413).

    The learning rate follows a cosine decay over the chunks; the last chunk is not trained on. A window belongs to the
    chunk of its first target. If it crosses the end of that chunk, it scores all its targets before the chunk is
    trained on, as published, so fewer than `stride` targets of a chunk are scored one step early.
    Published settings: lr 0.002 (#549) and 0.005 (#1413, #1493), 3 epochs, stride 64.
    """

    name = "sgd"
    adapts: ClassVar[bool] = True
    native_only = UPDATES_WEIGHTS

    def __init__(
        self,
        *,
        window: WindowTokens = 1024,
        stride: WindowTokens = 64,
        chunk: Count = 32768,
        isolated: bool = False,
        adaptation: Spec[SGDAdaptation] = part(SGDAdaptation),
    ) -> None:
        check_stride(window, stride)
        if chunk < 1:
            raise RecipeError(f"chunk must be at least 1 target, got {chunk}", where="StreamSGD.chunk")
        self.window, self.stride, self.first_stride, self.isolated = window, stride, window, isolated
        self.chunk, self.adaptation = chunk, adaptation

    @property
    def cross_document(self) -> bool:
        return True  # through the weights, even if windows are isolated

    @property
    def reads_in_order(self) -> bool:
        return not self.isolated  # windows of isolated documents differ in length, by which batches are sorted

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        chunks = math.ceil(text.num_targets / self.chunk)
        windows = (w for start, stop in self.text_spans(text) for w in self.windows(stop - start, start))
        following = next(windows, None)
        for number in range(chunks):
            start, stop = number * self.chunk, min((number + 1) * self.chunk, text.num_targets)
            own = list[ScoringWindow]()
            while following and following.first_target < stop:
                own.append(following)
                following = next(windows, None)
            yield TextSection(start, stop, [*batch_windows(own, batch_tokens)], AdaptationStep(number, chunks))

    def warnings(self, text: TokenizedText) -> list[str]:
        return (
            []
            if text.num_targets > self.chunk
            else [
                f"the method trains on nothing: the {text.num_targets} targets of the text are a single chunk, and the"
                " last chunk is left out; set a smaller chunk"
            ]
        )

    def make_player(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> StreamSGDPlayer:
        return StreamSGDPlayer(model, vocab, device, distributed, self, kernels)

    def without_adaptation(self) -> Spec[ScoringMethod]:
        return part(SlidingScoring, window=self.window, stride=self.stride, isolated=self.isolated)


class StreamSGDPlayer(StaticPlayer):
    """A model that is trained on each chunk after its score. `close` restores the weights."""

    def __init__(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        method: StreamSGD,
        kernels: SelectKernels | None = None,
    ) -> None:
        forward = make_forward(
            model.to(device.torch_device), device, method.window, learns=True, distributed=distributed, kernels=kernels
        )
        super().__init__(model, vocab, device, longest=method.window, forward=forward)
        self.learner = WeightAdapter(
            method.adaptation(), self.model, device, distributed, window=method.window, chunk=method.chunk
        )

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        self.learner.check_first(step)
        if not step.last:
            self.learner.train_on(revealed, cosine_decay(step.number, step.steps - 1))

    def close(self) -> None:
        super().close()
        self.learner.restore()
