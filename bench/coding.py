"""Speed of `compress` and `decompress`: tokens and kilobytes per second, and the share of the machine's matrix products.

Usage: `python bench/coding.py [RECIPE ROWS]… [--method METHOD] [--window N] [--stride N] [--tokens N] [--portable]`, e.g.
`midsize 64 midsize 1`. Prints one JSON line for each. The models have random weights at full size, and the text is
random tokens: neither matters for speed. CPU seconds of one thread, so that other work on the machine matters little.

floor: the speed at which the matrix products of the model alone, each token read once, would run at the speed of a
product of 512 x 1,024 x 1,024 (`peak_gflops`). Nothing that computes this model with torch can be faster.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bitgolf.config.build_context import BuildContext
from bitgolf.model.lm import LM
from bitgolf.recipes import get_recipe
from bitgolf.report.environment import collect_environment
from bitgolf.runtime.threads import single_threaded
from bitgolf.score.coding.arithmetic import choose_arithmetic
from bitgolf.score.coding.coded_text import CodingTask, TextCodec, decode_text, encode_text
from bitgolf.score.coding.open_predictor import num_rows
from bitgolf.score.methods import ScoringMethod, SlidingScoring
from bitgolf.tokens.byte_tokenizer import ByteTokenizer

BYTES_PER_TOKEN = 2.69
"""Of English text with a SentencePiece vocabulary of 1,024 (docs/measurements.md)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["quickstart", "16"], help="recipes, each with a number of rows")
    parser.add_argument("--window", type=int, default=256, help="tokens of a window")
    parser.add_argument("--stride", type=int, default=128, help="targets of a window")
    parser.add_argument("--tokens", type=int, default=300, help="tokens of each document, one document for each row")
    parser.add_argument("--portable", action="store_true", help="portable arithmetic instead of torch's")
    parser.add_argument("--profile", action="store_true", help="print the functions that take longest")
    options = parser.parse_args()
    peak = peak_gflops()
    for name, rows in zip(options.recipes[::2], options.recipes[1::2], strict=True):
        method = SlidingScoring(window=options.window, stride=options.stride, isolated=True)
        lengths = [options.tokens - 8 * i % (options.tokens // 4) for i in range(int(rows))]
        line = measure(name, method, lengths, portable=options.portable, peak=peak, profile=options.profile)
        print(json.dumps(line))
    print(json.dumps(collect_environment()))


def peak_gflops() -> float:
    """Speed of a large matrix product on one thread, the best of several."""
    x, weight = torch.randn(512, 1024), torch.randn(1024, 1024)
    with single_threaded():
        return max(2e-9 * x.numel() * len(weight) / cpu_seconds(lambda: F.linear(x, weight)) for _ in range(20))


def cpu_seconds(task: object) -> float:
    """CPU seconds of one call."""
    assert callable(task)
    started = time.process_time()
    task()
    return time.process_time() - started


def measure(
    name: str, method: ScoringMethod, lengths: Sequence[int], *, portable: bool, peak: float, profile: bool
) -> dict[str, object]:
    """Encode and decode random documents of so many tokens, side by side."""
    task, documents = coding_task(name, method, lengths, portable)
    encode_text(task._replace(documents=1, tokens=9, lengths=[9], rows=1), [documents[0][:8]])  # compiles, allocates
    profiler = cProfile.Profile(time.process_time) if profile else None
    started = time.process_time()
    coded = profiler.runcall(encode_text, task, documents) if profiler else encode_text(task, documents)
    middle = time.process_time()
    restored = decode_text(task, coded.checksums, coded.payload, "")
    speeds = {"encode": task.tokens / (middle - started), "decode": task.tokens / (time.process_time() - middle)}
    assert all(np.array_equal(a, b) for a, b in zip(restored, documents, strict=True))
    if profiler:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    floor = 1e9 * peak / (2 * products(task.codec.model))
    return {
        "bench": "coding",
        "recipe": name,
        "parameters": sum(p.numel() for p in task.codec.model.parameters()),
        "method": [method.name, method.window, method.stride],
        "rows": task.rows,
        "tokens": task.tokens,
        "arithmetic": task.arithmetic.name,
        "tokens_per_second": {key: round(speed) for key, speed in speeds.items()},
        "kilobytes_per_second": {key: round(speed * BYTES_PER_TOKEN / 1000, 2) for key, speed in speeds.items()},
        "peak_gflops": round(peak, 1),
        "floor_tokens_per_second": round(floor),
        "share_of_floor": {key: round(speed / floor, 3) for key, speed in speeds.items()},
    }


def coding_task(
    name: str, method: ScoringMethod, lengths: Sequence[int], portable: bool
) -> tuple[CodingTask, list[npt.NDArray[np.int32]]]:
    """The task of coding random documents with an untrained model."""
    recipe = get_recipe(name)()
    vocab = recipe.tokens().vocab
    codec = TextCodec(recipe.model(BuildContext(vocab=vocab)).eval(), ByteTokenizer(), b"12345678", ())
    chance = np.random.default_rng(0)
    documents = [chance.integers(4, vocab, length).astype(np.int32) for length in lengths]
    ends, rows = [length + 1 for length in lengths], num_rows(method, len(lengths), len(lengths))
    return CodingTask(
        codec, choose_arithmetic(method, portable), method, len(lengths), rows, sum(ends), ends
    ), documents


def products(model: LM) -> int:
    """Multiplications of all matrix products for one token: elements of all matrices, and the head."""
    tied = model.embed.weight
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2 and p is not tied)
    return matrices + tied.numel()


if __name__ == "__main__":
    main()
