"""The compiled graphs of training: whether to compile, what is compiled, and their warm-up before the clock starts."""

from __future__ import annotations

import time
from functools import partial

from bitgolf.runtime.compiler import compile_graph
from bitgolf.runtime.device import Device
from bitgolf.train.batch_schedule import BatchShape
from bitgolf.train.execution_plan import LossFunction
from bitgolf.train.phases import progress_at
from bitgolf.train.trainer import Trainer


def should_compile(mode: str, device: Device) -> bool:
    """Whether the loss is compiled: with `on`, and with `auto` on CUDA, where compiling pays."""
    return mode == "on" or (mode == "auto" and device.torch_device.type == "cuda")


def compile_loss(trainer: Trainer, mode: str) -> tuple[LossFunction, str]:
    """The loss function that training calls, compiled where `should_compile` says so, and a line for the log.

    On CUDA the updates of the optimizer are compiled too; on a CPU compiling them takes longer than it saves.
    """
    device = trainer.device.torch_device
    if not should_compile(mode, trainer.device):
        return trainer.loss_module, "eager: compiling takes half a minute on a CPU and pays back only in long runs"
    if device.type == "cuda":
        trainer.optimizer.compile(partial(compile_graph, device=device))
    return compile_graph(trainer.loss_module, device), "torch.compile, full graph"


def warm_up_graphs(trainer: Trainer, steps: int) -> dict[float, float]:
    """Train `steps` steps with each graph before the clock starts, then restore the trainer's state.

    Returns the seconds that each graph took, by the fraction of the run from which it trains. The first step compiles,
    one more covers what happens only once. State is kept on the device; the data order needs no restoring, as batches
    are a pure function of (seed, step).
    """
    before, limits, seconds = trainer.clone_state(), trainer.settings, dict[float, float]()
    for moment in _distinct_graph_starts(trainer):
        with trainer.phases.rehearsal():
            started = time.perf_counter()
            for step in range(steps):
                trainer.step(step, progress_at(moment, limits.steps, limits.seconds)).item()
            seconds[moment] = time.perf_counter() - started
    trainer.load_state_dict(before)
    return seconds


def _distinct_graph_starts(trainer: Trainer) -> list[float]:
    """The first moment of each pair of a phase and a batch shape: the same pair trains with the same graph."""
    limits, phases = trainer.settings, trainer.phases
    first: dict[tuple[int, BatchShape], float] = {}
    for moment in trainer.graph_starts:
        phase = sum(begin <= moment for begin in phases.starts)
        first.setdefault((phase, limits.batch_shape(moment)), moment)
    return list(first.values())
