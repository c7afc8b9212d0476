"""Toy models for the tests of kernel selection: candidates are chosen on the CPU as on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitgolf.config.edits import but
from bitgolf.config.spec import Place, Spec, part
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.model.objectives import CrossEntropy
from bitgolf.runtime.device import Device
from bitgolf.train.kernels import select
from bitgolf.train.kernels.parity import Timer, Trial
from bitgolf.train.trainer import Task
from helpers.toy import VOCAB, built, toy_model

CPU = Device(torch.device("cpu"), torch.float32, "a test")
TRAINING = Trial(CPU, compiled=False, backward=True)


def leaky_toy(slope: float = 0.3) -> Spec[LM]:
    return toy_model().edit(MLP, but(act=part(LeakySquared, slope=slope)))


def randomize(module: nn.Module) -> None:
    """Random values in place of the zeros that silence a model at its start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=p.shape[-1] ** -0.5)


def make_task(spec: Spec[LM] | None = None) -> Task:
    return Task(built(spec or leaky_toy()), CrossEntropy(Place(vocab=VOCAB)))


def loss_and_gradients(task: Task, rows: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The loss and every gradient, by name."""
    task.zero_grad()
    loss = task(*rows)
    loss.backward()
    return {"loss": loss.detach(), **{k: p.grad.clone() for k, p in task.named_parameters() if p.grad is not None}}


def equal_times(call: Callable[[], object]) -> float:
    """Runs a call, and finds all equally fast: the first twin that agrees is then taken."""
    call()
    return 1.0


def judge_on_cpu(
    root: nn.Module, inputs: Sequence[Tensor], *, backward: bool = True, timer: Timer = equal_times
) -> tuple[select.Choice, dict[str, select.Verdict]]:
    """Choose on the CPU as on a GPU; the verdicts by what they are on."""
    found = list(select.sites(root, compiled=False))
    trial = Trial(CPU, compiled=False, backward=backward)
    verdicts = select.judge(root, found, inputs, trial, [inputs[0].numpy()], 1, timer=timer)
    return select.Choice(root, found, verdicts, 1, print), {s.what: v for s, v in zip(found, verdicts, strict=True)}


class FakeFused(nn.Module):
    """A twin that is able, wrong by a factor, or wrong in its gradient alone: half of x's, which is zero at the start."""

    def __init__(self, plain: Any, factor: float = 1.0, *, cut: bool = False) -> None:
        super().__init__()
        self.plain, self.factor, self.cut = plain, factor, cut

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x.lerp(x.detach(), 0.5 * self.cut)) * self.factor


def silent_mlp() -> MLP:
    """As it starts: silent."""
    return MLP(Place(vocab=VOCAB, dim=32), hidden=48, act=part(LeakySquared, slope=0.3))
