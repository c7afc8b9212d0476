"""Training steps of a recipe that fit a clock on this machine, for benches whose runs share the machine with other work.

Such a run by the clock would make fewer steps the busier the machine is. With the number of steps of a short measurement as
its limit, made while the machine is idle, a run has the result that it would have on the idle machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.data.batches import BatchLoader
from bitgolf.data.shards import TokenStream, write_shard
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import tuning_reserve
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.trainer import Trainer

PARTS, ROUNDS = 6, 9
"""Steps are timed in the middle of each of `PARTS` equal parts of a training, since schedules change their work."""
CALIBRATION_TIME = 1.1
"""Time of calibration for a row of a batch, over that of training, where both have the same length (logs of `pr1855`)."""


def step_seconds(recipe: Spec[Recipe], vocab: int) -> float:
    """Seconds of a training step on random tokens: the median of `ROUNDS`, averaged over the parts of the training."""
    settings, total = recipe().train(), 1000 * PARTS
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "train_000000.bin"
        write_shard(shard, np.random.default_rng(0).integers(4, vocab, 8 * settings.rows * settings.length))
        order = settings.order()
        batches = BatchLoader(TokenStream([shard]), rows=settings.rows, length=settings.length, order=order, seed=0)
        specs = recipe().model, recipe().train, recipe().average
        trainer = Trainer(*specs, BuildContext(vocab=vocab), batches, select_device(), DistributedContext(), 0)
        means = list[float]()
        for k in range(PARTS):
            times = list[float]()
            for _ in range(ROUNDS):
                began = time.perf_counter()
                trainer.step(0, TrainingProgress(1000 * k + 500, total, 0.0, 0.0))
                times.append(time.perf_counter() - began)
            means.append(statistics.median(times))
    return sum(means) / PARTS


def steps_in(recipe: Spec[Recipe], vocab: int) -> int:
    """Training steps in the recipe's clock, less the time of calibration on training text and of tuning."""
    built, one = recipe(), step_seconds(recipe, vocab)
    source = built.calibrate().source if built.calibrate else None
    rows = source.batches * source.rows if isinstance(source, TrainingText) else 0
    calibration = CALIBRATION_TIME * one * rows / built.train().rows
    return max(1, int((built.train().seconds - tuning_reserve(recipe) - calibration) / one))


def by_steps(recipe: Spec[Recipe], steps: int) -> Spec[Recipe]:
    """The recipe with a number of steps in the place of its clock."""
    return recipe.set("train.seconds", 0.0).set("train.steps", steps)
