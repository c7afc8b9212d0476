"""Floating-point operations of a training step, counted from the model, and the peak rates of devices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.model.build import model_size
from bitgolf.model.part import Scheduled
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.loss_module import LossModule

PEAKS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Peak operations per second of dense bfloat16 matrix products accumulated in float32, from NVIDIA's data sheets."""
BACKWARD = 2.0  # a backward pass has two matrix products for each one of the forward pass
SHORT = 32  # tokens per row of the shorter count


class FlopsPerToken(NamedTuple):
    """Operations of one token in the forward pass.

    matmul: products with weights. attention: per key that the token attends to.
    """

    matmul: float
    attention: float

    def step(self, tokens: int, keys: float) -> float:
        """Operations of a training step over `tokens` tokens, each of which attends to `keys` keys on average."""
        return (1 + BACKWARD) * tokens * (self.matmul + self.attention * keys)


def count(recipe: Spec[Recipe], context: BuildContext, progress: TrainingProgress) -> FlopsPerToken:
    """Count the operations of a recipe's model at some progress of training. Recomputation is not counted."""
    with torch.device("meta"):
        task = LossModule(
            recipe().model(context), recipe().train().objective(context._replace(dim=model_size(recipe().model).dim))
        )
        for module in task.modules():
            if isinstance(module, Scheduled):
                module.update(progress)
        # On the meta device, attention over a row of T tokens computes T keys for each token.
        short, long = (_forward(task, length) for length in (SHORT, 2 * SHORT))
    attention = (long - short) / SHORT
    return FlopsPerToken(short - attention * SHORT, attention)


def _forward(task: LossModule, length: int) -> float:
    """Operations per token of a row of `length` tokens."""
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        task(ids, ids)
    return counter.get_total_flops() / length


def mean_keys(ids: npt.NDArray[np.int64], bos: int, cap: int) -> float:
    """Mean number of keys that a token attends to, in token ids (B, T).

    Attention is causal and within a segment: a document, split every `cap` tokens (0: not split).
    """
    seen = 0
    for row in ids:
        edges = np.unique(np.concatenate([[0], np.flatnonzero(row == bos), [len(row)]]))
        for length in np.diff(edges).tolist():
            whole, rest = divmod(length, cap) if cap else (0, length)
            seen += whole * cap * (cap + 1) // 2 + rest * (rest + 1) // 2
    return seen / ids.size


def peak_flops(name: str) -> float | None:
    """Peak operations per second of a device by its name; None if it is not in `PEAKS`."""
    return next((value for known, value in PEAKS.items() if known in name), None)
