"""One training step, and everything that must survive a crash: weights, optimizer, average, random state."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bitgolf.clock import Now
from bitgolf.data.batches import Batches
from bitgolf.errors import DamagedError
from bitgolf.model.core import roles
from bitgolf.model.skeleton import LM
from bitgolf.model.sockets import Objective
from bitgolf.optim.clip import clip_by_norm
from bitgolf.optim.groups import Optimizer
from bitgolf.recipe import Recipe
from bitgolf.spec import Place, Spec
from bitgolf.train.device import Device
from bitgolf.train.dist import World, mean_gradients
from bitgolf.train.phases import Phases, within
from bitgolf.train.settings import Train


class Task(nn.Module):
    """Model and objective as one graph: (ids, targets) -> loss."""

    def __init__(self, model: LM, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return self.objective(self.model.hidden(self.model.bus(ids)), targets, self.model.logits)


class Trainer:
    """Model, optimizer and average of one process; `step` is a function of the batch, the time and the state alone."""

    def __init__(
        self, recipe: Spec[Recipe], place: Place, batches: Batches, device: Device, world: World, seed: int
    ) -> None:
        self.settings: Train = recipe["train"]()
        self.device, self.world, self.batches = device, world, batches
        torch.manual_seed(seed)
        self.model: LM = recipe["model"](place)
        task = Task(self.model, self.settings.objective(place._replace(dim=recipe["model.dim"])))
        self.task = task.to(device.device)
        self.params = dict(self.task.named_parameters())
        self.optimizer = Optimizer(self.params, roles(self.task), self.settings.optim)
        self.schedule = self.settings.schedule()
        self.average = recipe["average"]() if recipe["average"] else None
        self.averaged = self.average.start(list(self.params.values())) if self.average else {}
        self.run: Callable[[Tensor, Tensor], Tensor] = self.task
        self.phases = Phases(self.task)

    @property
    def local_rows(self) -> int:
        return self.settings.rows // self.world.size

    def step(self, step: int, now: Now) -> Tensor:
        """Train on batch `step`; returns this process's mean loss in nats per token (not yet synchronised)."""
        batch = self.batches.batch(step, self.world.rank, self.world.size)
        micro = self.settings.micro_rows or self.local_rows
        self.phases.at(now, lambda: self.probe(batch.inputs[:micro], batch.targets[:micro]))
        total = torch.zeros((), device=self.device.device)
        for first in range(0, self.local_rows, micro):
            rows = slice(first, min(first + micro, self.local_rows))
            with self.device.autocast():
                loss = self.run(self.to_device(batch.inputs[rows]), self.to_device(batch.targets[rows]))
            loss = loss * ((rows.stop - rows.start) / self.local_rows)
            loss.backward()
            total += loss.detach()
        self.phases.fill_idle(self.params.values())
        mean_gradients(list(self.params.values()), self.world)
        self.update(now)
        return total

    def probe(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """The loss on these rows through the very graph that trains, with the random state of the moment."""
        here = self.device.device
        with torch.random.fork_rng([here] if here.type == "cuda" else []), self.device.autocast():
            return self.run(self.to_device(inputs), self.to_device(targets)).item()

    def update(self, now: Now) -> None:
        """One optimizer step with the gradients at hand, then the average."""
        scale = self.schedule.value(now)
        if self.settings.clip:
            clip_by_norm(self.optimizer.gradients(), self.settings.clip)
        self.optimizer.step(now, scale)
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.averaged, list(self.params.values()), now._replace(step=now.step + 1), scale)

    def to_device(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self.device.device, non_blocking=True)

    # ---- state -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name; tensors are shared, not copied."""
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
            tensor.copy_(saved[name])
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


def compile_task(trainer: Trainer, mode: str) -> str:
    """Compile the graph where asked or where it pays; returns what was chosen and why."""
    if mode == "off" or (mode == "auto" and trainer.device.device.type != "cuda"):
        return "eager: compiling takes half a minute on a CPU and pays back only in long runs"
    trainer.run = torch.compile(trainer.task, fullgraph=True, dynamic=False)
    return "torch.compile, full graph"


def warm_up(trainer: Trainer, steps: int) -> None:
    """Run `steps` steps before the clock starts, then put everything back: compiles graphs, changes nothing.

    Data order needs no restoring, as batches are a pure function of (seed, step).
    """
    before, limits = trainer.snapshot(), trainer.settings
    for moment in (0.0, *trainer.phases.moments):
        trainer.phases.now = None  # nothing to prove yet: at the start many branches are silent
        for step in range(steps):
            trainer.step(step, within(moment, limits.steps, limits.seconds))
    trainer.phases.now = None
    trainer.load(before)


def _without_random(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.startswith("random/")}


def _form(state: dict[str, Tensor], name: str) -> str:
    return f"{tuple(state[name].shape)} {state[name].dtype}" if name in state else "absent"
