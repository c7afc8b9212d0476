"""How long the weights of a full-size model take to shrink and to come back: `python bench/encode.py [--json]`.

The shapes are those of a recipe (`pr1855`: 36 million parameters), the weights random, each input's Hessian that of
correlated inputs whose sizes differ, each output's importance log-normal: no training, but the very work that follows it.
One line for each stage: seconds, and the peak of this process's memory.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from typing import Any

import numpy as np
import torch

from bitgolf.environment import environment
from bitgolf.model.core import roles
from bitgolf.pack.coders import Range
from bitgolf.pack.streams import pack_codes, unpack_codes
from bitgolf.quantize.codec import Float
from bitgolf.quantize.codes import decode_all, encode_all, layout, walks
from bitgolf.quantize.stats import Stats
from bitgolf.quantize.trellis import Trellis
from bitgolf.recipes import get
from bitgolf.rules import Rule
from bitgolf.score.artifact import build_empty
from bitgolf.spec import part

SMALL = 65_536  # elements: below, and for what is no matrix, float16


def statistics(rows: int, columns: int, generator: torch.Generator) -> Stats:
    """Inputs with a 1/f spectrum in a random basis and log-normal sizes; twice as many tokens as columns."""
    basis = torch.randn(columns, columns, generator=generator) / torch.arange(1, columns + 1).sqrt()
    x = torch.randn(2 * columns, columns, generator=generator) @ basis
    x = x * torch.randn(columns, generator=generator).mul(0.5).exp()
    outputs = torch.randn(rows, generator=generator).exp() * 1e-5
    return Stats(x.T @ x / len(x), outputs, len(x))


def measure(name: str, states: int, bits: float) -> list[dict[str, Any]]:
    recipe = get(name)
    model = build_empty(recipe["model"], recipe["tokens.vocab"])
    kinds, generator = roles(model), torch.Generator().manual_seed(0)
    shapes = {path: tuple(p.shape) for path, p in model.named_parameters()}
    weights = {path: 0.1 * torch.randn(shape, generator=generator) for path, shape in shapes.items()}
    large = [path for path, w in weights.items() if w.dim() == 2 and w.numel() > SMALL]
    kinds = {path: "matrix" if path in large else f"small-{kind}" for path, kind in kinds.items()}
    stats, by_width = {}, dict[int, Stats]()
    for path in large:  # one Hessian for each width is enough to time the work, and holds memory to what q, k, v share
        rows, columns = shapes[path]
        known = by_width[columns] = by_width.get(columns) or statistics(rows, columns, generator)
        stats[path] = Stats(known.hessian.clone(), statistics(rows, 2, generator).outputs, known.tokens)
    rules = (
        part(Rule, where="matrix", use=part(Trellis, bits=bits, states=states)),
        part(Rule, where="*", use=part(Float, dtype="float16")),
    )
    coder, count = part(Range, levels=True), sum(math.prod(shapes[path]) for path in large)
    line = {"bench": "encode", "recipe": name, "states": states, "weights": count}
    lines = []

    def stage(stage: str, started: float, **more: Any) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        lines.append(
            line | {"stage": stage, "seconds": round(time.perf_counter() - started, 2), "peak_bytes": peak} | more
        )

    started = time.perf_counter()
    codes = encode_all(weights, kinds, rules, stats)
    stage("encode", started)
    started = time.perf_counter()
    sections = pack_codes(codes, kinds, coder, walks(shapes, kinds, rules))
    size = sum(len(s.data) for s in sections)
    stage("pack", started, bytes=size, bits_per_weight=round(8 * size / count, 4))
    started = time.perf_counter()
    found = unpack_codes(
        {s.name: s for s in sections}, layout(shapes, kinds, rules), kinds, coder, walks(shapes, kinds, rules)
    )
    stage("unpack", started)
    started = time.perf_counter()
    decode_all(found, shapes, kinds, rules)
    stage("decode", started)
    same = all(np.array_equal(codes[path][key], found[path][key]) for path in codes for key in codes[path])
    return [entry | {"bit_exact": same} for entry in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="pr1855")
    parser.add_argument("--states", type=int, default=256)
    parser.add_argument("--bits", type=float, default=3.3)
    parser.add_argument("--json", action="store_true", help="JSON lines")
    options = parser.parse_args()
    lines = measure(options.recipe, options.states, options.bits)
    if options.json:
        print(json.dumps({"bench": "encode", "environment": environment()}))
    for line in lines:
        print(
            json.dumps(line)
            if options.json
            else f"{line['stage']:8} {line['seconds']:8.1f} s   peak {line['peak_bytes'] / 1e9:.2f} GB"
        )


if __name__ == "__main__":
    main()
