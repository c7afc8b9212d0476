"""Toy models for the tests of kernel selection: candidates are chosen on the CPU as on a GPU."""

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
from bitgolf.train.kernels import select
from bitgolf.train.kernels.parity import KernelTrial, Timer
from bitgolf.train.trainer import LossModule
from helpers.toy import VOCAB, built, toy_model

CPU = Device(torch.device("cpu"), torch.float32, "a test")
TRAINING = KernelTrial(CPU, compiled=False, backward=True)


def leaky_toy(slope: float = 0.3) -> Spec[LM]:
    return toy_model().edit(MLP, replace(act=part(SquaredLeakyReLU, slope=slope)))


def randomize(module: nn.Module) -> None:
    """Random values in place of the zeros that silence a model at its start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=p.shape[-1] ** -0.5)


def make_task(spec: Spec[LM] | None = None) -> LossModule:
    return LossModule(built(spec or leaky_toy()), CrossEntropy(BuildContext(vocab=VOCAB)))


def loss_and_gradients(task: LossModule, rows: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
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
) -> tuple[select.KernelSelection, dict[str, select.KernelDecision]]:
    """Choose on the CPU as on a GPU; the verdicts by what they are on."""
    found = list(select.kernel_candidates(root, compiled=False))
    trial = KernelTrial(CPU, compiled=False, backward=backward)
    verdicts = select.evaluate_candidates(root, found, inputs, trial, [inputs[0].numpy()], 1, timer=timer)
    return select.KernelSelection(root, found, verdicts, 1, print), {
        s.label: v for s, v in zip(found, verdicts, strict=True)
    }


class FakeFused(nn.Module):
    """A twin that is able, wrong by a factor, or wrong in its gradient alone: half of x's, which is zero at the start."""

    def __init__(self, plain: Any, factor: float = 1.0, *, cut: bool = False) -> None:
        super().__init__()
        self.plain, self.factor, self.cut = plain, factor, cut

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x.lerp(x.detach(), 0.5 * self.cut)) * self.factor


def silent_mlp() -> MLP:
    """As it starts: silent."""
    return MLP(BuildContext(vocab=VOCAB, dim=32), hidden=48, act=part(SquaredLeakyReLU, slope=0.3))
