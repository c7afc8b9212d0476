"""Phases of training, in which scheduled parts switch behaviour, and a check that each switch takes effect."""

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
    """Start of a phase, as a fraction of the run, and the loss of a batch (nats per token) before and after it."""

    phase_start: float
    loss_before: float
    loss_after: float


class Phases:
    """The phases of the scheduled parts of a loss module.

    starts: fractions of the run at which a phase begins.  current: index of the phase that training is in.
    When a phase of a part with `changes_loss` begins, the loss of one batch, computed by the graph that trains, must
    change, or training stops.
    (In openai/parameter-golf, pull requests 315, 414, 549 and 1019, late quantization-aware training had no effect,
    since the compiler had folded its switch.)
    """

    def __init__(self, task: nn.Module) -> None:
        self.parts = [m for m in task.modules() if isinstance(m, Scheduled)]
        self.starts = _starts(self.parts)
        self.current: int | None = None  # None before the first step
        self.last_change: PhaseChange | None = None  # by the last call of `advance`
        self._rehearsing = False

    def add(self, part: Scheduled) -> None:
        """Add a scheduled part that is no module of the loss module."""
        self.parts.append(part)
        self.starts = _starts(self.parts)

    def advance(self, progress: TrainingProgress, probe: Callable[[], float]) -> None:
        """Update every scheduled part to the progress of the run.

        probe: computes the loss on one batch; called before and after the start of a phase, but not in a rehearsal.
        Raises `BitgolfError` if a phase begins and the loss does not change although it must.
        """
        number = sum(start <= progress.fraction for start in self.starts)
        begins = not self._rehearsing and self.current is not None and number != self.current
        before = probe() if begins else math.nan
        for p in self.parts:
            p.update(progress)
        begun = self.starts[self.current or 0 : number]
        self.current, self.last_change = number, None
        if not begins:
            return
        self.last_change = PhaseChange(self.starts[number - 1], before, probe())
        if self.last_change.loss_before == self.last_change.loss_after and self._must_change_loss(begun):
            names = ", ".join(sorted({part_name(type(p)) for p in self.parts if p.phase_starts}))
            raise BitgolfError(
                f"the phase at {self.last_change.phase_start:g} of the run does not change the loss (parts: {names})",
                where="train",
                hint="remove the part's `since`, or check whether the compiler folded the switch (train.compile=off)",
            )

    def _must_change_loss(self, begun: list[float]) -> bool:
        """Whether a phase of a part with `changes_loss` begins at one of these fractions of the run."""
        return any(p.changes_loss and set(begun) & set(p.phase_starts) for p in self.parts)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """A context for steps outside the run, such as warm-up: phases begin without a check, and are reset at the end.

        At initialization many branches have no effect on the loss yet, so the check would fail.
        """
        before, self._rehearsing = self.current, True
        try:
            yield
        finally:
            self.current, self.last_change, self._rehearsing = before, None, False

    @property
    def never_reached(self) -> list[float]:
        """Starts of the phases that training did not reach. The scored model is still that of the last phase."""
        return self.starts[self.current or 0 :]

    def zero_missing_gradients(self, params: Iterable[nn.Parameter]) -> None:
        """Before the last phase, set missing gradients to zero, since parameters may be unused until a later phase."""
        if self.current is not None and self.current < len(self.starts):
            for p in params:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)


def _starts(parts: Iterable[Scheduled]) -> list[float]:
    return sorted({start for p in parts for start in p.phase_starts})


def progress_at(moment: float, steps: int, seconds: float) -> TrainingProgress:
    """The progress at the fraction `moment` of a run with these limits, to prepare the graph of a phase in advance."""
    return TrainingProgress(math.ceil(moment * steps) if steps else 1, steps, moment * seconds, seconds)
