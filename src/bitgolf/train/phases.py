"""Phases: parts that change while training goes on, and the proof that they did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from bitgolf.config.registry import part_name
from bitgolf.errors import BitgolfError
from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress


class PhaseChange(NamedTuple):
    """A phase that began: its moment, and the loss of one batch (nats per token) just before and just after."""

    phase_start: float
    loss_before: float
    loss_after: float


class Phases:
    """The moments of a task's clocked parts, as fractions of the run; `current` is the phase that training is in.

    The published late quantization-aware training never ran, since the compiler had folded its switch (spec, T2): so
    when a phase begins, the loss on one batch through the running graph must change, or training stops.
    """

    def __init__(self, task: nn.Module) -> None:
        self.parts = [m for m in task.modules() if isinstance(m, Scheduled)]
        self.starts = sorted({moment for p in self.parts for moment in p.phase_starts})
        self.current: int | None = None  # None before the first step
        self.last_change: PhaseChange | None = None  # what the last call of `advance` began
        self._rehearsing = False

    def advance(self, progress: TrainingProgress, probe: Callable[[], float]) -> None:
        """Set every part to a moment. Raises `BitgolfError` where a phase begins and the probed loss does not change.

        `probe` computes the loss on one batch. It is not called in a rehearsal.
        """
        number = sum(moment <= progress.fraction for moment in self.starts)
        begins = not self._rehearsing and self.current is not None and number != self.current
        before = probe() if begins else math.nan
        for p in self.parts:
            p.update(progress)
        self.current, self.last_change = number, None
        if not begins:
            return
        self.last_change = PhaseChange(self.starts[number - 1], before, probe())
        if self.last_change.loss_before == self.last_change.loss_after:
            names = ", ".join(sorted({part_name(type(p)) for p in self.parts if p.phase_starts}))
            raise BitgolfError(
                f"the phase at {self.last_change.phase_start:g} of the run changes nothing (of {names})",
                where="train",
                hint="remove its `since`, or see whether a compiled graph has folded the switch",
            )

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Steps that belong to no run, such as warm-up: phases begin without a check, and the phase is put back at the end.

        At initialization many branches have no effect yet, so a check would fail.
        """
        before, self._rehearsing = self.current, True
        try:
            yield
        finally:
            self.current, self.last_change, self._rehearsing = before, None, False

    @property
    def never_reached(self) -> list[float]:
        """The moments that training did not reach; what is scored is the model as it would be after them."""
        return self.starts[self.current or 0 :]

    def zero_missing_gradients(self, params: Iterable[nn.Parameter]) -> None:
        """Zero gradients for what is idle until a later phase. In the last phase, all must have their own."""
        if self.current is not None and self.current < len(self.starts):
            for p in params:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)


def progress_at(moment: float, steps: int, seconds: float) -> TrainingProgress:
    """A time just at a moment (a fraction) of a run with these limits: for compiling its phase's graph ahead."""
    return TrainingProgress(math.ceil(moment * steps) if steps else 1, steps, moment * seconds, seconds)
