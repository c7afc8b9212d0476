"""The trainer: one training step, and the state of a checkpoint (weights, optimizer, average and so on, random state)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bitgolf.average.average import Average
from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.data.batches import BatchLoader, rows_per_rank
from bitgolf.data.prefetch import HostBatch, Prefetcher
from bitgolf.model.lm import LM
from bitgolf.optim.optimizer import Optimizer
from bitgolf.optim.parameter_group import check_same_form
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.execution_plan import ExecutionPlan, LossFunction
from bitgolf.training.loss_module import LossModule
from bitgolf.training.phases import Phases
from bitgolf.training.rounded_weights import RoundedWeights
from bitgolf.training.settings import Train


class Trainer:
    """Model, optimizer and weight average of one process. `step` depends only on batch, progress and state."""

    def __init__(
        self,
        model: Spec[LM],
        train: Spec[Train],
        average: Spec[Average] | None,
        build_context: BuildContext,
        batches: BatchLoader,
        device: Device,
        distributed: DistributedContext,
        seed: int,
    ) -> None:
        self.settings = train()
        self.device, self.distributed, self.batches = device, distributed, batches
        self.prefetcher = Prefetcher(
            batches, distributed.rank, distributed.world_size, pin=device.torch_device.type == "cuda"
        )
        for start in self.settings.batch_shape_starts:  # raises now rather than in the middle of the run
            rows_per_rank(self.settings.batch_shape(start).rows, distributed.world_size)
        torch.manual_seed(seed)
        self.model_spec, self.build_context = model, build_context
        self.loss_module = self.build().to(device.torch_device)
        self.model = self.loss_module.model
        self.params = self.loss_module.parameters_by_path()
        self.optimizer = Optimizer(self.params, self.loss_module.roles(), self.settings.optim, distributed)
        self.schedule = self.settings.lr_schedule()
        self.average = average() if average else None
        self.average_state = self.average.init_state(list(self.params.values())) if self.average else {}
        self.lookahead = self.settings.lookahead
        self.lookahead_params: list[Tensor] = [p for p in self.params.values() if p.is_floating_point()]
        self.lookahead_state = self.lookahead.init_state(self.lookahead_params) if self.lookahead else None
        self.phases = Phases(self.loss_module)
        self.rounded: RoundedWeights | None = None
        self.plan = ExecutionPlan(self.loss_module, self.settings.micro_rows)  # eager, until `train.setup` replaces it

    def build(self) -> LossModule:
        """A new loss module with reference modules and newly initialized parameters."""
        objective = self.settings.objective(self.build_context._replace(dim=self.model_spec["dim"]))
        return LossModule(self.model_spec(self.build_context), objective)

    def round_weights(self, rounded: RoundedWeights) -> None:
        """Use rounded weights in the last phase. Call it before the first step."""
        self.rounded = rounded
        self.phases.add(rounded)

    def step(self, step: int, progress: TrainingProgress) -> Tensor:
        """Train on batch `step`; returns the mean loss of this process in nats per token, () on the device."""
        if self.lookahead and self.lookahead_state:
            scale = self.schedule.value(progress)
            self.lookahead.look_ahead(self.lookahead_state, self.lookahead_params, progress.fraction, scale)
        shape = self.settings.batch_shape(progress.fraction)
        batch = self.prefetcher.load_batch(step, rows=shape.rows, length=shape.length)
        count, micro = len(batch.inputs), self.plan.micro_batch_rows(len(batch.inputs), shape.length)
        if self.plan.segment_buffers:
            self.plan.segment_buffers.ensure(batch.inputs, micro)
        self.phases.advance(progress, lambda: self.probe_loss(batch.inputs[:micro], batch.targets[:micro]))
        total = torch.zeros((), device=self.device.torch_device)
        for first in range(0, count, micro):
            if first + micro >= count:
                self.optimizer.mark_last_backward()
            total += self.backward(batch, slice(first, min(first + micro, count)), self.plan.compute_loss)
        self.phases.zero_missing_gradients(self.params.values())
        if self.rounded:
            self.rounded.restore()
        self.optimizer_step(progress)
        return total

    def backward(self, batch: HostBatch, rows: slice, compute_loss: LossFunction) -> Tensor:
        """Accumulate the gradients of some rows of a batch; returns their share of its mean loss, () and detached."""
        with self.device.autocast():
            loss = compute_loss(self.to_device(batch.inputs[rows]), self.to_device(batch.targets[rows]))
        loss = loss * ((rows.stop - rows.start) / len(batch.inputs))
        loss.backward()
        return loss.detach()

    @property
    def graph_starts(self) -> list[float]:
        """Fractions of the run at which the shape of the batch or the compiled graph changes."""
        return sorted({*self.settings.batch_shape_starts, *self.phases.starts})

    def probe_loss(self, inputs: Tensor, targets: Tensor) -> float:
        """The loss on these rows (B, T), by the graph that trains. The random state is used, but not advanced."""
        here = self.device.torch_device
        with torch.random.fork_rng([here] if here.type == "cuda" else []), self.device.autocast():
            return self.plan.compute_loss(self.to_device(inputs), self.to_device(targets)).item()

    def optimizer_step(self, progress: TrainingProgress) -> None:
        """One optimizer step with gradients averaged over all processes, then updates of lookahead and weight average."""
        scale = self.schedule.value(progress)
        self.optimizer.reduce_gradients()
        if self.settings.grad_clip:
            self.optimizer.clip_grad_norm(self.settings.grad_clip)
        self.optimizer.step(progress, scale)
        self.optimizer.zero_grad()
        if self.lookahead and self.lookahead_state:
            self.lookahead.update(self.lookahead_state, self.lookahead_params)
        if self.average:
            self.average.update(
                self.average_state, list(self.params.values()), progress._replace(step=progress.step + 1), scale
            )

    def to_device(self, rows: np.ndarray | Tensor) -> Tensor:
        """The rows on the device, copied asynchronously if they are in pinned memory."""
        return torch.as_tensor(rows).to(self.device.torch_device, non_blocking=True)

    def close(self) -> None:
        """Stop the prefetching thread, and remove the optimizer's hooks from the parameters."""
        self.prefetcher.close()
        self.optimizer.close()

    # ---- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Name -> tensor, for everything that the next step depends on. Tensors are not copied where possible.

        All processes must call this together, as with `load_state_dict`, since optimizer state may be sharded.
        """
        weights = {f"weights/{k}": p.detach() for k, p in self.params.items()}
        optimizer = {f"optimizer/{k}": v for k, v in self.optimizer.state_dict().items()}
        average = {f"average/{k}.{i}": v for k, vs in self.average_state.items() for i, v in enumerate(vs)}
        schedule = {f"schedule/{k}": v for k, v in self.schedule.state().items()}
        mean_change = self.lookahead_state.mean_change if self.lookahead_state else []
        lookahead = {f"lookahead/{i}": change for i, change in enumerate(mean_change)}
        rounded = {f"rounded/{path}": error for path, error in self.rounded.errors.items()} if self.rounded else {}
        random = {"random/cpu": torch.get_rng_state()}
        if self.device.torch_device.type == "cuda":
            random["random/cuda"] = torch.cuda.get_rng_state(self.device.torch_device)
        return {**weights, **optimizer, **average, **schedule, **lookahead, **rounded, **random}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a saved state in place, bit for bit. Raises `CorruptFileError` if it belongs to another recipe."""
        if self.rounded:
            self.rounded.restore()
        own, saved = _without_random(self.state_dict()), _without_random(state)
        check_same_form(saved, own, where="checkpoint", hint="run again with --from train")
        for name, tensor in own.items():
            if not name.startswith("optimizer/"):
                tensor.copy_(saved[name])
        self.optimizer.load_state_dict(_with_prefix("optimizer/", saved))
        torch.set_rng_state(state["random/cpu"])
        if self.device.torch_device.type == "cuda" and "random/cuda" in state:
            torch.cuda.set_rng_state(state["random/cuda"].cpu(), self.device.torch_device)

    def clone_state(self) -> dict[str, Tensor]:
        """A copy of `state_dict()` on the same devices."""
        return {k: v.clone() for k, v in self.state_dict().items()}


def extract_average_state(state: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """The state of the weight average, by name, from a state of `Trainer.state_dict`."""
    kept: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("average/"):
            name, _, i = key.removeprefix("average/").rpartition(".")
            kept.setdefault(name, {})[int(i)] = value
    return {name: [values[i] for i in range(len(values))] for name, values in kept.items()}


def _without_random(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.startswith("random/")}


def _with_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
