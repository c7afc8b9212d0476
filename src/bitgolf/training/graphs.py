"""Compilation of the training graphs, and their warm-up before the training clock starts."""

from __future__ import annotations

import time
from functools import partial

from bitgolf.runtime.compiler import compile_graph
from bitgolf.runtime.device import Device
from bitgolf.training.batch_schedule import BatchShape
from bitgolf.training.execution_plan import LossFunction
from bitgolf.training.phases import progress_at
from bitgolf.training.trainer import Trainer


def should_compile(mode: str, device: Device) -> bool:
    """Whether to compile the loss. mode: `on`, `off`, or `auto`, which compiles on CUDA devices only."""
    return mode == "on" or (mode == "auto" and device.torch_device.type == "cuda")


def compile_loss(trainer: Trainer, mode: str) -> tuple[LossFunction, str]:
    """The loss function, compiled if `should_compile`, and its description for the log.

    On CUDA the optimizer's updates are compiled as well. On a CPU that would take more time than it saves.
    """
    device = trainer.device.torch_device
    if not should_compile(mode, trainer.device):
        return trainer.loss_module, "eager (train.compile=on compiles, which takes half a minute on a CPU)"
    if device.type == "cuda":
        trainer.optimizer.compile(partial(compile_graph, device=device))
    return compile_graph(trainer.loss_module, device), "torch.compile, full graph"


def warm_up_graphs(trainer: Trainer, steps: int) -> dict[float, float]:
    """Train `steps` steps with each graph, then restore the state of the trainer.

    Returns fraction of the run at which a graph starts -> seconds that its steps took. The first step compiles the
    graph; a second one covers other one-time costs. The saved state stays on the device. The data order is not part of
    it, as batches are a pure function of (seed, step).
    """
    before, limits, seconds = trainer.clone_state(), trainer.settings, dict[float, float]()
    for start in _distinct_graph_starts(trainer):
        with trainer.phases.rehearsal():
            began = time.perf_counter()
            for step in range(steps):
                trainer.step(step, progress_at(start, limits.steps, limits.seconds)).item()
            seconds[start] = time.perf_counter() - began
    trainer.load_state_dict(before)
    return seconds


def _distinct_graph_starts(trainer: Trainer) -> list[float]:
    """Fraction of the run at which each pair of phase and batch shape first occurs. Each pair has one graph."""
    limits, phases = trainer.settings, trainer.phases
    first: dict[tuple[int, BatchShape], float] = {}
    for start in trainer.graph_starts:
        phase = sum(begin <= start for begin in phases.starts)
        first.setdefault((phase, limits.batch_shape(start)), start)
    return list(first.values())
