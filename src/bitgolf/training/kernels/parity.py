"""Parity checks and timings of fused modules against reference modules, on inputs recorded from the model."""

from __future__ import annotations

import copy
import logging
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitgolf.errors import BitgolfError, Unsupported, exception_chain
from bitgolf.model.forward_context import ForwardContext
from bitgolf.runtime.compiler import compile_graph as compile_graph
from bitgolf.runtime.device import Device

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
"""Largest relative error (of norms) of output and gradients, by the dtype of matrix products."""
TIMING_ROUNDS, CALLS_PER_ROUND = 5, 3
LOGGER = logging.getLogger(__name__)

ModuleFactory = Callable[[Any], nn.Module]
"""Reference module -> fused module. Raises `Unsupported` if the kernel cannot replace this module."""
Timer = Callable[[Callable[[], object]], float]
"""Function without arguments -> time of one call in milliseconds."""


class RecordedCall(NamedTuple):
    """The arguments of one call of a module: tensors first, then the others."""

    tensors: tuple[Tensor, ...]
    other_args: tuple[Any, ...]

    @property
    def signature(self) -> tuple[Any, ...]:
        """Shape and dtype of each tensor."""
        return tuple((tuple(t.shape), t.dtype) for t in self.tensors)

    def tiled_to(self, ids: Tensor) -> RecordedCall:
        """The call with batch and token axes tiled to the size of ids (B, T), and a `ForwardContext` for these ids.

        Tensors that do not start with the batch and token axes of the recorded call remain unchanged.
        """
        small = self.tensors[0].shape[:2]
        repeats = [-(-target // size) for target, size in zip(ids.shape, small, strict=True)]

        def tile(t: Tensor) -> Tensor:
            if t.shape[:2] != small:
                return t
            return t.repeat(*repeats, *[1] * (t.ndim - 2))[: ids.shape[0], : ids.shape[1]].contiguous()

        rest = tuple(x.for_ids(ids) if isinstance(x, ForwardContext) else x for x in self.other_args)
        return RecordedCall(tuple(map(tile, self.tensors)), rest)


class KernelTrial(NamedTuple):
    """The setting in which modules are compared: device, whether compiled, and whether with backward pass."""

    device: Device
    compiled: bool
    backward: bool

    def grad_mode(self) -> AbstractContextManager[object]:
        """The context for forward passes: with gradients if `backward`, otherwise without."""
        return torch.enable_grad() if self.backward else torch.no_grad()

    def runnable(self, module: nn.Module) -> Callable[..., Tensor]:
        """The module as a function (tensors, other arguments) -> output, compiled if the run is compiled."""
        return compile_graph(ReplayModule(module), self.device.torch_device) if self.compiled else ReplayModule(module)

    def clone_inputs(self, module: nn.Module, call: RecordedCall) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Copies of the tensors of a call, and the tensors to differentiate: floating-point inputs and parameters."""
        tensors = tuple(t.clone().requires_grad_(self.backward and t.is_floating_point()) for t in call.tensors)
        return tensors, [t for t in (*tensors, *module.parameters()) if t.requires_grad] if self.backward else []

    def parity_check(self, make: ModuleFactory, plain: nn.Module, call: RecordedCall) -> str:
        """Why the fused module `make(plain)` cannot replace the reference module `plain` in this call; "" if it can.

        Both run with the same random parameters, since many parameters are initialized to zero. An exception of the
        fused module counts as a reason, since kernels fail in many ways on unsupported devices; except for
        `Unsupported` its traceback is logged at debug level, as it may be a bug. Raises `BitgolfError` if the device
        runs out of memory.
        """
        try:
            plain = randomized_copy(plain)
            error = self.max_relative_error(self.runnable(make(plain)), ReplayModule(plain), plain, call)
        except Exception as failure:
            return _refusal(failure, plain, call)
        finally:
            self.reset_compiler()
        tolerance = TOLERANCE[self.device.compute_dtype]
        return "" if error <= tolerance else f"relative error {error:.1%} exceeds the tolerance of {tolerance:.1%}"

    def max_relative_error(
        self, a: Callable[..., Tensor], b: Callable[..., Tensor], plain: nn.Module, call: RecordedCall
    ) -> float:
        """Largest relative error of the output of `a` against that of `b`, and of gradients if `backward`.

        plain: the module whose parameters are differentiated. NaN counts as infinity.
        """
        tensors, leaves = self.clone_inputs(plain, call)

        def results(run: Callable[..., Tensor]) -> list[Tensor]:
            with self.grad_mode(), self.device.autocast():
                y = run(tensors, call.other_args)
            if not leaves:
                return [y]
            direction = torch.arange(y.numel(), device=y.device).view(y.shape).add(1).cos().to(y.dtype)
            return [y.detach(), *torch.autograd.grad(y, leaves, direction)]

        pairs = [(x.double(), y.double()) for x, y in zip(results(a), results(b), strict=True)]
        errors = [((x - y).norm() / y.norm().clamp_min(1e-12)).item() for x, y in pairs]
        return max(error if error == error else float("inf") for error in errors)

    def benchmark(self, make: ModuleFactory, plain: nn.Module, call: RecordedCall, timer: Timer) -> float | str:
        """Milliseconds of one call of `make(plain)`, with backward pass if `backward`; or the reason why it failed."""
        try:
            run = self.runnable(make(plain))
            tensors, leaves = self.clone_inputs(plain, call)

            def once() -> None:
                with self.grad_mode(), self.device.autocast():
                    y = run(tensors, call.other_args)
                if leaves:
                    torch.autograd.grad(y, leaves, torch.ones_like(y))

            return timer(once)
        except Exception as error:
            return _refusal(error, plain, call)
        finally:
            self.reset_compiler()

    def reset_compiler(self) -> None:
        """Discard compiled graphs, as torch.compile limits those of one code object (`ReplayModule.forward`)."""
        if self.compiled:
            torch._dynamo.reset()


def measure_milliseconds(call: Callable[[], object]) -> float:
    """Milliseconds of a call on the current CUDA device: the median over rounds, after a warm-up round."""
    times = []
    for _ in range(TIMING_ROUNDS + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(CALLS_PER_ROUND):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS_PER_ROUND)
    return statistics.median(times[1:])


@torch.no_grad()
def record_calls(
    root: nn.Module, modules: Sequence[nn.Module], device: Device, inputs: Sequence[Tensor]
) -> dict[nn.Module, RecordedCall]:
    """Module -> arguments of its first call in a forward pass of `root`, without modules that do not run."""
    calls: dict[nn.Module, RecordedCall] = {}

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensors = tuple(t.detach() for t in inputs if isinstance(t, Tensor))
        calls.setdefault(module, RecordedCall(tensors, tuple(x for x in inputs if not isinstance(x, Tensor))))

    hooks = [m.register_forward_pre_hook(keep) for m in modules]
    try:
        with device.autocast():
            root(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


class ReplayModule(nn.Module):
    """Calls a module with recorded arguments, and with a new `ForwardContext`, as in a forward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tensors: tuple[Tensor, ...], rest: tuple[Any, ...]) -> Tensor:
        return self.module(*tensors, *(x.for_ids(x.ids) if isinstance(x, ForwardContext) else x for x in rest))


def randomized_copy(plain: nn.Module) -> nn.Module:
    """A copy with normal random parameters, of standard deviation 1 / sqrt(last dimension)."""
    plain = copy.deepcopy(plain)
    with torch.no_grad():
        for p in plain.parameters():
            p.normal_(std=p.shape[-1] ** -0.5)
    return plain


def _refusal(error: Exception, plain: nn.Module, call: RecordedCall) -> str:
    """The reason for keeping the reference module, from the exception of a fused one."""
    _reraise_out_of_memory(error, plain, call)
    if not isinstance(error, Unsupported):
        message = "a fused module for %s failed: unsupported by the device, or a bug"
        LOGGER.debug(message, type(plain).__name__, exc_info=error)
    return summarize_exception(error)


def summarize_exception(error: BaseException) -> str:
    """Type and first line of the original cause, the line cut to 160 characters; for `Unsupported` its message."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, Unsupported):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.160}"


def _reraise_out_of_memory(error: Exception, plain: nn.Module, call: RecordedCall) -> None:
    """Raises `BitgolfError` if the cause is a lack of memory: the training step would not fit either."""
    if any(isinstance(cause, torch.OutOfMemoryError) for cause in exception_chain(error)):
        shapes = ", ".join(str(tuple(t.shape)) for t in call.tensors)
        raise BitgolfError(
            f"out of memory while trying {type(plain).__name__} on tensors of shape {shapes}",
            where="train.micro_rows",
            hint="set train.micro_rows below the first of these numbers, or reduce train.length if it is 1",
        ) from error
