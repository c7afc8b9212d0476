"""What the prior of table rows is worth: `python bench/row_prior.py --text FILE... [--seeds 0 1]`.

A small model with a hashed bigram table is trained on the text and calibrated twice on the same windows: without the
uses of rows in the training text (`usage_tokens=0`), and with them. Its weights are then encoded by the trellis codec
with each of the two statistics. Measured are the order-0 entropy of all codes, the KL divergence from the averaged model
on held-out text with its standard error, and the divergence that the statistics predict, for all tensors and for each
tensor alone. Lines are appended to the results as they are measured; seeds with all lines are not repeated. `--table
FILE` prints the table of these lines and measures nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
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

    def lines(self, bits: float) -> Iterator[Line]:
        for prior, stats in self.stats.items():
            codes = encode_model(self.model.weights, self.model.kinds, rules(bits, self.states), stats, self.session)
            decoded = decode_model(codes, self.model.shapes, self.model.kinds, rules(bits, self.states))
            size = sum(entropy_bits(array) for code in codes.values() for array in code.values()) / 8
            about = {"prior": prior, "bits": bits, "entropy_bytes": round(size)}
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
        if {line["bits"] for line in done if line["seed"] == seed} >= set(options.bits):
            continue
        chosen = recipe(options.steps, options.buckets, options.width)
        folder = options.folder / f"{corpus}-seed{seed}"
        model = TrainedModel(folder, data, seed, chosen, options.tokens)
        about = {"bench": "row_prior", "corpus": corpus, "seed": seed, "steps": options.steps}
        machine = {"averaged": round(model.averaged, 6), "environment": collect_environment()}
        bench = PriorBench(model, data, options.states)
        for bits in options.bits:
            for line in bench.lines(bits):
                done.append(about | line | machine)
                append_line(options.out, done[-1])
    return done


def table(done: Sequence[Line]) -> str:
    """Divergence and prediction with and without the prior, mean and standard deviation over the seeds."""
    rows = ["| tensor | bits | prior | entropy, bytes | divergence | predicted |", "|" + " --- |" * 6]
    for tensor in dict.fromkeys(line["tensor"] for line in done):
        for bits in sorted({line["bits"] for line in done}, reverse=True):
            for prior in PRIORS:
                own = [x for x in done if (x["tensor"], x["bits"], x["prior"]) == (tensor, bits, prior)]
                if own:
                    size = statistics.mean(x["entropy_bytes"] for x in own)
                    found, foretold = (cell([x[key] for x in own]) for key in ("divergence", "predicted"))
                    rows.append(f"| {tensor} | {bits:g} | {prior} | {size:,.0f} | {found} | {foretold} |")
    return "\n".join(rows)


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
