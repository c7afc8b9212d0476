"""Speed of fused kernels compared with their reference on a GPU, forward and backward.

Usage: `python bench/kernels.py [--rows N]`. Prints one JSON line per kernel: milliseconds of both (median of
alternating rounds) and `ratio` = plain / fused, which is above 1 if the fused kernel is faster. Both are compiled, as
in training. Without a CUDA device it prints one line with the reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import part
from bitgolf.kernels.softcapped_cross_entropy import softcapped_cross_entropy
from bitgolf.kernels.squared_leaky_relu_mlp import squared_leaky_relu_mlp
from bitgolf.model.attention.cores.sdpa import SDPACore, SegmentMask, SlidingWindowMask
from bitgolf.model.attention.cores.segment_capacity import SegmentCapacityManager
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.attention.gates import SparseAttentionGate
from bitgolf.model.forward_context import ForwardContext
from bitgolf.report.environment import collect_environment
from bitgolf.runtime.device import select_device
from bitgolf.training.kernels.fused import FusedExclusiveGate, ReferenceExclusiveGate
from bitgolf.training.kernels.select import fused_attention_cores

ROUNDS, CALLS = 7, 10
WIDTH, HEADS, KV_HEADS, LENGTH, VOCAB, CAP, SLOPE = 512, 8, 4, 2048, 8192, 30.0, 0.5
Function = Callable[..., Tensor]


class KernelCase(NamedTuple):
    """A fused function, its reference, and the inputs of both."""

    name: str
    fused: Function
    reference: Function
    inputs: list[Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16, help=f"Number of sequences of {LENGTH} tokens per call.")
    options = parser.parse_args()
    device = select_device()
    if device.torch_device.type != "cuda":
        print(json.dumps({"bench": "kernels", "skipped": device.description}))
        return
    where = {"device": device.description, "environment": collect_environment()}
    for case in cases(options.rows, device.torch_device):
        print(json.dumps({"bench": "kernels", "kernel": case.name, **time_case(case), **where}), flush=True)


def cases(rows: int, device: torch.device) -> Iterator[KernelCase]:
    """All comparisons, with random bfloat16 inputs for `rows` sequences of `LENGTH` tokens."""
    torch.manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()

    tokens, head = rows * LENGTH, WIDTH // HEADS
    targets = torch.randint(VOCAB, (tokens,), device=device)
    yield KernelCase("softcapped cross-entropy", fused_loss, plain_loss, [draw(tokens, VOCAB), targets])
    matrices = [draw(tokens, WIDTH), draw(4 * WIDTH, WIDTH), draw(WIDTH, 4 * WIDTH)]
    for name, tma in (("leaky MLP", False), ("leaky MLP, TMA", True)):
        yield KernelCase(name, partial(squared_leaky_relu_mlp, slope=SLOPE, tma=tma), plain_mlp, matrices)
    context = BuildContext(vocab=VOCAB, dim=WIDTH, heads=HEADS, kv_heads=KV_HEADS)
    pair = ReferenceExclusiveGate(ExclusiveSelfAttention(context), SparseAttentionGate(context, scale=0.5)).to(
        device, torch.bfloat16
    )
    attended = [draw(1, tokens, HEADS, head), draw(1, tokens, WIDTH), draw(1, tokens, KV_HEADS, head)]
    yield KernelCase("exclusive self-attention and gate", FusedExclusiveGate(pair), pair, attended)
    ids = torch.randint(2, VOCAB, (rows, LENGTH), device=device)
    ids[torch.rand(ids.shape, device=device) < 1 / 700] = 1
    qkv = [draw(rows, LENGTH, heads, head) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    for name, fast, plain in fused_cores(context):
        SegmentCapacityManager(fast, 1, lambda line: None).ensure(ids.cpu())
        yield KernelCase(name, call_with_context(fast), call_with_context(plain), [*qkv, ids])


def fused_loss(z: Tensor, targets: Tensor) -> Tensor:
    return softcapped_cross_entropy(z, targets, CAP).mean()


def plain_loss(z: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((CAP * torch.tanh(z / CAP)).float(), targets)


def plain_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.leaky_relu(F.linear(x, up), SLOPE).square(), down)


def fused_cores(context: BuildContext) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """(name, fused core, reference core) for every attention core that is available; prints a line for each other."""
    masks = {"attention": (), "window": (part(SlidingWindowMask, left=256),), "segments": (part(SegmentMask),)}
    for what, masked in masks.items():
        plain = SDPACore(context, masks=masked)
        for core, make in fused_attention_cores(plain, compiled=True).items():
            try:
                yield f"{what}, {core}", make(plain), plain
            except ImportError as error:
                print(json.dumps({"bench": "kernels", "kernel": f"{what}, {core}", "error": str(error)}), flush=True)


def call_with_context(core: nn.Module) -> Function:
    """The core as a function of q, k, v and token ids."""
    return lambda q, k, v, ids: core(q, k, v, ForwardContext(ids))


def time_case(case: KernelCase) -> dict[str, Any]:
    """Times of both functions in alternating rounds, or the error of the one that fails."""
    torch._dynamo.reset()  # cases share code objects, and Dynamo keeps only a few graphs of each
    try:
        compiled = [torch.compile(f, fullgraph=True, dynamic=False) for f in (case.fused, case.reference)]
        times = [[forward_backward_ms(f, case.inputs) for f in compiled] for _ in range(ROUNDS + 1)][1:]
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"}
    fused, plain = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [b / a for a, b in times]
    return {
        "fused_ms": round(fused, 4),
        "plain_ms": round(plain, 4),
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def forward_backward_ms(f: Function, inputs: list[Tensor]) -> float:
    """Milliseconds of one forward and backward pass, averaged over `CALLS` calls."""
    leaves = [x for x in inputs if x.requires_grad]
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS):
        torch.autograd.grad(f(*inputs).float().square().sum(), leaves)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / CALLS


if __name__ == "__main__":
    main()
