"""Speed of portable arithmetic against torch: matrix products, and decoding as `compress` does it.

Usage: `python bench/portable.py [RECIPE ROWS]… [--window N] [--steps N]`, e.g. `quickstart 16 midsize 16`. Prints one JSON
line for each measurement: CPU seconds of one thread, medians of alternating rounds, so that other work on the machine
matters little. The models have random weights at full size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.lm import LM
from bitgolf.portable.functions import PortableFunctions
from bitgolf.portable.mode import portable_arithmetic
from bitgolf.recipes import get_recipe
from bitgolf.report.environment import collect_environment

PRODUCTS = ((1, 512, 1536), (16, 512, 1536), (64, 128, 384), (64, 512, 1536), (256, 512, 2048))
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=["quickstart", "16"], help="Recipes, each with a number of rows.")
    parser.add_argument("--window", type=int, default=256, help="Tokens of a window. Default: 256.")
    parser.add_argument("--steps", type=int, default=40, help="Decoded tokens of each round. Default: 40.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for line in products():
        print(json.dumps(line))
    for name, rows in zip(options.recipes[::2], options.recipes[1::2], strict=True):
        print(json.dumps(decoding(name, int(rows), options.window, options.steps)))
    print(json.dumps(collect_environment()))


def cpu_seconds(task: Callable[[], object], repeats: int) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    for _ in range(repeats):
        task()
    return (time.process_time() - started) / repeats


def products() -> Iterator[dict[str, object]]:
    """Yield GFLOP/s of x W^T for several shapes; W is packed once."""
    functions = PortableFunctions()
    for m, k, n in PRODUCTS:
        x, weight = torch.randn(m, k), torch.nn.Parameter(torch.randn(n, k))
        with torch.no_grad():
            rounds = [[gflops(linear, x, weight) for linear in (functions.linear, F.linear)] for _ in range(ROUNDS)]
        portable, native = (round(statistics.median(speeds), 1) for speeds in zip(*rounds, strict=True))
        yield {"bench": "portable products", "shape": [m, k, n], "gflops": {"portable": portable, "torch": native}}
    functions.close()


def gflops(linear: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> float:
    """Speed of a function that computes x W^T."""
    operations = 2e-9 * x.numel() * len(weight)
    return operations / cpu_seconds(lambda: linear(x, weight), max(1, int(0.02 / operations)))


def decoding(name: str, rows: int, window: int, steps: int) -> dict[str, object]:
    """Tokens per CPU second of `rows` texts that are decoded side by side, in both arithmetics."""
    recipe = get_recipe(name)()
    vocab = recipe.tokens().vocab
    model = recipe.model(BuildContext(vocab=vocab)).eval()
    contexts: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "torch": torch.no_grad,
        "portable": portable_arithmetic,
    }
    rounds = [
        {key: decode(model, vocab, rows, window, steps, made) for key, made in contexts.items()} for _ in range(3)
    ]
    speeds = {key: round(statistics.median(r[key] for r in rounds)) for key in contexts}
    ratio = round(speeds["torch"] / speeds["portable"], 2)
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "bench": "portable decoding",
        "recipe": name,
        "parameters": parameters,
        "rows": rows,
        "tokens_per_second": speeds,
        "ratio": ratio,
    }


def decode(
    model: LM, vocab: int, rows: int, window: int, steps: int, arithmetic: Callable[[], AbstractContextManager[object]]
) -> float:
    """Tokens per CPU second, by the median of the steps; the cache is half full."""
    chance, seconds = torch.Generator().manual_seed(0), list[float]()
    with arithmetic():
        decoder = IncrementalDecoder(model, rows, window, window // 4)
        decoder.prefill({i: torch.randint(vocab, (window // 2,), generator=chance) for i in range(rows)})
        for _ in range(steps):
            tokens = torch.randint(vocab, (rows,), generator=chance)
            seconds.append(
                cpu_seconds(lambda tokens=tokens: (decoder.step(tokens), decoder.logits.log_softmax(-1).exp()), 1)
            )
    return rows / statistics.median(seconds)


if __name__ == "__main__":
    main()
