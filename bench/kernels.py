"""Fused kernels against their plain twins on a GPU, forward and backward: `python bench/kernels.py [--rows N]`.

Prints one JSON line a kernel: milliseconds of both (median of rounds taken in turn) and plain / fused as `ratio`, above 1
where the fused one is faster. Both are compiled, as in training. Without a CUDA device it prints one line that says so.
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
from torch.nn.attention import SDPBackend

from bitgolf.environment import environment
from bitgolf.kernels.leaky_mlp import leaky_mlp
from bitgolf.kernels.softcapped_ce import softcapped_cross_entropy
from bitgolf.model.core import Bus
from bitgolf.model.cores.flex import Flex
from bitgolf.model.cores.fused import Fused
from bitgolf.model.cores.sdpa import Sdpa, Segments, Window
from bitgolf.model.cores.segments import Room
from bitgolf.model.cores.varlen import Varlen
from bitgolf.spec import Place, part
from bitgolf.train.device import choose

ROUNDS, CALLS = 7, 10
WIDTH, HEADS, KV_HEADS, LENGTH, VOCAB, CAP, SLOPE = 512, 8, 4, 2048, 8192, 30.0, 0.5
Function = Callable[..., Tensor]


class Case(NamedTuple):
    """A fused function, its plain twin, and what both are called with."""

    name: str
    fused: Function
    plain: Function
    inputs: list[Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16, help=f"sequences of {LENGTH} tokens")
    options = parser.parse_args()
    device = choose()
    if device.device.type != "cuda":
        print(json.dumps({"bench": "kernels", "skipped": device.why}))
        return
    where = {"device": device.why, "environment": environment()}
    for case in cases(options.rows, device.device):
        print(json.dumps({"bench": "kernels", "kernel": case.name, **measured(case), **where}), flush=True)


def cases(rows: int, device: torch.device) -> Iterator[Case]:
    torch.manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()

    tokens = rows * LENGTH
    targets = torch.randint(VOCAB, (tokens,), device=device)
    yield Case("softcapped cross-entropy", fused_loss, plain_loss, [draw(tokens, VOCAB), targets])
    matrices = [draw(tokens, WIDTH), draw(4 * WIDTH, WIDTH), draw(WIDTH, 4 * WIDTH)]
    yield Case("leaky MLP", partial(leaky_mlp, slope=SLOPE), plain_mlp, matrices)
    ids = torch.randint(2, VOCAB, (rows, LENGTH), device=device)
    ids[torch.rand(ids.shape, device=device) < 1 / 700] = 1
    qkv = [draw(rows, LENGTH, heads, WIDTH // HEADS) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    for name, fast, core in cores():
        yield Case(name, around(fast), around(core), [*qkv, ids])


def fused_loss(z: Tensor, targets: Tensor) -> Tensor:
    return softcapped_cross_entropy(z, targets, CAP).mean()


def plain_loss(z: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((CAP * torch.tanh(z / CAP)).float(), targets)


def plain_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.leaky_relu(F.linear(x, up), SLOPE).square(), down)


def cores() -> Iterator[tuple[str, nn.Module, nn.Module]]:
    build: Any = partial(Sdpa, Place(vocab=VOCAB, dim=WIDTH, heads=HEADS, kv_heads=KV_HEADS))
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        yield f"attention, {backend.name}", Fused(build(), backend), build()
    for name, mask in {"window": part(Window, width=256), "segments": part(Segments)}.items():
        plain = build(masks=(mask,))
        varlen = Varlen(plain)
        varlen.room = Room(512, LENGTH)
        yield f"{name}, variable-length", varlen, plain
        yield f"{name}, FlexAttention", Flex(plain), plain


def around(core: nn.Module) -> Function:
    return lambda q, k, v, ids: core(q, k, v, Bus(ids))


def measured(case: Case) -> dict[str, Any]:
    """Times of both twins in turn, or why one of them cannot run."""
    try:
        twins = [torch.compile(f, fullgraph=True, dynamic=False) for f in (case.fused, case.plain)]
        times = [[timed(f, case.inputs) for f in twins] for _ in range(ROUNDS + 1)][1:]
    except Exception as error:
        return {"unable": f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"}
    fused, plain = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [b / a for a, b in times]
    return {
        "fused_ms": round(fused, 4),
        "plain_ms": round(plain, 4),
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def timed(f: Function, inputs: list[Tensor]) -> float:
    """Milliseconds of one forward and backward, over some calls."""
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
