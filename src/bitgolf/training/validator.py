"""Scores of held-out text during training, in bits per byte. Training does not use the result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.loss_reporter import LogEvent
from bitgolf.training.trainer import Trainer
from bitgolf.training.validation import Validation


class HeldOutLoss(NamedTuple):
    """Score of weights on held-out text. bpb: bits per byte; loss: nats per token, over `targets` tokens."""

    bpb: float
    loss: float
    targets: int


class Evaluate(Protocol):
    """Scores weights on held-out text. All processes call it together and get the same result.

    It must not change the weights. progress: of the training, which scheduled parts of the model follow.
    """

    def __call__(self, weights: Mapping[str, Tensor], progress: TrainingProgress) -> HeldOutLoss: ...


class Validator:
    """Scores the weights of a trainer when that is due, and reports the events `validation`.

    start: progress at which training begins or is resumed.
    """

    def __init__(
        self, settings: Validation, evaluate: Evaluate, trainer: Trainer, report: LogEvent, start: TrainingProgress
    ) -> None:
        self.settings, self.evaluate, self.trainer, self.report = settings, evaluate, trainer, report
        self.last, self.scored = start, -1  # progress at the last score or the start, step of the last score

    def due(self, now: TrainingProgress) -> bool:
        """Whether to score now. After the last step it is due once, also if training was complete when it was resumed."""
        if now.fraction >= 1.0:
            return now.step != self.scored
        return now.step > self.last.step and self.settings.due(self.last, now)

    def measure(self, now: TrainingProgress) -> None:
        """Score the weights. The random state is used, but not advanced."""
        self.last, self.scored = now, now.step
        started, here = time.perf_counter(), self.trainer.device.torch_device
        kind, weights = self.weights()
        with torch.random.fork_rng([here] if here.type == "cuda" else []):
            found = self.evaluate(weights, now)
        self.report(
            "validation",
            step=now.step,
            training_seconds=round(now.elapsed_seconds, 3),
            weights=kind,
            **found._asdict(),
            seconds=round(time.perf_counter() - started, 3),
            on_clock=self.on_clock,
        )

    @property
    def on_clock(self) -> bool:
        """Whether the time of the last score is training time."""
        return self.settings.on_clock and self.last.fraction < 1.0

    def weights(self) -> tuple[str, dict[str, Tensor]]:
        """("trained" or "averaged", the weights)."""
        trainer = self.trainer
        if self.settings.weights == "averaged" and trainer.average and int(trainer.average_state["count"][0]):
            means = trainer.average.result(trainer.average_state, list(trainer.params.values()))
            return "averaged", model_weights(trainer, means)
        return "trained", model_weights(trainer)


def model_weights(trainer: Trainer, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
    """Path -> weight of the model, without those of the objective. values: in place of the trainer's parameters."""
    found = zip(trainer.params, values or trainer.params.values(), strict=True)
    return {path: w.detach() for path, w in found if not path.startswith("objective.")}
