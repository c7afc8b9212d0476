"""Losses of the training steps: read without making a GPU wait, averaged over the ranks, reported, and checked."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.runtime.distributed import all_reduce_mean
from bitgolf.train.trainer import Trainer

LogEvent = Callable[..., None]  # report(kind, **fields): the run's journal


class Diverged(BitgolfError):
    """A loss, a weight or a momentum is no longer a finite number; what was saved before is kept."""

    def __init__(self, message: str) -> None:
        hint = (
            "lower the learning rates (--set train.optim.0.use.lr=…) or set train.grad_clip, and start again with "
            "--from train; the last good checkpoint is kept, and --resume goes on from it"
        )
        super().__init__(message, where="train", hint=hint)


class AsyncScalar:
    """A number () of a device on its way to the host: `read` waits until it was computed, and for nothing after it."""

    def __init__(self, value: Tensor) -> None:
        self.host, self.copied = value, None
        if value.is_cuda:
            self.host = torch.empty_like(value, device="cpu", pin_memory=True)
            self.host.copy_(value, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> float:
        if self.copied:
            self.copied.synchronize()
        return float(self.host)


class LossReporter:
    """Losses of the steps, reported `every` so many. On a GPU each is read when the next step has been launched, so that
    the GPU never waits.

    Reading it is the one synchronization of a step. It also keeps the host at most one step ahead of the GPU, which the
    training clock relies on.
    """

    def __init__(self, trainer: Trainer, report: LogEvent, clock: Callable[[], float], *, every: int) -> None:
        self.distributed, self.report, self.clock, self.every = trainer.distributed, report, clock, every
        self.lag = int(trainer.device.torch_device.type == "cuda")
        self.unread: list[tuple[int, int, AsyncScalar]] = []
        self.unreported: list[tuple[int, int, float]] = []
        self.last = math.nan

    def record(self, step: int, tokens: int, loss: Tensor) -> None:
        """The loss of a step, the step-th; so many tokens were trained on by its end."""
        self.unread.append((step, tokens, AsyncScalar(loss)))
        self._read(self.lag)
        if len(self.unreported) >= self.every:
            self._report()

    def flush(self) -> None:
        """Wait for all losses and report them."""
        self._read(0)
        self._report()

    def _read(self, keep: int) -> None:
        while len(self.unread) > keep:
            step, tokens, loss = self.unread.pop(0)
            self.unreported.append((step, tokens, loss.read()))

    def _report(self) -> None:
        """Report the mean over all processes of each known loss. Raises at the first that is not finite."""
        if not self.unreported:
            return
        read = all_reduce_mean(torch.tensor([loss for *_, loss in self.unreported]), self.distributed).tolist()
        elapsed = round(self.clock(), 3)
        for (step, tokens, _), loss in zip(self.unreported, read, strict=True):
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} at step {step}")
            self.report("step", step=step, loss=loss, tokens=tokens, training_seconds=elapsed)
        self.last = read[-1]
        self.unreported.clear()
