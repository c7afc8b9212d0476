"""Callbacks of scoring: progress, also of compression, and the logits of each batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bitgolf.report.progress import ShowProgress, WorkProgress

ProgressCallback = Callable[[int, int, float], None]
"""Called with the number of targets done, the total number of targets, and the bits so far, all of this process."""
LogitsCallback = Callable[[Tensor, Tensor], None]
"""Called with the targets (n,) of a batch, on the CPU, and their logits (n, V), on the device of the model."""


def bits_progress(show: ShowProgress, stage: str, text_bytes: int) -> ProgressCallback:
    """Return a callback that shows the share of the tokens, the bits per byte so far, and the speed.

    text_bytes: length of the whole text. The bits per byte assume that tokens have the same number of bytes everywhere.
    """
    work = WorkProgress(show, stage, "tokens")

    def report(done: int, count: int, bits: float) -> None:
        work.update(done, count, f"{bits / max(done, 1) * count / max(text_bytes, 1):.4f} bpb")

    return report
