"""Time to quantize, pack, unpack and dequantize the weights of a full-size model, without training it.

Usage: `python bench/encode.py [--json]`. `--codec gptq --coder smallest` corresponds to #1855 (GPTQ to int6, then the
smallest of several coders); the default is trellis quantization and a range coder.

The shapes are those of a recipe (`pr1855`: 36 million parameters). Weights are random, Hessians are those of correlated
inputs of different size, and the sensitivity of outputs is log-normal. Prints one line per stage: seconds, and peak
memory of this process. `factor` is the part of encoding that `bitgolf pack` does once, `encode` the part that it
repeats for every probe.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SdClip
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import parameter_roles
from bitgolf.pack import parallel
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.streams import pack_tensors, unpack_tensors
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import context_models, decode_model, encode_model, layout
from bitgolf.quantize.stats import MatrixStats
from bitgolf.recipes import get_recipe
from bitgolf.report.environment import collect_environment

SMALL_ELEMENTS = 65_536  # matrices of up to this size, and tensors that are no matrix, are stored in float16


def random_stats(rows: int, columns: int, generator: torch.Generator) -> MatrixStats:
    """Statistics of a (rows, columns) matrix from random inputs.

    The inputs have a 1/f spectrum in a random basis and columns of log-normal size; there are 2 x columns tokens.
    """
    basis = torch.randn(columns, columns, generator=generator) / torch.arange(1, columns + 1).sqrt()
    x = torch.randn(2 * columns, columns, generator=generator) @ basis
    x = x * torch.randn(columns, generator=generator).mul(0.5).exp()
    outputs = torch.randn(rows, generator=generator).exp() * 1e-5
    return MatrixStats(x.T @ x / len(x), outputs, len(x))


CODECS: dict[str, Spec[Codec]] = {
    "trellis": part(TrellisCodec, bits=3.3, states=256),
    "gptq": part(IntRows, bits=6, clip=part(SdClip, k=12.85), solver=part(GPTQ)),
}
CODERS: dict[str, Spec[Coder]] = {
    "levels": part(RangeCoder, variance_contexts=True),
    "smallest": part(SmallestCoder, coders=(part(RangeCoder), part(Brotli))),
}


def random_model(name: str) -> tuple[dict[str, Tensor], dict[str, str], dict[str, MatrixStats]]:
    """(weights, role of each tensor, statistics of the large matrices), all by path, for the shapes of a recipe."""
    recipe = get_recipe(name)
    model = build_on_meta(recipe().model, recipe().tokens().vocab)
    roles, generator = parameter_roles(model), torch.Generator().manual_seed(0)
    weights = {path: 0.1 * torch.randn(p.shape, generator=generator) for path, p in model.named_parameters()}
    large = [path for path, w in weights.items() if w.dim() == 2 and w.numel() > SMALL_ELEMENTS]
    roles = {path: "matrix" if path in large else f"small-{role}" for path, role in roles.items()}
    stats, by_width = {}, dict[int, MatrixStats]()
    for path in large:  # one Hessian for each width: enough for timing, and q, k and v share one as in a real run
        rows, columns = weights[path].shape
        known = by_width[columns] = by_width.get(columns) or random_stats(rows, columns, generator)
        stats[path] = MatrixStats(known.hessian.clone(), random_stats(rows, 2, generator).output_fisher, known.tokens)
    return weights, roles, stats


def measure(name: str, codec: Spec[Codec], coder: Spec[Coder], session: EncodingSession) -> list[dict[str, Any]]:
    """One line per stage; `bit_exact` tells whether the codes were restored exactly."""
    weights, roles, stats = random_model(name)
    shapes = {path: tuple(w.shape) for path, w in weights.items()}
    rules = part(Rule, where="matrix", use=codec), part(Rule, where="*", use=part(Float, dtype="float16"))
    count = sum(weights[path].numel() for path in stats)
    line = {"bench": "encode", "recipe": name, "codec": repr(codec), "coder": repr(coder), "weights": count}
    line |= {"workers": session.workers, "device": str(session.device), "packing_threads": parallel.cpu_count()}
    lines, started = [], time.perf_counter()

    def stage(stage: str, **more: Any) -> None:
        nonlocal started
        seconds, started = time.perf_counter() - started, time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        lines.append(line | {"stage": stage, "seconds": round(seconds, 2), "peak_bytes": peak} | more)

    stats = session.to_device(stats)
    list(session.map(lambda known: known.factorize(GPTQ()), stats.values()))
    stage("factor")
    codes = encode_model(weights, roles, rules, stats, session)
    stage("encode")
    sections = pack_tensors(codes, roles, coder, context_models(shapes, roles, rules))
    size = sum(len(s.data) for s in sections)
    stage("pack", bytes=size, bits_per_weight=round(8 * size / count, 4))
    read = {s.name: s for s in sections}
    found = unpack_tensors(read, layout(shapes, roles, rules), roles, coder, context_models(shapes, roles, rules))
    stage("unpack")
    decode_model(found, shapes, roles, rules)
    stage("decode")
    same = all(np.array_equal(codes[path][key], found[path][key]) for path in codes for key in codes[path])
    return [entry | {"bit_exact": same} for entry in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="pr1855", help="Recipe whose shapes are used. Default: pr1855.")
    parser.add_argument("--codec", choices=CODECS, default="trellis", help="Codec of the matrices. Default: trellis.")
    parser.add_argument("--coder", choices=CODERS, default="levels", help="Coder of the streams. Default: levels.")
    parser.add_argument("--workers", type=int, help="Threads for encoding. Default: as many as PyTorch uses.")
    parser.add_argument("--device", type=torch.device, help="Device for factorization and GPTQ. Default: cpu.")
    parser.add_argument("--json", action="store_true", help="Print JSON lines instead of a table.")
    options = parser.parse_args()
    session = EncodingSession(options.workers, options.device)
    lines = measure(options.recipe, CODECS[options.codec], CODERS[options.coder], session)
    if options.json:
        print(json.dumps({"bench": "encode", "environment": collect_environment()}))
    for line in lines:
        print(
            json.dumps(line)
            if options.json
            else f"{line['stage']:8} {line['seconds']:8.1f} s   peak {line['peak_bytes'] / 1e9:.2f} GB"
        )


if __name__ == "__main__":
    main()
