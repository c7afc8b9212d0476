"""The compiled graphs of training: whether to compile, what is compiled, and their warm-up before the clock starts."""

from __future__ import annotations

import time
from functools import partial

from bitgolf.runtime.compiler import compiled
from bitgolf.runtime.device import Device
from bitgolf.train.batch_schedule import Shape
from bitgolf.train.execution_plan import LossFunction
from bitgolf.train.phases import within
from bitgolf.train.trainer import Trainer


def compiles(mode: str, device: Device) -> bool:
    """Whether the loss is compiled: with `on`, and with `auto` on CUDA, where compiling pays."""
    return mode == "on" or (mode == "auto" and device.device.type == "cuda")


def compile_loss(trainer: Trainer, mode: str) -> tuple[LossFunction, str]:
    """The loss function that training calls, compiled where `compiles` says so, and a line for the log.

    On CUDA the updates of the optimizer are compiled too; on a CPU compiling them takes longer than it saves.
    """
    device = trainer.device.device
    if not compiles(mode, trainer.device):
        return trainer.task, "eager: compiling takes half a minute on a CPU and pays back only in long runs"
    if device.type == "cuda":
        trainer.optimizer.compile(partial(compiled, device=device))
    return compiled(trainer.task, device), "torch.compile, full graph"


def warm_up(trainer: Trainer, steps: int) -> dict[float, float]:
    """Train `steps` steps with each graph before the clock starts, then restore the trainer's state.

    Returns the seconds that each graph took, by the fraction of the run from which it trains. The first step compiles,
    one more covers what happens only once. State is kept on the device; the data order needs no restoring, as batches
    are a pure function of (seed, step).
    """
    before, limits, seconds = trainer.snapshot(), trainer.settings, dict[float, float]()
    for moment in _graphs(trainer):
        with trainer.phases.rehearsal():
            started = time.perf_counter()
            for step in range(steps):
                trainer.step(step, within(moment, limits.steps, limits.seconds)).item()
            seconds[moment] = time.perf_counter() - started
    trainer.load(before)
    return seconds


def _graphs(trainer: Trainer) -> list[float]:
    """The first moment of each pair of a phase and a batch shape: the same pair trains with the same graph."""
    limits, phases = trainer.settings, trainer.phases
    first: dict[tuple[int, Shape], float] = {}
    for moment in trainer.moments:
        phase = sum(begin <= moment for begin in phases.moments)
        first.setdefault((phase, limits.shape(moment)), moment)
    return list(first.values())
