"""Toy models and fake kernels for tests that run kernel selection on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitgolf.config.edits import replace
from bitgolf.config.spec import BuildContext, Spec, part
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.model.objectives import CrossEntropy
from bitgolf.runtime.device import Device
from bitgolf.training.kernels import select
from bitgolf.training.kernels.parity import KernelTrial, Timer
from bitgolf.training.trainer import LossModule
from helpers.toy import VOCAB, built, toy_model

CPU = Device(torch.device("cpu"), torch.float32, "a test")
TRAINING = KernelTrial(CPU, compiled=False, backward=True)


def leaky_toy(slope: float = 0.3) -> Spec[LM]:
    return toy_model().edit(MLP, replace(act=part(SquaredLeakyReLU, slope=slope)))


def randomize(module: nn.Module) -> None:
    """Replace all parameters by random values, since zero-initialized branches would hide errors."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=p.shape[-1] ** -0.5)


def make_task(spec: Spec[LM] | None = None) -> LossModule:
    return LossModule(built(spec or leaky_toy()), CrossEntropy(BuildContext(vocab=VOCAB)))


def loss_and_gradients(task: LossModule, rows: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The loss and the gradients of all parameters, by name."""
    task.zero_grad()
    loss = task(*rows)
    loss.backward()
    return {"loss": loss.detach(), **{k: p.grad.clone() for k, p in task.named_parameters() if p.grad is not None}}


def equal_times(call: Callable[[], object]) -> float:
    """A timer that returns 1 for every call, so that the first kernel with parity is chosen."""
    call()
    return 1.0


def judge_on_cpu(
    root: nn.Module, inputs: Sequence[Tensor], *, backward: bool = True, timer: Timer = equal_times
) -> tuple[select.KernelSelection, dict[str, select.KernelDecision]]:
    """Run kernel selection on the CPU; returns the selection and the decisions by label."""
    found = list(select.kernel_candidates(root, compiled=False))
    trial = KernelTrial(CPU, compiled=False, backward=backward)
    decisions = select.evaluate_candidates(root, found, inputs, trial, [inputs[0].numpy()], 1, timer=timer)
    return select.KernelSelection(root, found, decisions, 1, print), {
        candidate.label: decision for candidate, decision in zip(found, decisions, strict=True)
    }


class FakeFused(nn.Module):
    """A fused module that equals its reference times `factor`.

    cut: the gradient with respect to x is halved, which cannot be noticed while that gradient is zero.
    """

    def __init__(self, plain: Any, factor: float = 1.0, *, cut: bool = False) -> None:
        super().__init__()
        self.plain, self.factor, self.cut = plain, factor, cut

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x.lerp(x.detach(), 0.5 * self.cut)) * self.factor


def silent_mlp() -> MLP:
    """An MLP as initialized: its output is zero."""
    return MLP(BuildContext(vocab=VOCAB, dim=32), hidden=48, act=part(SquaredLeakyReLU, slope=0.3))
