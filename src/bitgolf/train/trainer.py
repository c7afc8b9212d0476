"""One training step, and everything that must survive a crash: weights, optimizer, average, random state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Place, Spec
from bitgolf.data.batches import Batches, share_of
from bitgolf.data.prefetch import HostBatch, Prefetcher
from bitgolf.errors import DamagedError
from bitgolf.model.attention.cores.segment_capacity import SegmentSlots
from bitgolf.model.head import Logits
from bitgolf.model.interfaces import Objective
from bitgolf.model.lm import LM
from bitgolf.model.parameters import roles
from bitgolf.optim.optimizer import Optimizer
from bitgolf.runtime.compiler import compiled
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import World
from bitgolf.runtime.progress import Now
from bitgolf.train.activation_memory import rows_within
from bitgolf.train.batch_schedule import Shape
from bitgolf.train.phases import Phases, within
from bitgolf.train.settings import Train


class Task(nn.Module):
    """Model and objective as one graph: (ids, targets) -> loss."""

    def __init__(self, model: LM, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def by_path(self) -> dict[str, nn.Parameter]:
        """Its parameters by the paths that all rules know: the model's own, and an objective's under `objective.`."""
        return {_path(name): p for name, p in self.named_parameters()}

    def roles(self) -> dict[str, str]:
        """Role by the same paths."""
        return {_path(name): role for name, role in roles(self).items()}

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = Logits(self.model.head, self.model.embed)
        return self.objective(self.model.hidden(self.model.bus(ids)), targets, logits)


class Trainer:
    """Model, optimizer and average of one process; `step` is a function of the batch, the time and the state alone."""

    def __init__(
        self, recipe: Spec[Recipe], place: Place, batches: Batches, device: Device, world: World, seed: int
    ) -> None:
        self.settings: Train = recipe["train"]()
        self.device, self.world, self.batches = device, world, batches
        self.prefetcher = Prefetcher(batches, world.rank, world.size, pin=device.device.type == "cuda")
        for moment in self.settings.moments:
            share_of(self.settings.shape(moment).rows, world.size)  # better now than in the middle of the run
        torch.manual_seed(seed)
        self.recipe, self.place = recipe, place
        self.task = self.build().to(device.device)
        self.model = self.task.model
        self.params = self.task.by_path()
        self.optimizer = Optimizer(self.params, self.task.roles(), self.settings.optim, world)
        self.schedule = self.settings.schedule()
        self.average = recipe["average"]() if recipe["average"] else None
        self.averaged = self.average.start(list(self.params.values())) if self.average else {}
        self.run: Callable[[Tensor, Tensor], Tensor] = self.task
        self.phases = Phases(self.task)
        self.slots = SegmentSlots(self.task, place.bos, print)
        self.room = math.inf  # tokens that may pass through the model at a time

    def build(self) -> Task:
        """The recipe's task, of plain parts with new parameters."""
        objective = self.settings.objective(self.place._replace(dim=self.recipe["model.dim"]))
        return Task(self.recipe["model"](self.place), objective)

    def step(self, step: int, now: Now) -> Tensor:
        """Train on batch `step`; returns this process's mean loss in nats per token (not yet synchronised)."""
        shape = self.settings.shape(now.progress)
        batch = self.prefetcher.batch(step, rows=shape.rows, length=shape.length)
        count, micro = len(batch.inputs), self.rows_at_once(len(batch.inputs), shape.length)
        self.slots.fit(batch.inputs, micro)
        self.phases.at(now, lambda: self.probe(batch.inputs[:micro], batch.targets[:micro]))
        total = torch.zeros((), device=self.device.device)
        for first in range(0, count, micro):
            if first + micro >= count:
                self.optimizer.expect()
            total += self.backward(batch, slice(first, min(first + micro, count)))
        self.phases.fill_idle(self.params.values())
        self.update(now)
        return total

    def backward(self, batch: HostBatch, rows: slice) -> Tensor:
        """Add to the gradients what some rows of a batch contribute; returns their part of its mean loss."""
        with self.device.autocast():
            loss = self.run(self.to_device(batch.inputs[rows]), self.to_device(batch.targets[rows]))
        loss = loss * ((rows.stop - rows.start) / len(batch.inputs))
        loss.backward()
        return loss.detach()

    def rows_at_once(self, count: int, length: int) -> int:
        """How many of `count` rows pass through the model at a time: `micro_rows`, or fewer where there is no room."""
        rows = min(self.settings.micro_rows or count, count)
        return rows if rows * length <= self.room else rows_within(count, length, self.room)

    @property
    def moments(self) -> list[float]:
        """The fractions of the run from which the batch has another shape or the graph is another."""
        return sorted({*self.settings.moments, *self.phases.moments})

    def probe(self, inputs: Tensor, targets: Tensor) -> float:
        """The loss on these rows through the very graph that trains, with the random state of the moment."""
        here = self.device.device
        with torch.random.fork_rng([here] if here.type == "cuda" else []), self.device.autocast():
            return self.run(self.to_device(inputs), self.to_device(targets)).item()

    def update(self, now: Now) -> None:
        """One optimizer step with the mean of all processes' gradients, then the average."""
        scale = self.schedule.value(now)
        self.optimizer.reduce()
        if self.settings.clip:
            self.optimizer.clip(self.settings.clip)
        self.optimizer.step(now, scale)
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.averaged, list(self.params.values()), now._replace(step=now.step + 1), scale)

    def to_device(self, rows: np.ndarray | Tensor) -> Tensor:
        return torch.as_tensor(rows).to(self.device.device, non_blocking=True)

    def close(self) -> None:
        """End the thread that makes batches."""
        self.prefetcher.close()

    # ---- state -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name; tensors are shared, not copied, where they can be.

        All processes must ask for it at the same time, as for `load`: the optimizer's state may be spread over them.
        """
        weights = {f"weights/{k}": p.detach() for k, p in self.params.items()}
        optimizer = {f"optimizer/{k}": v for k, v in self.optimizer.state().items()}
        average = {f"average/{k}.{i}": v for k, vs in self.averaged.items() for i, v in enumerate(vs)}
        random = {"random/cpu": torch.get_rng_state()}
        if self.device.device.type == "cuda":
            random["random/cuda"] = torch.cuda.get_rng_state(self.device.device)
        return {**weights, **optimizer, **average, **random}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Put a saved state back, exactly and in place. Raises `DamagedError` for that of another recipe."""
        own, saved = _without_random(self.state()), _without_random(state)
        if wrong := sorted(k for k in own.keys() | saved.keys() if _form(own, k) != _form(saved, k)):
            cause = f"{wrong[0]} is {_form(saved, wrong[0])}, and this recipe has {_form(own, wrong[0])}"
            raise DamagedError(cause, place="checkpoint", mend="--from train starts again")
        for name, tensor in own.items():
            if not name.startswith("optimizer/"):
                tensor.copy_(saved[name])
        self.optimizer.load_state(_under("optimizer/", saved))
        torch.set_rng_state(state["random/cpu"])
        if self.device.device.type == "cuda" and "random/cuda" in state:
            torch.cuda.set_rng_state(state["random/cuda"].cpu(), self.device.device)

    def snapshot(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self.state().items()}


def average_state(state: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """The average's own state within that of a `Trainer`: the inverse of how `Trainer.state` names it."""
    kept: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("average/"):
            name, _, i = key.removeprefix("average/").rpartition(".")
            kept.setdefault(name, {})[int(i)] = value
    return {name: [values[i] for i in range(len(values))] for name, values in kept.items()}


def compiles(mode: str, device: Device) -> bool:
    """Whether the graph is compiled: where asked, or where it pays."""
    return mode == "on" or (mode == "auto" and device.device.type == "cuda")


def compile_task(trainer: Trainer, mode: str) -> str:
    """Compile the graph where asked or where it pays; returns what was chosen and why."""
    if not compiles(mode, trainer.device):
        return "eager: compiling takes half a minute on a CPU and pays back only in long runs"
    trainer.run = compiled(trainer.task, trainer.device.device)
    if trainer.device.device.type == "cuda":  # on a CPU compiling takes longer than it saves
        trainer.optimizer.compile(partial(compiled, device=trainer.device.device))
    return "torch.compile, full graph"


def warm_up(trainer: Trainer, steps: int) -> dict[float, float]:
    """Train `steps` steps with each graph before the clock starts, then put everything back: compiles, changes nothing.

    Returns the seconds that each took, by the moment from which it trains. The first step compiles, one more finds what
    is only done once. State is kept on the device; data order needs no restoring, as batches are a pure function of
    (seed, step).
    """
    before, limits, seconds = trainer.snapshot(), trainer.settings, dict[float, float]()
    for moment in _graphs(trainer):
        trainer.phases.now = None  # nothing to prove yet: at the start many branches are silent
        started = time.perf_counter()
        for step in range(steps):
            trainer.step(step, within(moment, limits.steps, limits.seconds)).item()
        seconds[moment] = time.perf_counter() - started
    trainer.phases.now = None
    trainer.load(before)
    return seconds


def _graphs(trainer: Trainer) -> list[float]:
    """The first moment of each pair of a phase and a shape of batch: what has both in common trains with one graph."""
    limits, phases = trainer.settings, trainer.phases
    first: dict[tuple[int, Shape], float] = {}
    for moment in trainer.moments:
        phase = sum(begin <= moment for begin in phases.moments)
        first.setdefault((phase, limits.shape(moment)), moment)
    return list(first.values())


def _path(name: str) -> str:
    return name.removeprefix("model.")


def _without_random(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.startswith("random/")}


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _form(state: dict[str, Tensor], name: str) -> str:
    return f"{tuple(state[name].shape)} {state[name].dtype}" if name in state else "absent"
