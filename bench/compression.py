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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.edits import but
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import Shuffled
from bitgolf.grids.clip import SdClip
from bitgolf.grids.scales import HalfScale, LogScale
from bitgolf.model.attention.attention import Attention, QGain
from bitgolf.model.build import build_on_meta
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.model.parameters import roles
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import Ramp, WarmdownFraction
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coders import Coder, Range
from bitgolf.pack.streams import pack_codes
from bitgolf.pipeline.calibration import calibrate
from bitgolf.pipeline.execute import Run
from bitgolf.pipeline.stages import average, train
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.codecs.bit_allocation import EqualCost, EqualRate
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.codecs.gptq import Gptq
from bitgolf.quantize.codecs.trellis import Trellis
from bitgolf.quantize.encoding import decode_all, encode_all, walks
from bitgolf.recipes import get
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.environment import environment
from bitgolf.report.log import Journal
from bitgolf.runtime.device import choose
from bitgolf.score.methods import Contiguous
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import validation

LENGTH, WINDOWS = 256, 64
Rules = tuple[Spec[Rule], ...]


class Scheme(NamedTuple):
    """`rules` of a knob, in octaves of step: larger is coarser. `coder`: of every stream."""

    name: str
    rules: Callable[[float], Rules]
    coder: Spec[Coder]


def recipe(steps: int) -> Spec[Recipe]:
    """The challenge's baseline with seven layers of width 256 and four times that in the MLP: 5,316,380 parameters."""
    found = get("baseline").but(name="shrink", published=None).set("model.layers", 7).set("model.dim", 256)
    found = found.edit(MLP, but(hidden=1024, act=part(LeakySquared, slope=0.5)))
    found = found.edit(Attention, but(heads=4, kv_heads=2)).edit(QGain, but(init=2.0))
    momentum = part(Ramp, start=0.85, end=0.95, steps=200)
    optim = (
        part(Rule, where="matrix", use=part(Muon, lr=0.03, weight_decay=0.04, momentum=momentum)),
        part(Rule, where="*", use=part(Adam, lr=0.02)),
    )
    limits = but(
        seconds=0.0, steps=steps, rows=16, micro_rows=8, length=LENGTH, order=part(Shuffled), optim=optim, checkpoint_seconds=120.0
    )  # fmt: skip
    found = found.edit("train", limits).set("train.schedule", part(WarmdownFraction, fraction=0.5))
    source = part(TrainingText, batches=32, rows=8, length=LENGTH)
    return found.but(quantize=published(0.0), calibrate=part(Calibrate, source=source))


def with_scales(*others: Spec[Rule]) -> Rules:
    return (part(Rule, where="scale", use=part(Float, dtype="float16")), *others)


def published(octaves: float, scales: Any = HalfScale) -> Rules:
    """As openai/parameter-golf, pull request 1394, and most after it."""
    k, solve = 2.0**octaves, part(Gptq)
    rounded = [
        part(IntRows, bits=bits, clip=part(SdClip, k=k * clip), solve=solve, scales=part(scales))
        for bits, clip in ((8, 20.0), (6, 12.85))
    ]
    return with_scales(part(Rule, where="embedding", use=rounded[0]), part(Rule, where="*", use=rounded[1]))


def trellis_alone(octaves: float) -> Rules:
    """The published shares of bits, 4.7 for the embedding and 3.3 for the rest."""
    rows = part(EqualRate)
    return with_scales(
        part(Rule, where="embedding", use=part(Trellis, bits=4.715 - octaves, allocate=rows)),
        part(Rule, where="*", use=part(Trellis, bits=3.328 - octaves, allocate=rows)),
    )


def allocated(states: int, rate: float, **which: bool) -> Callable[[float], Rules]:
    steps = part(EqualCost, **which)
    return lambda octaves: with_scales(
        part(Rule, where="*", use=part(Trellis, bits=3.4 - octaves, states=states, rate=rate, allocate=steps))
    )


BASE = Scheme("GPTQ int6, SdClip, Brotli", published, part(Brotli))
ALL = Scheme("all of ours", allocated(256, 0.0), part(Range, levels=True))
SCHEMES = (
    Scheme("scales alone: log-coded", lambda octaves: published(octaves, LogScale), part(Brotli)),
    Scheme("coder alone: range coder", published, part(Range)),
    Scheme("coder alone: range coder, levels", published, part(Range, levels=True)),
    Scheme("trellis alone: 256 states", trellis_alone, part(Brotli)),
    Scheme("allocation alone", allocated(1, 0.0), part(Brotli)),
    Scheme("allocation, range coder, levels", allocated(1, 0.0), part(Range, levels=True)),
    Scheme("the same, by matrices only", allocated(1, 0.0, rows=False, columns=False), part(Range, levels=True)),
    Scheme("all of ours, 8 states", allocated(8, 0.0), part(Range, levels=True)),
    Scheme("all of ours, mindful of bits", allocated(256, 1.0), part(Range, levels=True)),
    ALL,
)


class Subject:
    """A trained and calibrated model, and the held-out tokens on which its shrunk forms are scored."""

    def __init__(self, folder: Path, data: Path, seed: int, steps: int, tokens: int) -> None:
        run = Run(recipe(steps), folder, Journal(folder), seed, shards=data, resume=True)
        if not (folder / "calibration.safetensors").exists():
            run.done["train"] = train(run)
            average(run)
            calibrate(run)
        self.weights = load_file(folder / "averaged.safetensors")
        self.stats = load_calibration(folder / "calibration.safetensors")
        self.shapes = {path: tuple(w.shape) for path, w in self.weights.items()}
        self.text = validation(data).head(tokens)
        self.vocab = len(self.weights["embed.weight"])
        self.recipe = run.recipe
        self.kinds = roles(self.model({}))
        self.averaged, self.reference = self.bpb(self.weights), self.predictions(self.weights)

    def model(self, weights: dict[str, Tensor]) -> Any:
        model = build_on_meta(self.recipe["model"], self.vocab)
        model.load_state_dict(weights, assign=True, strict=bool(weights))
        return model.eval()

    def bpb(self, weights: dict[str, Tensor]) -> float:
        player = StaticPlayer(self.model({path: w.clone() for path, w in weights.items()}), self.vocab, choose())
        return score(player, self.text, Contiguous(window=LENGTH)).bpb

    def predictions(self, weights: dict[str, Tensor]) -> Tensor:
        """(windows, length, vocabulary) log-probabilities of the first held-out windows."""
        rows = torch.from_numpy(self.text.tokens[: WINDOWS * LENGTH].copy()).view(WINDOWS, LENGTH)
        model = self.model(weights)
        with torch.inference_mode():
            return torch.cat([model(row[None]).float().log_softmax(-1) for row in rows])

    def divergence(self, weights: dict[str, Tensor]) -> float:
        """KL divergence of the shrunk model's predictions from the averaged one's, in bits per byte. The gap also has the
        slope of the loss in it, which is noise of either sign: the weights are no minimum of the held-out loss."""
        other = self.predictions(weights)
        nats = (self.reference.exp() * (self.reference - other)).sum(-1).mean().item()
        return nats / math.log(2) * self.text.targets / self.text.bytes

    def shrink(self, scheme: Scheme, octaves: float) -> tuple[int, dict[str, Any], float]:
        """(bytes of all sections, codes, seconds)."""
        rules, started = scheme.rules(octaves), time.perf_counter()
        codes = encode_all(self.weights, self.kinds, rules, self.stats)
        sections = pack_codes(codes, self.kinds, scheme.coder, walks(self.shapes, self.kinds, rules))
        return sum(len(s.data) for s in sections), codes, time.perf_counter() - started

    def measure(
        self, scheme: Scheme, octaves: float, at: tuple[int, dict[str, Any], float] | None = None
    ) -> dict[str, Any]:
        size, codes, seconds = at or self.shrink(scheme, octaves)
        weights = decode_all(codes, self.shapes, self.kinds, scheme.rules(octaves))
        elements = sum(math.prod(shape) for shape in self.shapes.values())
        return {
            "scheme": scheme.name,
            "octaves": round(octaves, 4),
            "bytes": size,
            "bits_per_weight": round(8 * size / elements, 4),
            "gap": round(self.bpb(weights) - self.averaged, 6),
            "divergence": round(self.divergence(weights), 6),
            "predicted": round(self.predicted(weights), 6),
            "seconds": round(seconds, 1),
        }

    def predicted(self, weights: dict[str, Tensor]) -> float:
        """What the calibration makes of the errors, in bits per byte."""
        nats = sum(float(known.cost(weights[path] - self.weights[path]).sum()) for path, known in self.stats.items())
        return nats / math.log(2) * self.text.targets / self.text.bytes

    def at_bytes(self, scheme: Scheme, wanted: int) -> dict[str, Any]:
        """Brought to so many bytes, within 0.1 %: an octave of step is a bit a weight."""
        octaves, elements = 0.0, sum(math.prod(shape) for shape in self.shapes.values())
        found = self.shrink(scheme, octaves)
        while abs(found[0] - wanted) > wanted / 1000:
            octaves += 8 * (found[0] - wanted) / elements
            found = self.shrink(scheme, octaves)
        return self.measure(scheme, octaves, found)

    def at_gap(self, scheme: Scheme, wanted: float, octaves: float) -> dict[str, Any]:
        """The fewest bytes found whose gap is no larger: an octave of step is about four times the gap."""
        best: dict[str, Any] = {}
        for _ in range(5):
            found = self.measure(scheme, octaves)
            if found["gap"] <= wanted and (not best or found["bytes"] < best["bytes"]):
                best = found
            if best and 0.93 * wanted <= best["gap"]:
                break
            octaves += 0.5 * math.log2(0.97 * wanted / max(found["gap"], 1e-5))
        return best


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All lines, those of earlier calls included."""
    out: Path = options.out
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    def keep(line: dict[str, Any]) -> dict[str, Any]:
        done.append({"bench": "shrink", **line})
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
        subject = Subject(options.folder / f"seed{seed}", options.data, seed, options.steps, options.tokens)
        about = {
            "seed": seed,
            "averaged": round(subject.averaged, 6),
            "tokens": options.tokens,
            "environment": environment(),
        }
        if BASE.name not in mine:
            mine[BASE.name] = keep(about | subject.measure(BASE, 0.0))
        base = mine[BASE.name]
        for scheme in SCHEMES:
            if scheme.name not in mine:
                mine[scheme.name] = keep(about | subject.at_bytes(scheme, base["bytes"]))
        if "fewest bytes" not in mine:
            start = mine[ALL.name]["octaves"] + 0.5 * math.log2(base["gap"] / mine[ALL.name]["gap"])
            keep(about | subject.at_gap(ALL, base["gap"], start) | {"scheme": "fewest bytes"})
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
            *(spread(x, ".5f") for x in parts),
            *(spread(change, "+.1f") + " %" for change in changes),
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def spread(values: list[float], form: str) -> str:
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values) if len(values) > 1 else 0:{form.lstrip('+')}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=["../shared/data/english.train.jsonl.zst"])
    parser.add_argument("--data", type=Path, default=Path("runs/ablate-data"), help="shards; made from the text where they are not there")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path("runs/shrink"), help="where the trained models are")
    parser.add_argument("--out", type=Path, default=Path("results/shrink.jsonl"))
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
