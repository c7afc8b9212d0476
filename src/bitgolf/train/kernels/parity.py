"""Whether a fast twin may replace a plain part, and how fast both are: each is called as the run will call it."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitgolf.errors import BitgolfError, exception_chain
from bitgolf.model.part import Bus
from bitgolf.runtime.compiler import compiled as compile_graph
from bitgolf.runtime.device import Device

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
"""Largest relative difference (of norms) in output and gradients, by the type of matrix products."""
ROUNDS, CALLS = 5, 3

Make = Callable[[Any], nn.Module]
Timer = Callable[[Callable[[], object]], float]


class Call(NamedTuple):
    """What a module was called with: its tensors, then the rest."""

    tensors: tuple[Tensor, ...]
    rest: tuple[Any, ...]

    @property
    def form(self) -> tuple[Any, ...]:
        return tuple((tuple(t.shape), t.dtype) for t in self.tensors)

    def enlarged(self, ids: Tensor) -> Call:
        """The same call for the rows ids (B, T): recorded values are repeated along batch and tokens.

        Only tensors that begin with the batch and token axes of the recorded call grow; a bus is made for `ids`.
        """
        small = self.tensors[0].shape[:2]
        repeats = [-(-wanted // have) for wanted, have in zip(ids.shape, small, strict=True)]

        def grow(t: Tensor) -> Tensor:
            if t.shape[:2] != small:
                return t
            return t.repeat(*repeats, *[1] * (t.ndim - 2))[: ids.shape[0], : ids.shape[1]].contiguous()

        rest = tuple(Bus(ids, x.bos) if isinstance(x, Bus) else x for x in self.rest)
        return Call(tuple(map(grow, self.tensors)), rest)


class Trial(NamedTuple):
    """How parts are tried: on which device, compiled or not, and whether gradients are wanted."""

    device: Device
    compiled: bool
    backward: bool

    def grad_mode(self) -> AbstractContextManager[object]:
        return torch.enable_grad() if self.backward else torch.no_grad()

    def prepared(self, module: nn.Module) -> Callable[..., Tensor]:
        """The module as a function of a call's tensors and its rest, as the run will run it."""
        return compile_graph(Replay(module), self.device.device) if self.compiled else Replay(module)

    def leaves(self, module: nn.Module, call: Call) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Copies of a call's tensors, and all that gradients are taken of: those of them that are real, parameters."""
        tensors = tuple(t.clone().requires_grad_(self.backward and t.is_floating_point()) for t in call.tensors)
        return tensors, [t for t in (*tensors, *module.parameters()) if t.requires_grad] if self.backward else []

    def inability(self, make: Make, plain: nn.Module, call: Call) -> str:
        """Why the twin that `make` makes of `plain` cannot take its place in this call; "" where it can.

        Both run on a copy with random parameters (many start at zero). Any failure but a lack of memory is an answer,
        not an error: kernels fail in many ways on a device that they were not made for.
        """
        try:
            plain = disturbed(plain)
            gap = self.difference(self.prepared(make(plain)), Replay(plain), plain, call)
        except Exception as error:
            _raise_for_memory(error, plain, call)
            return brief(error)
        finally:
            self.forget_graphs()
        return "" if gap <= TOLERANCE[self.device.compute] else f"its numbers are {gap:.1%} from the plain ones"

    def difference(self, a: Callable[..., Tensor], b: Callable[..., Tensor], plain: nn.Module, call: Call) -> float:
        """The largest relative difference between two modules' outputs, and gradients where they are wanted."""
        tensors, leaves = self.leaves(plain, call)

        def answers(run: Callable[..., Tensor]) -> list[Tensor]:
            with self.grad_mode(), self.device.autocast():
                y = run(tensors, call.rest)
            if not leaves:
                return [y]
            direction = torch.arange(y.numel(), device=y.device).view(y.shape).add(1).cos().to(y.dtype)
            return [y.detach(), *torch.autograd.grad(y, leaves, direction)]

        pairs = [(x.double(), y.double()) for x, y in zip(answers(a), answers(b), strict=True)]
        gaps = [((x - y).norm() / y.norm().clamp_min(1e-12)).item() for x, y in pairs]
        return max(gap if gap == gap else float("inf") for gap in gaps)  # not a number is no agreement

    def cost(self, make: Make, plain: nn.Module, call: Call, timer: Timer) -> float | str:
        """Milliseconds of one call, with its backward where gradients are wanted; or why it cannot be run."""
        try:
            run = self.prepared(make(plain))
            tensors, leaves = self.leaves(plain, call)

            def once() -> None:
                with self.grad_mode(), self.device.autocast():
                    y = run(tensors, call.rest)
                if leaves:
                    torch.autograd.grad(y, leaves, torch.ones_like(y))

            return timer(once)
        except Exception as error:
            _raise_for_memory(error, plain, call)
            return brief(error)
        finally:
            self.forget_graphs()

    def forget_graphs(self) -> None:
        """All trials share one code object, `Replay.forward`, and torch.compile limits the graphs of one."""
        if self.compiled:
            torch._dynamo.reset()


def milliseconds(call: Callable[[], object]) -> float:
    """Time of a call on the current CUDA device: median over rounds, after one round that is not counted."""
    times = []
    for _ in range(ROUNDS + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(CALLS):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS)
    return statistics.median(times[1:])


@torch.no_grad()
def record(
    root: nn.Module, modules: Sequence[nn.Module], device: Device, inputs: Sequence[Tensor]
) -> dict[nn.Module, Call]:
    """The first call of each of these modules in one forward of `root`; a module that never ran is left out."""
    calls: dict[nn.Module, Call] = {}

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensors = tuple(t.detach() for t in inputs if isinstance(t, Tensor))
        calls.setdefault(module, Call(tensors, tuple(x for x in inputs if not isinstance(x, Tensor))))

    hooks = [m.register_forward_pre_hook(keep) for m in modules]
    try:
        with device.autocast():
            root(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


class Replay(nn.Module):
    """A module, called with its tensors first and the rest as recorded. A bus is made anew, as in a forward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tensors: tuple[Tensor, ...], rest: tuple[Any, ...]) -> Tensor:
        return self.module(*tensors, *(Bus(x.ids, x.bos) if isinstance(x, Bus) else x for x in rest))


def disturbed(plain: nn.Module) -> nn.Module:
    """A copy with random parameters of about the size that keeps a product's scale."""
    plain = copy.deepcopy(plain)
    with torch.no_grad():
        for p in plain.parameters():
            p.normal_(std=p.shape[-1] ** -0.5)
    return plain


def brief(error: BaseException) -> str:
    """The first line of what was wrong at first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.160}"


def _raise_for_memory(error: Exception, plain: nn.Module, call: Call) -> None:
    """A lack of memory says nothing about a kernel: the run would not fit either."""
    if any(isinstance(cause, torch.OutOfMemoryError) for cause in exception_chain(error)):
        shapes = ", ".join(str(tuple(t.shape)) for t in call.tensors)
        raise BitgolfError(
            f"out of memory while trying {type(plain).__name__} on tensors of {shapes}",
            place="train.micro_rows",
            mend="set it smaller than the first of these numbers, or shorten the rows (train.length) where it is 1",
        ) from error
