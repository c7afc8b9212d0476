"""How near to the rate-distortion function of a Gaussian each scheme comes: `python bench/rate_distortion.py [--json] [--errors | --correlated]`.

Weights are independent and of unit variance, the same for all schemes. Bytes are those of the artifact that holds them:
codes, tables, scales, the container's framing. The mean square error is that of what the artifact decodes to.

gap: bits per weight above the least possible at that error, -½ log2(mse).  saving_vs_X: by how many percent the bytes
are fewer than those of uniform int6 coded with X at the same error. That is reckoned from the measured point of X along
the high-rate slope, 6.02 dB for a bit.

--correlated instead compares codecs on matrices with correlated inputs, WaterSIC's rates by input feature among them
(`bench/correlated_inputs.py`). --errors instead measures the mean square error of each trellis at high rate, in squared steps (`quantize.codecs.trellis.TRELLIS_MSE`).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import correlated_inputs
import numpy as np
import torch
from lrzip import lrzip_bytes
from torch import Tensor

from bitgolf.artifact.container import artifact_bytes, read_artifact
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.grids.clip import SdClip
from bitgolf.grids.trellis import PARITY_CHECKS, TrellisGrid
from bitgolf.pack.byte_coders import LZMA, Brotli, Raw, Zlib, Zstd
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.streams import pack_tensors, unpack_tensors
from bitgolf.quantize.codecs.bit_allocation import EqualRate
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.trellis import TRELLIS_MSE, TrellisCodec
from bitgolf.quantize.codecs.viterbi import best_path
from bitgolf.quantize.encoding import context_models, decode_model, encode_model, layout
from bitgolf.report.environment import collect_environment

ROWS, COLUMNS = (512, 512, 1024, 1024, 1024, 2048, 2048), 512  # 4,194,304 weights
TARGET, TOLERANCE = 3.31, 0.01  # bits per weight that every trellis is brought to
REFERENCE_CODERS = ("brotli", "zstd", "lrzip")
SEQUENCES, LENGTH, INPUT_RANGE = 256, 1 << 15, 100.0  # of --errors: uniform within so many steps

Row = dict[str, Any]


class QuantizerScheme(NamedTuple):
    name: str
    states: int  # 0: no trellis, so the rate is what it is
    coder: Spec[Coder] | None  # None: lrzip, which tells sizes only
    rate: float = 1.0

    def codec(self, bits: float) -> Spec[Codec]:
        if not self.states:
            return part(IntRows, bits=6, clip=part(SdClip, k=13.0))
        return part(
            TrellisCodec, bits=bits, states=self.states, rate_weight=self.rate, allocation=part(EqualRate), solver=None
        )


def schemes() -> Iterator[QuantizerScheme]:
    coders: dict[str, Spec[Coder] | None] = {
        "brotli": part(Brotli, quality=11),
        "zstd": part(Zstd, level=22),
        "lrzip": None,
        "zlib": part(Zlib, level=9),
        "lzma": part(LZMA, preset=9),
        "range": part(RangeCoder),
    }
    for name, coder in coders.items():
        yield QuantizerScheme(f"uniform int6, {name}", 0, coder)
    yield QuantizerScheme("uniform scalar", 1, part(RangeCoder), rate=0.0)
    for states in PARITY_CHECKS:
        yield QuantizerScheme(
            "rate-aware scalar" if states == 1 else f"trellis, {states} states", states, part(RangeCoder)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", action="store_true", help="one JSON line for each scheme, the environment before them"
    )
    parser.add_argument("--errors", action="store_true", help="measure ERROR instead (a minute or two)")
    parser.add_argument("--correlated", action="store_true", help="compare codecs on correlated inputs instead")
    parser.add_argument("--matrices", type=int, default=len(ROWS), help=f"only the first of the {len(ROWS)} matrices")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.correlated:
        rows = correlated_inputs.compare()
    else:
        rows = trellis_errors() if options.errors else compare_schemes(random_matrices(options.matrices))
    if options.json:
        print(json.dumps({"bench": "rate_distortion", "environment": collect_environment()}))
    for i, row in enumerate(rows):
        print(json.dumps(row) if options.json else format_row(row, head=not i), flush=True)


def random_matrices(matrices: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"w{i}": torch.randn(rows, COLUMNS, generator=generator) for i, rows in enumerate(ROWS[:matrices])}


def compare_schemes(weights: dict[str, Tensor]) -> Iterator[Row]:
    yardsticks: dict[str, Row] = {}
    for scheme in schemes():
        row = measure_at_target_rate(scheme, weights)
        name = scheme.name.rpartition(", ")[2]
        if name in REFERENCE_CODERS and "mse" in row:
            yardsticks[name] = row
        yield row | {f"saving_vs_{yard}": saving_percent(row, yardsticks.get(yard)) for yard in REFERENCE_CODERS}


def measure_at_target_rate(scheme: QuantizerScheme, weights: dict[str, Tensor]) -> Row:
    """A scheme with a rate to choose is run until it comes out at the target."""
    row: Row = {"scheme": scheme.name, "states": scheme.states}
    bits = TARGET
    try:
        while True:
            found = measure_once(scheme, bits, weights)
            missing = TARGET - found["bits_per_weight"]
            if not scheme.states or abs(missing) <= TOLERANCE:
                return row | found
            bits += missing
    except BitgolfError as error:
        return row | {"error": error.message}


def measure_once(scheme: QuantizerScheme, bits: float, weights: dict[str, Tensor]) -> Row:
    shapes = {path: tuple(w.shape) for path, w in weights.items()}
    roles, rules = dict.fromkeys(weights, "matrix"), (part(Rule, where="*", use=scheme.codec(bits)),)
    coder, start = scheme.coder or part(Raw), time.perf_counter()
    codes = encode_model(weights, roles, rules)
    sections = pack_tensors(codes, roles, coder, context_models(shapes, roles, rules))
    data = artifact_bytes(recipe={}, meta={}, sections=sections)
    middle = time.perf_counter()
    read = read_artifact(data).sections
    known = unpack_tensors(read, layout(shapes, roles, rules), roles, coder, context_models(shapes, roles, rules))
    decoded = decode_model(known, shapes, roles, rules)
    end = time.perf_counter()
    count = sum(w.numel() for w in weights.values())
    mse = sum(float((decoded[path] - w).double().square().sum()) for path, w in weights.items()) / count
    size = len(data) if scheme.coder else len(data) + sum(lrzip_overhead(section.data) for section in sections)
    rate = 8 * size / count
    return {
        "bits_per_weight": round(rate, 4),
        "mse": round(mse, 7),
        "gap_bits": round(rate + 0.5 * math.log2(mse), 4),
        "bytes": size,
        "encode_seconds": round(middle - start, 2) if scheme.coder else None,
        "decode_seconds": round(end - middle, 2) if scheme.coder else None,
    }


def lrzip_overhead(data: bytes) -> int:
    """How many bytes more it takes than `data` itself: a negative number where it compresses."""
    size = lrzip_bytes(data)
    if size is None:
        raise BitgolfError("lrzip is not installed")
    return size - len(data)


def saving_percent(row: Row, yardstick: Row | None) -> float | None:
    """Percent of the bytes that the yardstick would need at this row's error."""
    if yardstick is None or "mse" not in row:
        return None
    needed = yardstick["bits_per_weight"] + 0.5 * math.log2(yardstick["mse"] / row["mse"])
    return round(100 * (1 - row["bits_per_weight"] / needed), 2)


def trellis_errors() -> Iterator[Row]:
    """Uniform input is at high rate whatever the step; the search minds no bits."""
    x = np.random.default_rng(0).uniform(-INPUT_RANGE, INPUT_RANGE, (SEQUENCES, LENGTH)).astype(np.float32)
    free = np.zeros(LENGTH, np.float32)
    for states in PARITY_CHECKS:
        grid = TrellisGrid(states)
        each = np.array([np.square(sequence - 0.5 * best_path(grid, sequence, free)).mean() for sequence in x])
        found = float(each.mean())
        yield {
            "states": states,
            "error": round(found, 6),
            "standard_error": round(float(each.std()) / math.sqrt(SEQUENCES), 6),
            "gain_db": round(10 * math.log10(1 / 12 / found), 3),
            "table_value": TRELLIS_MSE[states],
        }


def format_row(row: Row, *, head: bool) -> str:
    """A row of the table for people, under its head."""
    width = [max(len(name), 22 if name == "scheme" else 9) for name in row]
    cells = "  ".join(f"{'' if v is None else v!s:<{w}}" for v, w in zip(row.values(), width, strict=True))
    return "  ".join(f"{name:<{w}}" for name, w in zip(row, width, strict=True)) + "\n" + cells if head else cells


if __name__ == "__main__":
    main()
