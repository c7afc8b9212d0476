"""Whether a fast twin is able here: it is called as the run will call it, and must say what the plain one says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import (
    SDPBackend,
    activate_flash_attention_impl,
    list_flash_attention_impls,
    restore_flash_attention_impl,
    sdpa_kernel,
)

from bitgolf.model.core import Bus
from bitgolf.train.compiler import compiled as compile_graph
from bitgolf.train.device import Device

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
"""Largest relative difference (of norms) in output and gradients, by the type of matrix products."""

Make = Callable[[Any], nn.Module]


class Call(NamedTuple):
    """What a module was called with: its tensors, then the rest."""

    tensors: tuple[Tensor, ...]
    rest: tuple[Any, ...]

    @property
    def form(self) -> tuple[Any, ...]:
        return tuple((tuple(t.shape), t.dtype) for t in self.tensors)


@torch.no_grad()
def record(
    task: nn.Module, modules: list[nn.Module], device: Device, ids: Tensor, targets: Tensor
) -> dict[nn.Module, Call]:
    """The first call of each of these modules in one forward of the task; a module that never ran is left out."""
    calls: dict[nn.Module, Call] = {}

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensors = tuple(t.detach() for t in inputs if isinstance(t, Tensor))
        calls.setdefault(module, Call(tensors, tuple(x for x in inputs if not isinstance(x, Tensor))))

    hooks = [m.register_forward_pre_hook(keep) for m in modules]
    try:
        with device.autocast():
            task(ids, targets)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def inability(make: Make, plain: nn.Module, call: Call, device: Device, *, compiled: bool) -> str:
    """Why the twin that `make` makes of `plain` cannot take its place in this call; "" where it can.

    Both are run on a copy with random parameters (many start at zero), forward and backward. Whatever goes wrong is an
    answer, not an error: kernels fail in many ways on a device that they were not made for.
    """
    try:
        plain = disturbed(plain)
        twin = make(plain)
        run = compile_graph(Replay(twin), device.device) if compiled else Replay(twin)
        gap = difference(run, Replay(plain), list(plain.parameters()), call, device)
    except Exception as error:
        return _brief(error)
    return "" if gap <= TOLERANCE[device.compute] else f"its numbers are {gap:.1%} from the plain ones"


def _brief(error: BaseException) -> str:
    """The first line of what was wrong at first: compilers wrap what they catch."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.160}"


class Replay(nn.Module):
    """A module, called with its tensors first and the rest as recorded. A bus is made anew, as in a forward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tensors: tuple[Tensor, ...], rest: tuple[Any, ...]) -> Tensor:
        return self.module(*tensors, *(Bus(x.ids, x.bos) if isinstance(x, Bus) else x for x in rest))


def disturbed(plain: nn.Module) -> nn.Module:
    plain = copy.deepcopy(plain)
    with torch.no_grad():
        for p in plain.parameters():
            p.normal_(std=p.shape[-1] ** -0.5)
    return plain


def difference(
    a: Callable[..., Tensor], b: Callable[..., Tensor], parameters: list[nn.Parameter], call: Call, device: Device
) -> float:
    """The largest relative difference between two modules' outputs and gradients."""
    tensors = tuple(t.clone().requires_grad_(t.is_floating_point()) for t in call.tensors)
    leaves = [t for t in tensors if t.requires_grad] + parameters

    def answers(run: Callable[..., Tensor]) -> list[Tensor]:
        with torch.enable_grad(), device.autocast():
            y = run(tensors, call.rest)
        direction = torch.arange(y.numel(), device=y.device).view(y.shape).add(1).cos().to(y.dtype)
        return [y.detach(), *torch.autograd.grad(y, leaves, direction)]

    pairs = [(x.double(), y.double()) for x, y in zip(answers(a), answers(b), strict=True)]
    gaps = [((x - y).norm() / y.norm().clamp_min(1e-12)).item() for x, y in pairs]
    return max(gap if gap == gap else float("inf") for gap in gaps)  # not a number is no agreement


def flash_implementation(device: Device) -> str:
    """Let PyTorch's flash attention run on the newest implementation that is able here; returns which, and why no newer.

    Installed packages say what they are by computing: names of FlashAttention's wheels have misled before.
    """
    reasons = []
    for name in sorted(list_flash_attention_impls(), reverse=True):
        try:
            activate_flash_attention_impl(name)
            if (gap := _flash_error(device)) <= TOLERANCE[torch.bfloat16]:
                return "; ".join([f"implementation {name}", *reasons])
            reasons.append(f"{name} is {gap:.1%} wrong")
        except Exception as error:
            reasons.append(f"{name}: {_brief(error)}")
        restore_flash_attention_impl(_raise_warn=False)
    return "; ".join(["PyTorch's own implementation", *reasons])


def _flash_error(device: Device) -> float:
    """How far flash attention, forward and backward, is from plain mathematics on a small causal example."""
    q, k, v = torch.randn(3, 1, 2, 256, 64, device=device.device, dtype=torch.bfloat16)

    def attend(backend: SDPBackend, kind: torch.dtype) -> list[Tensor]:
        leaves = tuple(x.to(kind).requires_grad_() for x in (q, k, v))
        with torch.enable_grad(), sdpa_kernel(backend):
            y = F.scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], is_causal=True)
        return [y, *torch.autograd.grad(y.float().square().sum(), leaves)]

    pairs = zip(attend(SDPBackend.FLASH_ATTENTION, q.dtype), attend(SDPBackend.MATH, torch.float32), strict=True)
    return max(((a.float() - b).norm() / b.norm()).item() for a, b in pairs)
