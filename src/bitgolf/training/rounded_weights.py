"""A last phase of training in which the forward pass uses the weights as they will be stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress

StoredValues = Callable[[], Mapping[str, Tensor]]
"""Path -> the current weights as a codec would store them, on the device of the parameters."""


class RoundedWeights(Scheduled):
    """Forward and backward pass at w + e, with the rounding error e of the last encoding; the gradient is applied to w.

    The weights are encoded at the first step of the phase and at every `every`-th step of the run, since a codec with
    error feedback takes longer than a step. At these steps w + e is what would be stored, bit for bit. (Straight-through
    estimator: Bengio et al., arXiv 1308.3432.)
    `update` gives the parameters the values of the forward pass, and `restore` their own ones.

    since: fraction of the run at which the phase starts.  params: path -> parameter.  stored: encodes the parameters;
    it may leave some of them out, which are then not rounded.
    """

    def __init__(self, since: float, every: int, params: Mapping[str, nn.Parameter], stored: StoredValues) -> None:
        super().__init__()
        self.since, self.every, self.stored = since, every, stored
        self._params = {path: p.detach() for path, p in params.items()}  # share memory with the parameters
        self.errors = {path: torch.zeros_like(p) for path, p in self._params.items()}  # zero before the phase
        self._weights: dict[str, Tensor] = {}  # w, from `update` to `restore`

    @property
    def phase_starts(self) -> tuple[float, ...]:
        return (self.since,) if self.since else ()

    @torch.no_grad()
    def update(self, progress: TrainingProgress) -> None:
        self.restore()
        if progress.fraction < self.since:
            return
        self._weights = {path: p.clone() for path, p in self._params.items()}
        if progress.step % self.every == 0 or not any(bool(error.any()) for error in self.errors.values()):
            for path, values in self.stored().items():
                self._params[path].copy_(values)
                torch.sub(self._params[path], self._weights[path], out=self.errors[path])
        else:
            torch._foreach_add_(list(self._params.values()), list(self.errors.values()))

    @torch.no_grad()
    def restore(self) -> None:
        """Give the parameters their own values again, bit for bit. Called before the optimizer step."""
        for path, w in self._weights.items():
            self._params[path].copy_(w)
        self._weights = {}
