"""Model compression, the published way and ours: `python bench/compression.py [--text FILE...] [--json]`.

For each seed a model of 5.3 million parameters is trained, calibrated, and compressed: first like most records of the
challenge (GPTQ, int6 with standard-deviation clips, int8 embedding, Brotli), then with one thing changed at a time, then
with all changes. Every scheme is brought to the bytes of the first, within 0.1 %, by scaling its step sizes, so that gaps
(bits per byte of the packed model minus those of the averaged model, on the same held-out tokens) and KL divergences
compare. The last line is the smallest size at which our scheme has the gap of the first one.
Trained models and measured lines are kept and not repeated: the command may be stopped at any time. SMALL SCALE: the
figures compare methods with one another.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compression_schemes import BASE, OURS, SCHEMES, CompressionScheme, compression_recipe
from corpus import add_text_options, corpus_id, shards_folder
from result_lines import Line, append_line, read_lines
from trained_model import TrainedModel

from bitgolf.pack.streams import pack_tensors
from bitgolf.quantize.encoding import context_models, decode_model, encode_model
from bitgolf.report.environment import collect_environment

FEWEST = "fewest bytes"


class CompressedModel(TrainedModel):
    """The trained model, compressed by schemes and measured."""

    def compress(self, scheme: CompressionScheme, log2_step_scale: float) -> tuple[int, dict[str, Any], float]:
        """Return the bytes of all sections, the encoded tensors, and the seconds that it took."""
        rules, started = scheme.rules(log2_step_scale), time.perf_counter()
        codes = encode_model(self.weights, self.kinds, rules, self.stats)
        sections = pack_tensors(codes, self.kinds, scheme.coder, context_models(self.shapes, self.kinds, rules))
        return sum(len(s.data) for s in sections), codes, time.perf_counter() - started

    def measure(
        self, scheme: CompressionScheme, log2_step_scale: float, at: tuple[int, dict[str, Any], float] | None = None
    ) -> dict[str, Any]:
        size, codes, seconds = at or self.compress(scheme, log2_step_scale)
        weights = decode_model(codes, self.shapes, self.kinds, scheme.rules(log2_step_scale))
        elements = sum(math.prod(shape) for shape in self.shapes.values())
        return {
            "scheme": scheme.name,
            "log2_step_scale": round(log2_step_scale, 4),
            "bytes": size,
            "bits_per_weight": round(8 * size / elements, 4),
            "gap": round(self.bpb(weights) - self.averaged, 6),
            "divergence": round(self.kl_divergence(weights), 6),
            "predicted": round(self.predicted_gap(weights), 6),
            "seconds": round(seconds, 1),
        }

    def fit_bytes(self, scheme: CompressionScheme, wanted: int) -> dict[str, Any]:
        """Measure the scheme at `wanted` bytes, within 0.1 %. Doubling the step size saves one bit per weight."""
        log2_step_scale, elements = 0.0, sum(math.prod(shape) for shape in self.shapes.values())
        found = self.compress(scheme, log2_step_scale)
        while abs(found[0] - wanted) > wanted / 1000:
            log2_step_scale += 8 * (found[0] - wanted) / elements
            found = self.compress(scheme, log2_step_scale)
        return self.measure(scheme, log2_step_scale, found)

    def fit_gap(self, scheme: CompressionScheme, wanted: float, log2_step_scale: float) -> dict[str, Any]:
        """Measure the scheme at the smallest size found whose gap is at most `wanted`. Doubling the step size makes the gap about
        four times as large."""
        best: dict[str, Any] = {}
        for _ in range(5):
            found = self.measure(scheme, log2_step_scale)
            if found["gap"] <= wanted and (not best or found["bytes"] < best["bytes"]):
                best = found
            if best and 0.93 * wanted <= best["gap"]:
                break
            log2_step_scale += 0.5 * math.log2(0.97 * wanted / max(found["gap"], 1e-5))
        return best


def measure(options: argparse.Namespace) -> list[Line]:
    """Return all lines of this text, those of earlier calls included."""
    data, out = shards_folder(options), Path(options.out)
    corpus, lines = corpus_id(data), read_lines(out)

    def keep(line: Line) -> Line:
        lines.append({"bench": "compression", "corpus": corpus, **line})
        append_line(out, lines[-1])
        print(
            f"seed {line['seed']}: {line['scheme']}: {line['bytes']:,} bytes, gap {line['gap']:+.5f}", file=sys.stderr
        )
        return line

    for seed in options.seeds:
        done = {line["scheme"]: line for line in lines if (line["seed"], line.get("corpus")) == (seed, corpus)}
        if all(name in done for name in options.schemes):
            continue
        recipe = compression_recipe(options.steps, options.calibration_batches)
        model = CompressedModel(options.folder / corpus / f"seed{seed}", data, seed, recipe, options.tokens)
        measure_seed(model, options.schemes, done, seed, keep)
    return [line for line in lines if line.get("corpus") == corpus]


def measure_seed(
    model: CompressedModel, schemes: list[str], done: dict[str, Line], seed: int, keep: Callable[[Line], Line]
) -> None:
    """Measure the schemes that are not in `done`. The first one, whose bytes the others are brought to, is always measured."""
    about = {
        "seed": seed,
        "averaged": round(model.averaged, 6),
        "tokens": model.text.num_targets,
        "environment": collect_environment(),
    }
    if BASE.name not in done:
        done[BASE.name] = keep(about | model.measure(BASE, 0.0))
    base = done[BASE.name]
    for scheme in SCHEMES:
        if scheme.name in schemes and scheme.name not in done:
            done[scheme.name] = keep(about | model.fit_bytes(scheme, base["bytes"]))
    if FEWEST in schemes and FEWEST not in done:
        ours = done.get(OURS.name) or model.fit_bytes(OURS, base["bytes"])
        start = ours["log2_step_scale"] + 0.5 * math.log2(max(base["gap"], 1e-5) / max(ours["gap"], 1e-5))
        if fewest := model.fit_gap(OURS, max(base["gap"], 1e-5), start):
            keep(about | fewest | {"scheme": FEWEST})
        else:
            print(f"seed {seed}: found no size at which the gap is at most {base['gap']:.5f}", file=sys.stderr)


def table(lines: list[Line]) -> str:
    """Mean and standard deviation over the seeds; the changes are against the first scheme of the same seed."""
    base = {line["seed"]: line for line in lines if line["scheme"] == BASE.name}
    rows = [
        "| scheme | bytes | gap | divergence | bytes, change | gap, change | divergence, change |",
        "|" + " --- |" * 7,
    ]
    for name in [BASE.name, *(s.name for s in SCHEMES), FEWEST]:
        own = [line for line in lines if line["scheme"] == name]
        if not own:
            continue
        changes = [
            [100 * (line[key] / base[line["seed"]][key] - 1) for line in own] for key in ("bytes", "gap", "divergence")
        ]
        sizes, parts = (
            statistics.mean(line["bytes"] for line in own),
            [[line[key] for line in own] for key in ("gap", "divergence")],
        )
        cells = [
            f"{sizes:,.0f}",
            *(mean_and_std(x, ".5f") for x in parts),
            *(mean_and_std(change, "+.1f") + " %" for change in changes),
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def mean_and_std(values: list[float], form: str) -> str:
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values) if len(values) > 1 else 0:{form.lstrip('+')}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_text_options(parser)
    names = [BASE.name, *(scheme.name for scheme in SCHEMES), FEWEST]
    parser.add_argument("--folder", type=Path, default=Path("runs/compression"), help="where trained models are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/compression.jsonl"), help="file of the measured lines")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file of lines, such as results/compression.jsonl, and measure nothing")  # fmt: skip
    parser.add_argument("--schemes", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=640, help="training steps of each model")
    parser.add_argument("--calibration-batches", type=int, default=32, help="batches of 2,048 tokens for calibration")
    parser.add_argument("--tokens", type=int, default=65_536, help="held-out tokens to score")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (0: as many as it takes)")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    lines = read_lines(options.table) if options.table else measure(options)
    print("\n".join(map(json.dumps, lines)) if options.json else table(lines))


if __name__ == "__main__":
    main()
