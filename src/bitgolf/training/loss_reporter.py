"""Reports the losses of training steps, averaged over the ranks, without stalling a GPU. Detects divergence."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.runtime.distributed import all_reduce_mean
from bitgolf.training.trainer import Trainer

LogEvent = Callable[..., None]  # report(kind, **fields), writes to the run's log


class Diverged(BitgolfError):
    """A loss, weight or optimizer state is NaN or infinite. Earlier checkpoints are kept."""

    def __init__(self, message: str) -> None:
        hint = (
            "lower the learning rates (--set train.optim.0.use.lr=…) or set train.grad_clip, and train again with "
            "--from train"
        )
        super().__init__(message, where="train", hint=hint)

    def name_checkpoint(self, step: int) -> None:
        """Add to the hint what is kept. step: of the last checkpoint, 0 if there is none."""
        kept = "no checkpoint was written before"
        if step:
            kept = (
                f"the checkpoint after step {step:,} is kept, but --resume continues with the same learning rates and"
                " will probably diverge again"
            )
        self.hint = f"{self.hint}; {kept}"


class AsyncScalar:
    """A scalar tensor () that is copied to the host asynchronously. `read` waits for this copy, not for later work."""

    def __init__(self, value: Tensor) -> None:
        self.host, self.copied = value, None
        if value.is_cuda:
            self.host = torch.empty_like(value, device="cpu", pin_memory=True)
            self.host.copy_(value, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> float:
        """The value, once it is on the host."""
        if self.copied:
            self.copied.synchronize()
        return float(self.host)


class LossReporter:
    """Reports losses in groups of `every` steps. On a GPU a loss is read after the next step has been launched.

    The GPU therefore does not wait for the host. Reading a loss is the only synchronization of a step, and keeps the
    host at most one step ahead of the GPU, on which the accuracy of the training clock depends.
    clock: returns seconds on the training clock.
    """

    def __init__(self, trainer: Trainer, report: LogEvent, clock: Callable[[], float], *, every: int) -> None:
        self.distributed, self.report, self.clock, self.every = trainer.distributed, report, clock, every
        self.lag = int(trainer.device.torch_device.type == "cuda")
        self.unread: list[tuple[int, int, AsyncScalar]] = []
        self.unreported: list[tuple[int, int, float]] = []
        self.last = math.nan

    def record(self, step: int, tokens: int, loss: Tensor) -> None:
        """Add the loss () of a step. step, tokens: totals after this step."""
        self.unread.append((step, tokens, AsyncScalar(loss)))
        self._read(self.lag)
        if len(self.unreported) >= self.every:
            self._report()

    def flush(self) -> None:
        """Wait for all recorded losses and report them. Raises `Diverged` if one is not finite."""
        self._read(0)
        self._report()

    def _read(self, keep: int) -> None:
        while len(self.unread) > keep:
            step, tokens, loss = self.unread.pop(0)
            self.unreported.append((step, tokens, loss.read()))

    def _report(self) -> None:
        """Report the mean of each loss over all ranks. Raises `Diverged` at the first that is not finite."""
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
