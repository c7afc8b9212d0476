"""How long the weights of a full-size model take to shrink and to come back: `python bench/encode.py [--json]`.

`--codec gptq --coder smallest` is what #1855 did (GPTQ to int6, then whichever coder is smallest), the default our own best.

The shapes are those of a recipe (`pr1855`: 36 million parameters), the weights random, each input's Hessian that of
correlated inputs whose sizes differ, each output's importance log-normal: no training, but the very work that follows it.
One line for each stage: seconds, and the peak of this process's memory. `factor` is the part of encoding that a fit to a cap
does once, `encode` what it does again for every probe.
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

SMALL_ELEMENTS = 65_536  # elements: below, and for what is no matrix, float16


def random_stats(rows: int, columns: int, generator: torch.Generator) -> MatrixStats:
    """Inputs with a 1/f spectrum in a random basis and log-normal sizes; twice as many tokens as columns."""
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
    """Weights, what kind each tensor is, and what calibration might know of the matrices."""
    recipe = get_recipe(name)
    model = build_on_meta(recipe().model, recipe().tokens().vocab)
    kinds, generator = parameter_roles(model), torch.Generator().manual_seed(0)
    weights = {path: 0.1 * torch.randn(p.shape, generator=generator) for path, p in model.named_parameters()}
    large = [path for path, w in weights.items() if w.dim() == 2 and w.numel() > SMALL_ELEMENTS]
    kinds = {path: "matrix" if path in large else f"small-{kind}" for path, kind in kinds.items()}
    stats, by_width = {}, dict[int, MatrixStats]()
    for path in large:  # one Hessian for each width is enough to time the work, and holds memory to what q, k, v share
        rows, columns = weights[path].shape
        known = by_width[columns] = by_width.get(columns) or random_stats(rows, columns, generator)
        stats[path] = MatrixStats(known.hessian.clone(), random_stats(rows, 2, generator).output_fisher, known.tokens)
    return weights, kinds, stats


def measure(name: str, codec: Spec[Codec], coder: Spec[Coder], session: EncodingSession) -> list[dict[str, Any]]:
    weights, kinds, stats = random_model(name)
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
    codes = encode_model(weights, kinds, rules, stats, session)
    stage("encode")
    sections = pack_tensors(codes, kinds, coder, context_models(shapes, kinds, rules))
    size = sum(len(s.data) for s in sections)
    stage("pack", bytes=size, bits_per_weight=round(8 * size / count, 4))
    read = {s.name: s for s in sections}
    found = unpack_tensors(read, layout(shapes, kinds, rules), kinds, coder, context_models(shapes, kinds, rules))
    stage("unpack")
    decode_model(found, shapes, kinds, rules)
    stage("decode")
    same = all(np.array_equal(codes[path][key], found[path][key]) for path in codes for key in codes[path])
    return [entry | {"bit_exact": same} for entry in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="pr1855")
    parser.add_argument("--codec", choices=CODECS, default="trellis")
    parser.add_argument("--coder", choices=CODERS, default="levels")
    parser.add_argument("--workers", type=int, help="threads for encoding (as many as torch has)")
    parser.add_argument("--device", type=torch.device, help="where matrices are factored and GPTQ runs (cpu)")
    parser.add_argument("--json", action="store_true", help="JSON lines")
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
