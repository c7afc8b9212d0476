"""What the prior of table rows is worth: `python bench/row_prior.py --text FILE... [--seeds 0 1]`.

A small model with a hashed bigram table is trained on the text and calibrated twice on the same windows: without the
uses of rows in the training text (`usage_tokens=0`), and with them. Its weights are then encoded by the trellis codec
with each of the two statistics. Measured are the order-0 entropy of all codes, the KL divergence from the averaged model
on held-out text with its standard error, and the divergence that the statistics predict, for all tensors and for each
tensor alone. Lines are appended to the results after each pair of bits and prior, and what has lines is not repeated. `--table
FILE` prints the table of these lines and measures nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from corpus import add_text_options, corpus_id, shards_folder
from result_lines import Line, append_line, read_lines
from torch import Tensor
from trained_model import LENGTH, TrainedModel

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.manifest import load_manifest
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.pack.byte_planes import entropy_bits
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import CalibrationContext, TrainingText
from bitgolf.quantize.codecs.codec import Float
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import Rules, decode_model, encode_model
from bitgolf.quantize.stats import StatsByPath
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.environment import collect_environment

PRIORS = {"without": 0, "with": 50_000_000}
"""Name -> `Calibrate.usage_tokens`."""


def recipe(steps: int, buckets: int, width: int) -> Spec[Recipe]:
    """quickstart's model with a bigram table, for a number of steps."""
    found = get_recipe("quickstart").set("train.seconds", 0.0).set("train.steps", steps)
    table = part(HashedNGramEmbedding, buckets=buckets, width=width)
    return found.set("model.post_embed", (*found["model.post_embed"], table))


def rules(bits: float, states: int) -> Rules:
    return (
        part(Rule, where="scale", use=part(Float, dtype="float16")),
        part(Rule, where="*", use=part(TrellisCodec, bits=bits, states=states)),
    )


class PriorBench:
    """A trained model with its two calibrations."""

    def __init__(self, model: TrainedModel, data: Path, states: int) -> None:
        self.model, self.states = model, states
        subject = CalibrationContext(model.model(model.weights), data, LENGTH, load_manifest(data).bos)
        self.stats: dict[str, StatsByPath] = {
            name: Calibrate(source=part(TrainingText, batches=8), usage_tokens=tokens).collect(subject).stats
            for name, tokens in PRIORS.items()
        }
        self.session = EncodingSession()

    def lines(self, bits: float, prior: str) -> Iterator[Line]:
        stats = self.stats[prior]
        codes = encode_model(self.model.weights, self.model.kinds, rules(bits, self.states), stats, self.session)
        decoded = decode_model(codes, self.model.shapes, self.model.kinds, rules(bits, self.states))
        size = sum(entropy_bits(array) for code in codes.values() for array in code.values()) / 8
        about = {"bits": bits, "prior": prior, "entropy_bytes": round(size)}
        yield about | {"tensor": "all", **self.divergence(decoded, stats, list(stats))}
        for path in stats:
            alone = {**self.model.weights, path: decoded[path]}
            yield about | {"tensor": path, **self.divergence(alone, stats, [path])}

    def divergence(self, weights: dict[str, Tensor], stats: StatsByPath, paths: Sequence[str]) -> dict[str, Any]:
        """Measured and predicted divergence, in bits per byte."""
        other = self.model.predictions(weights)
        known = self.model.reference
        per_byte = self.model.text.num_targets / self.model.text.bytes / math.log(2)
        windows = (known.exp() * (known - other)).sum(-1).mean(1) * per_byte
        errors = {path: weights[path] - self.model.weights[path] for path in paths}
        predicted = sum(float(stats[path].cost(error).sum()) for path, error in errors.items()) * per_byte
        error = float(windows.std()) / math.sqrt(len(windows))
        return {
            "divergence": round(float(windows.mean()), 7),
            "standard_error": round(error, 7),
            "predicted": round(predicted, 7),
        }


def measure(options: argparse.Namespace) -> list[Line]:
    data = shards_folder(options)
    corpus = corpus_id(data)
    done = [line for line in read_lines(options.out) if line["corpus"] == corpus]
    for seed in options.seeds:
        have = {(line["bits"], line["prior"]) for line in done if line["seed"] == seed}
        missing = [pair for pair in product(options.bits, PRIORS) if pair not in have]
        if not missing:
            continue
        chosen = recipe(options.steps, options.buckets, options.width)
        folder = options.folder / f"{corpus}-seed{seed}"
        model = TrainedModel(folder, data, seed, chosen, options.tokens)
        about = {"bench": "row_prior", "corpus": corpus, "seed": seed, "steps": options.steps}
        machine = {"averaged": round(model.averaged, 6), "environment": collect_environment()}
        bench = PriorBench(model, data, options.states)
        for bits, prior in missing:
            for line in list(bench.lines(bits, prior)):  # all tensors before the first is written
                done.append(about | line | machine)
                append_line(options.out, done[-1])
    return done


def table(done: Sequence[Line]) -> str:
    """Divergence and prediction with and without the prior, mean and standard deviation over the seeds.

    Tensors with less than a twentieth of the largest divergence are left out. The last column is the largest ratio of
    measured to predicted divergence, or of its inverse, over all tensors above three standard errors.
    """
    rows = ["| tensor | bits | prior | entropy, bytes | divergence | predicted | largest ratio |", "|" + " --- |" * 7]
    whole = max(line["divergence"] for line in done)
    costly = {line["tensor"] for line in done if line["divergence"] >= whole / 20}
    for tensor in sorted(costly, key=lambda name: (name != "all", name)):
        for bits in sorted({line["bits"] for line in done}, reverse=True):
            for prior in PRIORS:
                alike = [line for line in done if (line["bits"], line["prior"]) == (bits, prior)]
                own = [line for line in alike if line["tensor"] == tensor]
                size = statistics.mean(line["entropy_bytes"] for line in own)
                found, predicted = (cell([line[key] for line in own]) for key in ("divergence", "predicted"))
                worst = f"{largest_ratio(alike):.2f}" if tensor == "all" else ""
                rows.append(f"| {tensor} | {bits:g} | {prior} | {size:,.0f} | {found} | {predicted} | {worst} |")
    return "\n".join(rows)


def largest_ratio(lines: Sequence[Line]) -> float:
    """The largest factor between measured and predicted divergence of a single tensor above three standard errors."""
    certain = [line for line in lines if line["tensor"] != "all" and line["divergence"] > 3 * line["standard_error"]]
    ratios = [line["divergence"] / max(line["predicted"], 1e-9) for line in certain]
    return max((max(ratio, 1 / ratio) for ratio in ratios), default=1.0)


def cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.5f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.5f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_text_options(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/row_prior"), help="where trained models are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/row_prior.jsonl"), help="file of the measured lines")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the table of a file of lines, measure nothing"
    )
    parser.add_argument("--steps", type=int, default=900, help="training steps of each model")
    parser.add_argument("--buckets", type=int, default=8192, help="rows of the table")
    parser.add_argument("--width", type=int, default=32, help="width of the table")
    parser.add_argument("--bits", type=float, nargs="+", default=[5.0, 3.0], help="mean bits per weight")
    parser.add_argument("--states", type=int, default=16, help="states of the trellis")
    parser.add_argument("--tokens", type=int, default=65_536, help="held-out tokens to score")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    print(table(read_lines(options.table) if options.table else measure(options)))


if __name__ == "__main__":
    main()
