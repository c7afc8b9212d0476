"""A model's forward for scoring: eager on the CPU; on CUDA with fused kernels, in one compiled graph for each shape.

Recipes name scoring methods and so import this module, which therefore does not import the kernels: they import the
compiler, which takes 1.5 s. They come as an argument, see `kernel_selector`.
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
    from bitgolf.train.kernels.select import KernelSelection

MIN_PADDED_LENGTH = 64  # tokens: shorter rows are padded to as many
MAX_TOKENS = 1 << 20  # tokens at once, where no limit was given


class Forward(Protocol):
    """What the forwards of all players have in common: the kernels that run, the time of compilation, a limit, an end."""

    @property
    def kernels(self) -> Sequence[str]:
        """Which fused kernels run, and why: a line on each kind of part."""
        ...

    @property
    def compile_seconds(self) -> float:
        """Spent on compiling so far."""
        ...

    def set_max_tokens(self, tokens: int) -> None:
        """Compute no more tokens at once, padding included, but at least a row."""
        ...

    def close(self) -> None:
        """Restores the model as it was found."""
        ...


class SelectKernels(Protocol):
    """Puts fused kernels into a model, until the result is asked to `restore` it: see `kernels.KernelSelector`."""

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
        """Rows of tokens (B, T) and n indices into the flattened tokens (n,), both on the CPU, to logits (n, V)."""
        ...


def kernel_selector(device: Device) -> SelectKernels | None:
    """Selects fused kernels on CUDA; None on other devices, which do not load the compiler."""
    if device.torch_device.type != "cuda":
        return None
    from bitgolf.score.execution.kernels import KernelSelector  # imports the compiler, in 1.5 s

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
    """The forward for a device: eager, or on CUDA compiled.

    longest: tokens of a row, 0 if not known. learns: gradients of the model are needed, too. kernels: without it the
    compiled graphs contain the reference parts alone. rope_scaling: of rotary positions, in place of the model's own.
    """
    if device.torch_device.type != "cuda":
        return EagerForward(model, device, rope_scaling)
    choice = kernels(model, device, longest, backward=learns, distributed=distributed) if kernels else None
    return CompiledForward(model, device, longest, choice, rope_scaling)


class EagerForward:
    """Operator by operator, at the shapes that come. The reference."""

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
        """Nothing is padded here: blocks keep to the limit."""

    def close(self) -> None:
        pass


class CompiledForward:
    """The same in graphs of few shapes.

    Rows are padded to `max_length` tokens, or to a half, a quarter, … of it; and read so many at a time as the first block
    of that length suggests, the last ones with empty rows. Places are padded to a power of two. What pads is computed
    and left out: attention is causal, and rows do not see each other.
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
        self.rows: dict[int, int] = {}  # by length
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
        shown = copy_to_device(tokens, self.device.torch_device)
        asked = copy_to_device(F.pad(places, (0, power_of_two(len(places)) - len(places))), self.device.torch_device)
        with self.device.autocast():
            hidden = torch.cat([self.hidden(part) for part in shown.split(rows)])
            return self.logits(hidden, asked)[: len(places)]

    def _rows(self, tokens: int, length: int) -> int:
        """A power of two, for blocks of about so many tokens in rows of this length."""
        wanted, most = power_of_two(tokens / length), max(1, self.max_tokens // length)
        return min(wanted, 1 << most.bit_length() - 1)

    def set_max_tokens(self, tokens: int) -> None:
        self.max_tokens = tokens

    @property
    def compile_seconds(self) -> float:
        return self.hidden.compile_seconds + self.logits.compile_seconds

    def close(self) -> None:
        if self.choice:
            self.choice.restore()


def padded_length(length: int, longest: int) -> int:
    """The least of longest, its half, its quarter, … down to `MIN_PADDED_LENGTH`, that holds so many tokens."""
    padded = longest if length <= longest else power_of_two(length)
    while padded // 2 >= max(length, MIN_PADDED_LENGTH):
        padded //= 2
    return padded


def power_of_two(number: float) -> int:
    """The least power of two that is at least so much."""
    return 1 << max(0, math.ceil(number) - 1).bit_length()
