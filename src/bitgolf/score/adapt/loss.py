"""The loss of test-time training: eager, or compiled to one graph for each sequence length."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor

from bitgolf.model.lm import LM
from bitgolf.model.numerics import at_least_float32
from bitgolf.runtime.device import Device
from bitgolf.score.execution.async_copy import copy_to_device
from bitgolf.score.execution.compiled_function import CompiledFunction
from bitgolf.score.execution.forward import padded_length

IGNORE_INDEX = -100  # a position without a target

SummedLoss = Callable[[Tensor, Tensor], Iterator[Tensor]]
"""Takes inputs and targets (B, T) on the CPU. Yields scalars with graphs, whose sum is the nats of all targets."""


def make_loss(model: LM, device: Device, *, at_once: int, longest: int) -> SummedLoss:
    """The loss for a device: compiled on CUDA, otherwise eager.

    at_once: maximum tokens of one forward on CUDA, at least one row. longest: maximum tokens of a row.
    """
    if device.torch_device.type == "cuda":
        return CompiledLoss(model, device, at_once, longest)
    return EagerLoss(model, device)


class EagerLoss:
    """The reference: one forward of all rows, with logits at positions that have a target."""

    def __init__(self, model: LM, device: Device) -> None:
        self.model, self.device = model, device

    def __call__(self, inputs: Tensor, targets: Tensor) -> Iterator[Tensor]:
        indices = (targets.flatten() != IGNORE_INDEX).nonzero()[:, 0]
        parts = inputs, indices, targets.flatten()[indices]
        inputs, indices, targets = (copy_to_device(x, self.device.torch_device) for x in parts)
        with self.device.autocast():
            logits = self.model.logits(self.model.hidden(self.model.forward_context(inputs)).flatten(0, 1)[indices])
        yield F.cross_entropy(at_least_float32(logits), targets, reduction="sum")


class CompiledLoss:
    """Rows padded to `longest` tokens or a half, a quarter, … of it, and a fixed number of rows for each length.

    Logits are computed at all positions, so the host need not wait for the device; padding adds zero to the loss.
    """

    def __init__(self, model: LM, device: Device, at_once: int, longest: int) -> None:
        self.model, self.device, self.at_once, self.longest = model, device, at_once, longest
        self.graph = CompiledFunction(self.loss, device.torch_device)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self.model(inputs)
        return F.cross_entropy(at_least_float32(logits).flatten(0, 1), targets.flatten(), reduction="sum")

    def __call__(self, inputs: Tensor, targets: Tensor) -> Iterator[Tensor]:
        length = padded_length(inputs.shape[1], self.longest)
        rows = max(1, self.at_once // length)
        padding = (0, length - inputs.shape[1], 0, -len(inputs) % rows)
        inputs, targets = F.pad(inputs, padding), F.pad(targets, padding, value=IGNORE_INDEX)
        for x, y in zip(inputs.split(rows), targets.split(rows), strict=True):
            x, y = copy_to_device(x, self.device.torch_device), copy_to_device(y, self.device.torch_device)
            with self.device.autocast():
                loss = self.graph(x, y)
            yield loss
