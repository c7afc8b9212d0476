"""From one trained model to bytes, by the published way and by ours: `python bench/compression.py [--json]`.

For each seed a model of 5.3 million parameters is trained on English text, calibrated, and shrunk: first as most records
did (GPTQ, int6 with standard-deviation clips, int8 embedding, Brotli), then with one thing changed at a time, then with
all of it. Every scheme is brought to the bytes of the first, within 0.1 %, by its own knob, so the gaps (bits per byte
packed minus averaged, on the same held-out tokens) and divergences compare; the last line asks how few bytes ours needs
for the same gap.
What is trained, and what is measured, is not done again: stop it at any time. SMALL SCALE: it compares methods.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from compression_schemes import BASE, LENGTH, OURS, SCHEMES, CompressionScheme, compression_recipe
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import parameter_roles
from bitgolf.pack.streams import pack_tensors
from bitgolf.pipeline.calibration import calibrate
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training import average, train
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.encoding import context_models, decode_model, encode_model
from bitgolf.report.environment import collect_environment
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.score.execution.forward import kernel_selector
from bitgolf.score.methods import ContiguousScoring
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import load_validation

WINDOWS = 64


class TrainedModel:
    """A trained and calibrated model, and the held-out tokens on which its shrunk forms are scored."""

    def __init__(self, folder: Path, data: Path, seed: int, steps: int, tokens: int) -> None:
        run = Run(compression_recipe(steps), folder, RunLog(folder), seed, shards=data, resume=True)
        if not (folder / "calibration.safetensors").exists():
            run.completed["train"] = msgspec.to_builtins(train(run))
            average(run)
            calibrate(run)
        self.weights = load_file(folder / "averaged.safetensors")
        self.stats = load_calibration(folder / "calibration.safetensors")
        self.shapes = {path: tuple(w.shape) for path, w in self.weights.items()}
        self.text = load_validation(data).head(tokens)
        self.vocab = len(self.weights["embed.weight"])
        self.recipe = run.recipe
        self.kinds = parameter_roles(self.model({}))
        self.device = select_device()
        self.kernels = kernel_selector(self.device)
        self.averaged, self.reference = self.bpb(self.weights), self.predictions(self.weights)

    def model(self, weights: dict[str, Tensor]) -> Any:
        model = build_on_meta(self.recipe().model, self.vocab)
        model.load_state_dict(weights, assign=True, strict=bool(weights))
        return model.eval()

    def bpb(self, weights: dict[str, Tensor]) -> float:
        model = self.model({path: w.clone() for path, w in weights.items()})
        player = StaticPlayer(model, self.vocab, self.device, kernels=self.kernels)
        return score(player, self.text, ContiguousScoring(window=LENGTH)).bpb

    def predictions(self, weights: dict[str, Tensor]) -> Tensor:
        """(windows, length, vocabulary) log-probabilities of the first held-out windows."""
        rows = torch.from_numpy(self.text.tokens[: WINDOWS * LENGTH].copy()).view(WINDOWS, LENGTH)
        model = self.model(weights)
        with torch.inference_mode():
            return torch.cat([model(row[None]).float().log_softmax(-1) for row in rows])

    def kl_divergence(self, weights: dict[str, Tensor]) -> float:
        """KL divergence of the shrunk model's predictions from the averaged one's, in bits per byte. The gap also has the
        slope of the loss in it, which is noise of either sign: the weights are no minimum of the held-out loss."""
        other = self.predictions(weights)
        nats = (self.reference.exp() * (self.reference - other)).sum(-1).mean().item()
        return nats / math.log(2) * self.text.num_targets / self.text.bytes

    def shrink(self, scheme: CompressionScheme, log2_step_scale: float) -> tuple[int, dict[str, Any], float]:
        """(bytes of all sections, codes, seconds)."""
        rules, started = scheme.rules(log2_step_scale), time.perf_counter()
        codes = encode_model(self.weights, self.kinds, rules, self.stats)
        sections = pack_tensors(codes, self.kinds, scheme.coder, context_models(self.shapes, self.kinds, rules))
        return sum(len(s.data) for s in sections), codes, time.perf_counter() - started

    def measure(
        self, scheme: CompressionScheme, log2_step_scale: float, at: tuple[int, dict[str, Any], float] | None = None
    ) -> dict[str, Any]:
        size, codes, seconds = at or self.shrink(scheme, log2_step_scale)
        weights = decode_model(codes, self.shapes, self.kinds, scheme.rules(log2_step_scale))
        elements = sum(math.prod(shape) for shape in self.shapes.values())
        return {
            "scheme": scheme.name,
            "log2_step_scale": round(log2_step_scale, 4),
            "bytes": size,
            "bits_per_weight": round(8 * size / elements, 4),
            "gap": round(self.bpb(weights) - self.averaged, 6),
            "divergence": round(self.kl_divergence(weights), 6),
            "predicted": round(self.predicted(weights), 6),
            "seconds": round(seconds, 1),
        }

    def predicted(self, weights: dict[str, Tensor]) -> float:
        """What the calibration makes of the errors, in bits per byte."""
        nats = sum(float(known.cost(weights[path] - self.weights[path]).sum()) for path, known in self.stats.items())
        return nats / math.log(2) * self.text.num_targets / self.text.bytes

    def fit_bytes(self, scheme: CompressionScheme, wanted: int) -> dict[str, Any]:
        """Brought to so many bytes, within 0.1 %: doubling the step saves a bit per weight."""
        log2_step_scale, elements = 0.0, sum(math.prod(shape) for shape in self.shapes.values())
        found = self.shrink(scheme, log2_step_scale)
        while abs(found[0] - wanted) > wanted / 1000:
            log2_step_scale += 8 * (found[0] - wanted) / elements
            found = self.shrink(scheme, log2_step_scale)
        return self.measure(scheme, log2_step_scale, found)

    def fit_gap(self, scheme: CompressionScheme, wanted: float, log2_step_scale: float) -> dict[str, Any]:
        """The fewest bytes found whose gap is no larger: doubling the step makes the gap about four times as large."""
        best: dict[str, Any] = {}
        for _ in range(5):
            found = self.measure(scheme, log2_step_scale)
            if found["gap"] <= wanted and (not best or found["bytes"] < best["bytes"]):
                best = found
            if best and 0.93 * wanted <= best["gap"]:
                break
            log2_step_scale += 0.5 * math.log2(0.97 * wanted / max(found["gap"], 1e-5))
        return best


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All lines, those of earlier calls included."""
    out: Path = options.out
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    def keep(line: dict[str, Any]) -> dict[str, Any]:
        done.append({"bench": "compression", **line})
        with out.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(
            f"seed {line['seed']}: {line['scheme']}: {line['bytes']:,} bytes, gap {line['gap']:+.5f}", file=sys.stderr
        )
        return line

    for seed in options.seeds:
        mine = {line["scheme"]: line for line in done if line["seed"] == seed}
        wanted = [BASE, *SCHEMES, "fewest bytes"]
        if all(getattr(w, "name", w) in mine for w in wanted):
            continue
        subject = TrainedModel(options.folder / f"seed{seed}", options.data, seed, options.steps, options.tokens)
        about = {
            "seed": seed,
            "averaged": round(subject.averaged, 6),
            "tokens": options.tokens,
            "environment": collect_environment(),
        }
        if BASE.name not in mine:
            mine[BASE.name] = keep(about | subject.measure(BASE, 0.0))
        base = mine[BASE.name]
        for scheme in SCHEMES:
            if scheme.name not in mine:
                mine[scheme.name] = keep(about | subject.fit_bytes(scheme, base["bytes"]))
        if "fewest bytes" not in mine:
            start = mine[OURS.name]["log2_step_scale"] + 0.5 * math.log2(base["gap"] / mine[OURS.name]["gap"])
            keep(about | subject.fit_gap(OURS, base["gap"], start) | {"scheme": "fewest bytes"})
    return done


def table(lines: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds; the changes are against the first scheme of the same seed."""
    base = {line["seed"]: line for line in lines if line["scheme"] == BASE.name}
    rows = [
        "| scheme | bytes | gap | divergence | bytes, change | gap, change | divergence, change |",
        "|" + " --- |" * 7,
    ]
    for name in [BASE.name, *(s.name for s in SCHEMES), "fewest bytes"]:
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
    parser.add_argument("--text", nargs="+", default=["../shared/data/english.train.jsonl.zst"])
    parser.add_argument("--data", type=Path, default=Path("runs/ablate-data"), help="shards; made from the text where they are not there")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path("runs/compression"), help="where the trained models are")
    parser.add_argument("--out", type=Path, default=Path("results/compression.jsonl"))
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--tokens", type=int, default=65_536, help="held-out tokens to score")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if not (options.data / "manifest.json").exists():
        make = [sys.executable, "-m", "bitgolf", "data", "make", str(options.data), "--vocab", "1024"]
        subprocess.run([*make, *(word for text in options.text for word in ("--text", text))], check=True)
    lines = measure(options)
    print("\n".join(map(json.dumps, lines)) if options.json else table(lines))


if __name__ == "__main__":
    main()
