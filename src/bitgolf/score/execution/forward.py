"""A model's forward for scoring: eager on the CPU; on CUDA with fused kernels, in one compiled graph for each shape.

Every recipe imports this module through its scoring methods. So it does not import the fused kernels, because they
import the compiler, which takes 1.5 s. They are passed as an argument, see `kernel_selector`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.lm import LM
from bitgolf.model.numerics import at_least_float32
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.execution.async_copy import copy_to_device
from bitgolf.score.execution.compiled_function import CompiledFunction

if TYPE_CHECKING:
    from bitgolf.training.kernels.select import KernelSelection

MIN_PADDED_LENGTH = 64  # tokens; shorter rows are padded to this length
MAX_TOKENS = 1 << 20  # tokens per forward if no limit was set


class Forward(Protocol):
    """The common interface of the forwards of all players."""

    @property
    def kernels(self) -> Sequence[str]:
        """The fused kernels in use and the reason, one line for each kind of part."""
        ...

    @property
    def compile_seconds(self) -> float:
        """Seconds spent on compilation so far."""
        ...

    def set_max_tokens(self, tokens: int) -> None:
        """Limit the tokens of one forward, padding included. At least one row is always computed."""
        ...

    def close(self) -> None:
        """Restore the model's reference parts."""
        ...


class SelectKernels(Protocol):
    """Installs fused kernels in a model. `restore` of the result removes them. See `kernels.KernelSelector`."""

    def __call__(
        self,
        model: LM,
        device: Device,
        max_length: int,
        *,
        backward: bool = False,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> KernelSelection: ...


class LogitsForward(Forward, Protocol):
    """A forward from tokens to logits."""

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Logits (n, V) at the positions `places` (n,) of the flattened tokens (B, T). Both inputs are on the CPU."""
        ...


def kernel_selector(device: Device) -> SelectKernels | None:
    """A selector of fused kernels on CUDA; None on other devices, so that the compiler is not imported."""
    if device.torch_device.type != "cuda":
        return None
    from bitgolf.score.execution.kernels import KernelSelector  # imports the compiler, which takes 1.5 s

    return KernelSelector()


def make_forward(
    model: LM,
    device: Device,
    longest: int,
    *,
    learns: bool = False,
    distributed: DistributedContext = SINGLE_PROCESS,
    kernels: SelectKernels | None = None,
    rope_scaling: RoPEScaling | None = None,
) -> LogitsForward:
    """The forward for a device: compiled on CUDA, otherwise eager.

    longest: maximum tokens of a row, 0 if not known. learns: whether gradients of the weights are needed.
    kernels: None to compile the reference parts only. rope_scaling: replaces the model's own.
    """
    if device.torch_device.type != "cuda":
        return EagerForward(model, device, rope_scaling)
    choice = kernels(model, device, longest, backward=learns, distributed=distributed) if kernels else None
    return CompiledForward(model, device, longest, choice, rope_scaling)


class EagerForward:
    """The reference: eager operators at the given shapes, without padding."""

    kernels: Sequence[str] = ()
    compile_seconds = 0.0

    def __init__(self, model: LM, device: Device, rope_scaling: RoPEScaling | None = None) -> None:
        self.model, self.device, self.rope_scaling = model, device, rope_scaling

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        tokens, places = (copy_to_device(x, self.device.torch_device) for x in (tokens, places))
        with self.device.autocast():
            hidden = self.model.hidden(self.model.forward_context(tokens, self.rope_scaling)).flatten(0, 1)
            return at_least_float32(self.model.logits(hidden[places]))

    def set_max_tokens(self, tokens: int) -> None:
        """No effect: nothing is padded, so the batches of the method already keep the limit."""

    def close(self) -> None:
        pass


class CompiledForward:
    """The same function in compiled graphs of few shapes.

    Rows are padded to `max_length` tokens or to a half, a quarter, … of it. For each length, the number of rows per
    forward is chosen at the first batch of that length; the last forward is padded with empty rows. The number of
    positions is padded to a power of two. Padding does not change the results, since attention is causal and rows are
    independent.
    """

    def __init__(
        self,
        model: LM,
        device: Device,
        max_length: int,
        choice: KernelSelection | None,
        rope_scaling: RoPEScaling | None = None,
    ) -> None:
        self.device, self.max_length, self.choice = device, max_length, choice
        self.kernels: Sequence[str] = choice.summary if choice else ()
        self.rows: dict[int, int] = {}  # rows per forward, by padded length
        self.max_tokens = MAX_TOKENS
        self.hidden = CompiledFunction(
            lambda ids: model.hidden(model.forward_context(ids, rope_scaling)).flatten(0, 1), device.torch_device
        )
        self.logits = CompiledFunction(
            lambda hidden, places: at_least_float32(model.logits(hidden[places])), device.torch_device
        )

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        length = padded_length(tokens.shape[1], self.max_length)
        rows = self.rows.setdefault(length, self._rows(tokens.numel(), length))
        places = places // tokens.shape[1] * length + places % tokens.shape[1]
        tokens = F.pad(tokens, (0, length - tokens.shape[1], 0, -len(tokens) % rows))
        if self.choice:
            self.choice.segment_capacity.ensure(tokens.numpy(), rows)
        tokens = copy_to_device(tokens, self.device.torch_device)
        padded = copy_to_device(F.pad(places, (0, power_of_two(len(places)) - len(places))), self.device.torch_device)
        with self.device.autocast():
            hidden = torch.cat([self.hidden(part) for part in tokens.split(rows)])
            return self.logits(hidden, padded)[: len(places)]

    def _rows(self, tokens: int, length: int) -> int:
        """Rows per forward, a power of two, for a batch of `tokens` tokens in rows of this length."""
        needed, most = power_of_two(tokens / length), max(1, self.max_tokens // length)
        return min(needed, 1 << most.bit_length() - 1)

    def set_max_tokens(self, tokens: int) -> None:
        self.max_tokens = tokens

    @property
    def compile_seconds(self) -> float:
        return self.hidden.compile_seconds + self.logits.compile_seconds

    def close(self) -> None:
        if self.choice:
            self.choice.restore()


def padded_length(length: int, longest: int) -> int:
    """The smallest of longest, longest / 2, longest / 4, … (at least `MIN_PADDED_LENGTH`) that is at least `length`.

    If `length` exceeds `longest`, the next power of two is used instead of `longest`.
    """
    padded = longest if length <= longest else power_of_two(length)
    while padded // 2 >= max(length, MIN_PADDED_LENGTH):
        padded //= 2
    return padded


def power_of_two(number: float) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(0, math.ceil(number) - 1).bit_length()
