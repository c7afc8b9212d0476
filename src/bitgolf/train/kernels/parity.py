"""Whether a fast twin may replace a plain part, and how fast both are: each is called as the run will call it."""

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
"""Largest relative difference (of norms) in output and gradients, by the type of matrix products."""
TIMING_ROUNDS, CALLS_PER_ROUND = 5, 3
LOGGER = logging.getLogger(__name__)

ModuleFactory = Callable[[Any], nn.Module]
Timer = Callable[[Callable[[], object]], float]


class RecordedCall(NamedTuple):
    """What a module was called with: its tensors, then the rest."""

    tensors: tuple[Tensor, ...]
    other_args: tuple[Any, ...]

    @property
    def signature(self) -> tuple[Any, ...]:
        return tuple((tuple(t.shape), t.dtype) for t in self.tensors)

    def tiled_to(self, ids: Tensor) -> RecordedCall:
        """The same call for the rows ids (B, T): recorded values are repeated along batch and tokens.

        Only tensors that begin with the batch and token axes of the recorded call grow; a bus is made for `ids`.
        """
        small = self.tensors[0].shape[:2]
        repeats = [-(-wanted // have) for wanted, have in zip(ids.shape, small, strict=True)]

        def grow(t: Tensor) -> Tensor:
            if t.shape[:2] != small:
                return t
            return t.repeat(*repeats, *[1] * (t.ndim - 2))[: ids.shape[0], : ids.shape[1]].contiguous()

        rest = tuple(x.for_ids(ids) if isinstance(x, ForwardContext) else x for x in self.other_args)
        return RecordedCall(tuple(map(grow, self.tensors)), rest)


class KernelTrial(NamedTuple):
    """How parts are tried: on which device, compiled or not, and whether gradients are wanted."""

    device: Device
    compiled: bool
    backward: bool

    def grad_mode(self) -> AbstractContextManager[object]:
        return torch.enable_grad() if self.backward else torch.no_grad()

    def runnable(self, module: nn.Module) -> Callable[..., Tensor]:
        """The module as a function of a call's tensors and its rest, as the run will run it."""
        return compile_graph(ReplayModule(module), self.device.torch_device) if self.compiled else ReplayModule(module)

    def clone_inputs(self, module: nn.Module, call: RecordedCall) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Copies of a call's tensors, and all that gradients are taken of: those of them that are real, parameters."""
        tensors = tuple(t.clone().requires_grad_(self.backward and t.is_floating_point()) for t in call.tensors)
        return tensors, [t for t in (*tensors, *module.parameters()) if t.requires_grad] if self.backward else []

    def parity_check(self, make: ModuleFactory, plain: nn.Module, call: RecordedCall) -> str:
        """Why the twin that `make` makes of `plain` cannot take its place in this call; "" where it can.

        Both run on a copy with random parameters (many start at zero). Any failure but a lack of memory is an answer,
        not an error: kernels fail in many ways on a device that they were not made for. All but `Unsupported` are logged
        with their traceback at debug level, since they may be a bug as well.
        """
        try:
            plain = randomized_copy(plain)
            gap = self.max_relative_error(self.runnable(make(plain)), ReplayModule(plain), plain, call)
        except Exception as error:
            return _refusal(error, plain, call)
        finally:
            self.reset_compiler()
        return "" if gap <= TOLERANCE[self.device.compute_dtype] else f"its numbers are {gap:.1%} from the plain ones"

    def max_relative_error(
        self, a: Callable[..., Tensor], b: Callable[..., Tensor], plain: nn.Module, call: RecordedCall
    ) -> float:
        """The largest relative difference between two modules' outputs, and gradients where they are wanted."""
        tensors, leaves = self.clone_inputs(plain, call)

        def answers(run: Callable[..., Tensor]) -> list[Tensor]:
            with self.grad_mode(), self.device.autocast():
                y = run(tensors, call.other_args)
            if not leaves:
                return [y]
            direction = torch.arange(y.numel(), device=y.device).view(y.shape).add(1).cos().to(y.dtype)
            return [y.detach(), *torch.autograd.grad(y, leaves, direction)]

        pairs = [(x.double(), y.double()) for x, y in zip(answers(a), answers(b), strict=True)]
        gaps = [((x - y).norm() / y.norm().clamp_min(1e-12)).item() for x, y in pairs]
        return max(gap if gap == gap else float("inf") for gap in gaps)  # not a number is no agreement

    def benchmark(self, make: ModuleFactory, plain: nn.Module, call: RecordedCall, timer: Timer) -> float | str:
        """Milliseconds of one call, with its backward where gradients are wanted; or why it cannot be run."""
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
        """All trials share one code object, `ReplayModule.forward`, and torch.compile limits the graphs of one."""
        if self.compiled:
            torch._dynamo.reset()


def measure_milliseconds(call: Callable[[], object]) -> float:
    """Time of a call on the current CUDA device: median over rounds, after one round that is not counted."""
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
    """The first call of each of these modules in one forward of `root`; a module that never ran is left out."""
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
    """A module, called with its tensors first and the rest as recorded. A bus is made anew, as in a forward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tensors: tuple[Tensor, ...], rest: tuple[Any, ...]) -> Tensor:
        return self.module(*tensors, *(x.for_ids(x.ids) if isinstance(x, ForwardContext) else x for x in rest))


def randomized_copy(plain: nn.Module) -> nn.Module:
    """A copy with random parameters of about the size that keeps a product's scale."""
    plain = copy.deepcopy(plain)
    with torch.no_grad():
        for p in plain.parameters():
            p.normal_(std=p.shape[-1] ** -0.5)
    return plain


def _refusal(error: Exception, plain: nn.Module, call: RecordedCall) -> str:
    """Why the reference module must stay, from what a fused one raised."""
    _reraise_out_of_memory(error, plain, call)
    if not isinstance(error, Unsupported):
        LOGGER.debug("a fused module for %s failed: limit of the device, or bug", type(plain).__name__, exc_info=error)
    return summarize_exception(error)


def summarize_exception(error: BaseException) -> str:
    """The first line of what was wrong at first."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, Unsupported):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.160}"


def _reraise_out_of_memory(error: Exception, plain: nn.Module, call: RecordedCall) -> None:
    """A lack of memory says nothing about a kernel: the run would not fit either."""
    if any(isinstance(cause, torch.OutOfMemoryError) for cause in exception_chain(error)):
        shapes = ", ".join(str(tuple(t.shape)) for t in call.tensors)
        raise BitgolfError(
            f"out of memory while trying {type(plain).__name__} on tensors of {shapes}",
            where="train.micro_rows",
            hint="set it smaller than the first of these numbers, or shorten the rows (train.length) where it is 1",
        ) from error
