"""Training speed of this machine, measured by a few steps of a small model, for the recipe `auto`."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.data.batches import BatchLoader
from bitgolf.data.shards import TokenStream, write_shard
from bitgolf.recipes import scaling_laws
from bitgolf.recipes.auto import sized_recipe
from bitgolf.recipes.choose import sizes_of_shape
from bitgolf.recipes.sizes import RecipeSizes
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.trainer import Trainer


class Probe(NamedTuple):
    """A model and batch that are trained to measure speed.

    rows: of the batch; length: tokens of each. layers: 0 for those that `auto` gives to the width.
    """

    width: int
    vocab: int
    rows: int
    length: int
    layers: int = 0

    @property
    def sizes(self) -> RecipeSizes:
        """The sizes of its recipe."""
        shape = sizes_of_shape(self.width, self.vocab)
        layers = self.layers or shape.layers
        return msgspec.structs.replace(shape, layers=layers, rows=self.rows, length=self.length)


CPU_PROBE, GPU_PROBE = Probe(128, 1024, 8, 256), Probe(512, 8192, 32, 1024)
WARM_UP_STEPS, LEAST_STEPS, SECONDS = 1, 4, 2.5
"""Steps before time is taken; then at least so many steps, for this time."""


def measure_speed(device_type: str = "auto", processes: int = 1) -> float:
    """Training speed of `processes` processes, in floating-point operations per second as `scaling_laws.token_cost` counts.

    The median of the steps of one process. On a CPU, processes share the cores, so their number does not matter. Graphs
    are not compiled, which would take longer than the measurement: compiled training on a GPU is faster.
    """
    device = select_device(0, device_type)
    on_cpu = device.torch_device.type == "cpu"
    probe = CPU_PROBE if on_cpu else GPU_PROBE
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        seconds = step_seconds(probe_trainer(probe, Path(folder), device), device)
    tokens = probe.rows * probe.length
    speed = tokens * scaling_laws.token_cost(probe.sizes, probe.length, tokens) / statistics.median(seconds)
    return speed if on_cpu else speed * processes


def probe_trainer(probe: Probe, folder: Path, device: Device) -> Trainer:
    """A trainer of the recipe `auto` at the size of the probe, on random tokens, which it writes to the folder."""
    recipe = sized_recipe(probe.sizes, cap=1, seconds=1.0)
    recipe = recipe.set("train.compile", "off").set("train.kernels", "plain")
    settings, shard = recipe().train(), folder / "train_000000.bin"
    count = 4 * probe.rows * (probe.length + 1)
    write_shard(shard, np.random.default_rng(0).integers(4, probe.vocab, count))
    batches = BatchLoader(TokenStream([shard]), rows=probe.rows, length=probe.length, order=settings.order(), seed=0)
    specs = recipe().model, recipe().train, recipe().average
    return Trainer(*specs, BuildContext(vocab=probe.vocab), batches, device, DistributedContext(), 0)


def step_seconds(trainer: Trainer, device: Device) -> list[float]:
    """Seconds of each step after the warm-up."""
    times, started = list[float](), time.perf_counter()
    while len(times) < WARM_UP_STEPS + LEAST_STEPS or time.perf_counter() - started < SECONDS:
        began = time.perf_counter()
        trainer.step(len(times), TrainingProgress(len(times), 1 << 20, 0.0, 0.0))
        if device.torch_device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times[WARM_UP_STEPS:]
