"""Descent on the stream: score a chunk, then learn from it, and score the next with what was learned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import ClassVar

from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import World
from bitgolf.score.adapt.gradient import Learner, Sgd, cosine
from bitgolf.score.execution.forward import SelectKernels, forward_of
from bitgolf.score.methods import Method, Section, Sliding, Window, check_stride, tracks_of
from bitgolf.score.player import AdaptationStep, StaticPlayer
from bitgolf.score.text import Text


@register
class StreamSgd(Method):
    """Sliding windows in sections of `chunk` targets; after each, descent on its tokens. Parameter Golf #461, #549, #1413.

    The learning rate goes down a cosine over the chunks; the last one, which nothing follows, is not learned from. A
    window that crosses the end of a chunk is shown twice, with the same context, for the targets of either side.
    Published: lr 0.002 (#549) and 0.005 (#1413, #1493), 3 epochs, stride 64.
    """

    name = "sgd"
    adapts: ClassVar[bool] = True

    def __init__(
        self,
        *,
        window: int = 1024,
        stride: int = 64,
        chunk: int = 32768,
        isolated: bool = False,
        sgd: Spec[Sgd] = part(Sgd),
    ) -> None:
        check_stride(window, stride)
        if chunk < 1:
            raise RecipeError(f"a chunk of {chunk} targets is not one", place="StreamSgd.chunk")
        self.window, self.stride, self.opening, self.isolated = window, stride, window, isolated
        self.chunk, self.sgd = chunk, sgd

    @property
    def crosses(self) -> bool:
        return True  # what the weights learn, also where windows stop at documents

    def sections(self, text: Text, batch_tokens: int) -> Iterator[Section]:
        chunks = math.ceil(text.targets / self.chunk)
        windows = (w for start, stop in self.texts(text) for w in self.windows(stop - start, start))
        for number, own in groupby(cut(windows, self.chunk), key=lambda w: w.first // self.chunk):
            start = number * self.chunk
            tracks = [*tracks_of(list(own), batch_tokens)]
            yield Section(start, min(start + self.chunk, text.targets), tracks, AdaptationStep(number, chunks))

    def remarks(self, text: Text) -> list[str]:
        return (
            [] if text.targets > self.chunk else [f"the text is one chunk, {text.targets} targets: nothing is learned"]
        )

    def player(
        self, model: LM, vocab: int, device: Device, world: World, kernels: SelectKernels | None = None
    ) -> StreamPlayer:
        return StreamPlayer(model, vocab, device, world, self, kernels)

    def still(self) -> Spec[Method]:
        return part(Sliding, window=self.window, stride=self.stride, isolated=self.isolated)


class StreamPlayer(StaticPlayer):
    """A model that learns from each chunk after it was scored. `close` gives it back its weights."""

    def __init__(
        self,
        model: LM,
        vocab: int,
        device: Device,
        world: World,
        method: StreamSgd,
        kernels: SelectKernels | None = None,
    ) -> None:
        forward = forward_of(model.to(device.device), device, method.window, learns=True, world=world, kernels=kernels)
        super().__init__(model, vocab, device, forward=forward)
        self.learner = Learner(method.sgd(), self.model, device, world, window=method.window)

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        self.learner.check_first(step)
        if not step.last:
            self.learner.learn(revealed, cosine(step.number, step.steps - 1))

    def close(self) -> None:
        super().close()
        self.learner.restore()


def cut(windows: Iterable[Window], chunk: int) -> Iterator[Window]:
    """These windows, those that score targets on both sides of a multiple of `chunk` once for each side."""
    for w in windows:
        first = w.first
        while first < w.stop:
            stop = min(w.stop, (first // chunk + 1) * chunk)
            yield Window(w.start, stop, first)
            first = stop
