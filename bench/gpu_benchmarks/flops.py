"""Operations of a training step, counted from the model, and what a device can do at its best."""

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
from bitgolf.train.loss_module import LossModule

PEAKS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 products with sums in float32, operations per second, from NVIDIA's data sheets."""
BACKWARD = 2.0  # a backward pass has two products for each of the forward pass
SHORT = 32  # tokens of the rows that are counted


class FlopsPerToken(NamedTuple):
    """Of one token forward: `matmul` with weights, and `attention` for each key that the token sees."""

    matmul: float
    attention: float

    def step(self, tokens: int, keys: float) -> float:
        """Of a training step over so many tokens, each of which sees `keys` keys on average."""
        return (1 + BACKWARD) * tokens * (self.matmul + self.attention * keys)


def count(recipe: Spec[Recipe], context: BuildContext, progress: TrainingProgress) -> FlopsPerToken:
    """Count a recipe's model at this moment of training, on the meta device. Recomputation does not count."""
    with torch.device("meta"):
        task = LossModule(
            recipe().model(context), recipe().train().objective(context._replace(dim=model_size(recipe().model).dim))
        )
        for module in task.modules():
            if isinstance(module, Scheduled):
                module.update(progress)
        # Attention over a row of T tokens is plain here: every token meets T keys.
        short, long = (_forward(task, length) for length in (SHORT, 2 * SHORT))
    attention = (long - short) / SHORT
    return FlopsPerToken(short - attention * SHORT, attention)


def _forward(task: LossModule, length: int) -> float:
    """Operations of each token of a row."""
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        task(ids, ids)
    return counter.get_total_flops() / length


def mean_keys(ids: npt.NDArray[np.int64], bos: int, cap: int) -> float:
    """Keys that a token sees on average in rows (B, T), causally and in its own segment: a document, cut every `cap`."""
    seen = 0
    for row in ids:
        edges = np.unique(np.concatenate([[0], np.flatnonzero(row == bos), [len(row)]]))
        for length in np.diff(edges).tolist():
            whole, rest = divmod(length, cap) if cap else (0, length)
            seen += whole * cap * (cap + 1) // 2 + rest * (rest + 1) // 2
    return seen / ids.size


def peak_flops(name: str) -> float | None:
    """Operations per second of the device of this name; None for one that is not in the table."""
    return next((value for known, value in PEAKS.items() if known in name), None)
