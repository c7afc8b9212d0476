"""Kinds of Hessians at equal bytes: `python bench/hessians.py --text FILE... [--seeds 0 1 2]`.

quickstart's model, trained for `--steps` steps (the state of `bench/last_phase.py` is used), is calibrated with the
Hessians of the inputs, with those weighted by output gradients (GuidedQuant), and with Kronecker products (YAQA). GPTQ
with the published rules and the trellis codec encode it with each; the trellis codec is brought to the bytes of GPTQ
with the Hessians of the inputs, within 0.5 %. Each measurement appends a line to the results file, and what has a line
is not repeated. `--table FILE` prints the table of these lines. SMALL SCALE: the figures compare methods.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import last_phase
import torch
from compression_schemes import allocated_rules, published_rules
from corpus import add_text_options, corpus_id, shards_folder
from last_phase import LastPhaseSetting, PackedMeasurement, Weights, ends
from result_lines import Line, append_line, read_lines

from bitgolf.config.spec import Spec, part
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.hessians import GuidedHessians, HessianKind, KroneckerHessians
from bitgolf.quantize.encoding import Rules
from bitgolf.report.environment import collect_environment

BITS_PER_DOUBLING = 1.0
"""Bits per weight that a step of twice the size saves."""


class HessianScheme(NamedTuple):
    """rules: function from log2_step_scale (larger is coarser) to quantization rules."""

    name: str
    rules: Callable[[float], Rules]
    hessians: Spec[HessianKind] | None = None


GPTQ_INPUTS = HessianScheme("GPTQ, inputs", published_rules)
TRELLIS = allocated_rules(256, 0.0)
SCHEMES = (
    GPTQ_INPUTS,
    HessianScheme("GPTQ, GuidedQuant, 4 groups", published_rules, part(GuidedHessians, row_groups=4)),
    HessianScheme("GPTQ, YAQA", published_rules, part(KroneckerHessians)),
    HessianScheme("trellis, inputs", TRELLIS),
    HessianScheme("trellis, GuidedQuant, 1 group", TRELLIS, part(GuidedHessians, row_groups=1)),
)


def measure(options: argparse.Namespace) -> list[Line]:
    setting = LastPhaseSetting(shards_folder(options), options.folder, options.steps, 1, options.tokens)
    corpus, packed = corpus_id(setting.data), PackedMeasurement(setting)
    done = [line for line in read_lines(options.out) if (line["corpus"], line["steps"]) == (corpus, options.steps)]
    for seed in options.seeds:
        have = {(line["scheme"], line["log2_step_scale"]) for line in done if line["seed"] == seed}
        missing = [s for s in SCHEMES if any((s.name, scale) not in have for scale in options.scales)]
        weights = ends(setting, seed, 0.0)[next(iter(last_phase.AVERAGES))] if missing else {}
        for scheme in missing:
            calibrate = last_phase.CALIBRATE.replace(hessians=scheme.hessians)
            for scale in options.scales:
                sizes = {
                    e["log2_step_scale"]: e["bytes"]
                    for e in done
                    if (e["seed"], e["scheme"]) == (seed, GPTQ_INPUTS.name)
                }
                found = fitted(packed, weights, scheme, calibrate, scale, sizes.get(scale, 0))
                about = {"bench": "hessians", "corpus": corpus, "steps": options.steps, "seed": seed}
                done.append(about | {"scheme": scheme.name, "log2_step_scale": scale} | found)
                append_line(options.out, done[-1] | {"environment": collect_environment()})
    return done


def fitted(
    packed: PackedMeasurement,
    weights: Weights,
    scheme: HessianScheme,
    calibrate: Spec[Calibrate],
    scale: float,
    size: int,
) -> Line:
    """A measurement; rules of the trellis are brought to `size` bytes."""
    elements = sum(w.numel() for w in weights.values())
    (line,) = packed.lines(weights, [scheme.rules(scale)], calibrate)
    while scheme.rules is TRELLIS and abs(line["bytes"] - size) > size / 200:
        scale += 8 * (line["bytes"] - size) / elements / BITS_PER_DOUBLING
        (line,) = packed.lines(weights, [scheme.rules(scale)], calibrate)
    return line


def table(lines: Sequence[Line]) -> str:
    """Bytes and increase of the bits per byte by packing, mean and standard deviation over the seeds."""
    rows = ["| step scale | scheme | bytes | bits per byte, increase |", "|" + " --- |" * 4]
    for scale in sorted({line["log2_step_scale"] for line in lines}):
        for scheme in SCHEMES:
            own = [e for e in lines if (e["scheme"], e["log2_step_scale"]) == (scheme.name, scale)]
            if not own:
                continue
            gaps = [e["packed"] - e["unpacked"] for e in own]
            spread = f" ± {statistics.stdev(gaps):.5f}" if len(gaps) > 1 else ""
            size = statistics.mean(e["bytes"] for e in own)
            rows.append(f"| {2**scale:g} | {scheme.name} | {size:,.0f} | {statistics.mean(gaps):.5f}{spread} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_text_options(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/last_phase"), help="where trained states are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/hessians.jsonl"), help="file of the measured lines")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the table of a file of lines, measure nothing"
    )
    parser.add_argument("--steps", type=int, default=600, help="training steps of each model")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 1.0], help="log2 of the scales of all steps")
    parser.add_argument("--tokens", type=int, default=32_768, help="held-out tokens to score")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(table(read_lines(options.table) if options.table else measure(options)))


if __name__ == "__main__":
    main()
