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
from bitgolf.model.part import Clocked
from bitgolf.runtime.progress import Now


class Begun(NamedTuple):
    """A phase that began: its moment, and the loss of one batch (nats per token) just before and just after."""

    moment: float
    before: float
    after: float


class Phases:
    """The moments of a task's clocked parts, as fractions of the run; `now` is the phase that training is in.

    The published late quantization-aware training never ran, since the compiler had folded its switch (spec, T2): so
    when a phase begins, the loss on one batch through the running graph must change, or training stops.
    """

    def __init__(self, task: nn.Module) -> None:
        self.parts = [m for m in task.modules() if isinstance(m, Clocked)]
        self.moments = sorted({moment for p in self.parts for moment in p.moments})
        self.now: int | None = None  # None before the first step
        self.begun: Begun | None = None  # what the last call of `at` began
        self._rehearsing = False

    def at(self, now: Now, probe: Callable[[], float]) -> None:
        """Set every part to a moment. Raises `BitgolfError` where a phase begins and the probed loss does not change.

        `probe` computes the loss on one batch. It is not called in a rehearsal.
        """
        number = sum(moment <= now.progress for moment in self.moments)
        begins = not self._rehearsing and self.now is not None and number != self.now
        before = probe() if begins else math.nan
        for p in self.parts:
            p.at(now)
        self.now, self.begun = number, None
        if not begins:
            return
        self.begun = Begun(self.moments[number - 1], before, probe())
        if self.begun.before == self.begun.after:
            names = ", ".join(sorted({part_name(type(p)) for p in self.parts if p.moments}))
            raise BitgolfError(
                f"the phase at {self.begun.moment:g} of the run changes nothing (of {names})",
                place="train",
                mend="remove its `since`, or see whether a compiled graph has folded the switch",
            )

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Steps that belong to no run, such as warm-up: phases begin without a check, and the phase is put back at the end.

        At initialization many branches have no effect yet, so a check would fail.
        """
        before, self._rehearsing = self.now, True
        try:
            yield
        finally:
            self.now, self.begun, self._rehearsing = before, None, False

    @property
    def never_began(self) -> list[float]:
        """The moments that training did not reach; what is scored is the model as it would be after them."""
        return self.moments[self.now or 0 :]

    def fill_idle(self, params: Iterable[nn.Parameter]) -> None:
        """Zero gradients for what is idle until a later phase. In the last phase, all must have their own."""
        if self.now is not None and self.now < len(self.moments):
            for p in params:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)


def within(moment: float, steps: int, seconds: float) -> Now:
    """A time just at a moment (a fraction) of a run with these limits: for compiling its phase's graph ahead."""
    return Now(math.ceil(moment * steps) if steps else 1, steps, moment * seconds, seconds)
