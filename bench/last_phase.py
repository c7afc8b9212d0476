"""The end of training for packed models: `python bench/last_phase.py --text FILE... [--seeds 0 1 2]`.

quickstart's model is trained for `--steps` steps, once for each seed, and the state after nine tenths of them is kept.
The last tenth is then repeated from that state: as it is, and with the weights rounded as they will be stored
(`RoundedPhase`), for each number of bits. Of the plain end, several averages of the weights are compared. Every result
is calibrated and encoded by the trellis codec, and measured in bits per byte on held-out text, before and after; the
loss on training text that no step was made on shows whether the choice of an average could be made there.
Each finished measurement appends a line to the results file, and what has a line is not repeated. `--table FILE` prints
the table of these lines and measures nothing. SMALL SCALE: the figures compare methods with one another.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from corpus import add_text_options, corpus_id, shards_folder
from result_lines import Line, append_line, read_lines
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitgolf.average.average import Average
from bitgolf.average.ema import EMA
from bitgolf.average.swa import SWA
from bitgolf.config.build_context import BuildContext
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import BatchLoader
from bitgolf.data.manifest import load_manifest, open_split
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import load_weights, parameter_roles
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.streams import pack_tensors
from bitgolf.pipeline.training import rounded_weights
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import CalibrationContext, TrainingText
from bitgolf.quantize.codecs.codec import Float
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import Rules, context_models, decode_model, encode_model
from bitgolf.quantize.rounded_phase import RoundedPhase
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.environment import collect_environment
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.score.held_out_bpb import HeldOutBpb
from bitgolf.score.methods import ContiguousScoring
from bitgolf.score.text import load_validation
from bitgolf.training.trainer import Trainer

Weights = dict[str, Tensor]
SHARE = 0.9
"""Fraction of the run before the last phase."""
CALIBRATE = part(Calibrate, source=part(TrainingText, batches=8))
AVERAGES: dict[str, Average | None] = {
    "EMA 0.95": EMA(decay=0.95, bias_correction=True),
    "EMA 0.8": EMA(decay=0.8, bias_correction=True),
    "EMA 0.9": EMA(decay=0.9, bias_correction=True),
    "EMA 0.98": EMA(decay=0.98, bias_correction=True),
    "mean": SWA(every=1, lr_scale_below=2.0),
    "none": None,
}
"""Averages over the last phase; the first one is the recipe's."""


class LastPhaseSetting(NamedTuple):
    """What all runs of one call have in common. every: steps between two encodings in the rounded phase."""

    data: Path
    folder: Path
    steps: int
    every: int
    tokens: int


def rules(bits: float) -> Rules:
    return (
        part(Rule, where="scale", use=part(Float, dtype="float16")),
        part(Rule, where="*", use=part(TrellisCodec, bits=bits)),
    )


def recipe(steps: int) -> Spec[Recipe]:
    return get_recipe("quickstart").set("train.seconds", 0.0).set("train.steps", steps)


def trainer_of(setting: LastPhaseSetting, seed: int) -> Trainer:
    manifest, chosen = load_manifest(setting.data), recipe(setting.steps)()
    train = chosen.train()
    stream = open_split(setting.data, "train")
    batches = BatchLoader(stream, rows=train.rows, length=train.length, order=train.order(), seed=seed)
    context = BuildContext(vocab=manifest.vocab, bos=manifest.bos)
    return Trainer(chosen.model, chosen.train, None, context, batches, select_device(), SINGLE_PROCESS, seed)


def before_the_phase(setting: LastPhaseSetting, seed: int) -> Weights:
    """The trainer's state after nine tenths of the steps, computed once."""
    file = setting.folder / f"{corpus_id(setting.data)}-{setting.steps}-{seed}.safetensors"
    if not file.exists():
        print(f"seed {seed}: training {setting.steps} steps", file=sys.stderr)
        with closing(trainer_of(setting, seed)) as trainer:
            for step in range(round(SHARE * setting.steps)):
                trainer.step(step, TrainingProgress(step, setting.steps, 0.0, 0.0))
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: t.contiguous() for name, t in trainer.clone_state().items()}, file)
    return load_file(file)


def ends(setting: LastPhaseSetting, seed: int, bits: float) -> dict[str, Weights]:
    """Average -> weights at the end of training. bits: of the weights in the last phase, 0 if they are not rounded."""
    with closing(trainer_of(setting, seed)) as trainer:
        state = before_the_phase(setting, seed)
        if bits:
            phase = RoundedPhase(quantize=tuple(rules(bits)), calibrate=CALIBRATE, since=SHARE, every=setting.every)
            trainer.round_weights(rounded_weights(phase, trainer, setting.data))
            assert trainer.rounded
            state |= {f"rounded/{path}": error for path, error in trainer.rounded.errors.items()}
        trainer.load_state_dict(state)
        params: list[Tensor] = list(trainer.params.values())
        means = {name: average.init_state(params) for name, average in AVERAGES.items() if average}
        for step in range(round(SHARE * setting.steps), setting.steps):
            trainer.step(step, TrainingProgress(step, setting.steps, 0.0, 0.0))
            for name, mean in means.items():
                if average := AVERAGES[name]:
                    average.update(mean, params, TrainingProgress(step + 1, setting.steps, 0.0, 0.0), 1.0)
        found = {name: a.result(means[name], params) if a else params for name, a in AVERAGES.items()}
        return {name: dict(zip(trainer.params, (v.detach() for v in own), strict=True)) for name, own in found.items()}


class PackedMeasurement:
    """Encodes weights and measures them on held-out text, and on training text that is not calibrated on."""

    def __init__(self, setting: LastPhaseSetting) -> None:
        self.setting, self.model = setting, recipe(setting.steps)().model
        manifest = load_manifest(setting.data)
        self.vocab, self.bos, self.length = manifest.vocab, manifest.bos, 256
        text, method = load_validation(setting.data), ContiguousScoring(window=self.length)
        self.held_out = HeldOutBpb(self.built(), text, method, select_device(), setting.tokens)

    def built(self) -> Any:
        return build_on_meta(self.model, self.vocab, self.bos).eval()

    def subject(self, weights: Weights) -> CalibrationContext:
        model = self.built()
        load_weights(model, {path: w.clone() for path, w in weights.items()})
        return CalibrationContext(model, self.setting.data, self.length, self.bos)

    @torch.no_grad()
    def training_loss(self, weights: Weights) -> float:
        """Mean loss in nats per token on 16,384 tokens of training text."""
        subject, losses = self.subject(weights), list[Tensor]()
        batch = TrainingText(batches=8, seed=99).open(subject)
        for i in range(8):
            ids = batch(i)
            logits = subject.model(ids)[:, :-1].flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()))
        return float(torch.stack(losses).mean())

    def lines(self, weights: Weights, all_rules: Sequence[Rules], calibrate: Spec[Calibrate] = CALIBRATE) -> list[Line]:
        """A measurement for each of the rules, with one calibration."""
        subject, session = self.subject(weights), EncodingSession()
        stats = session.to_device(calibrate().collect(subject).stats)
        roles, shapes = parameter_roles(subject.model), {path: tuple(w.shape) for path, w in weights.items()}
        unpacked, lines = self.held_out.bpb({path: w.clone() for path, w in weights.items()}), list[Line]()
        for own in all_rules:
            codes = encode_model(weights, roles, own, stats, session)
            coder, contexts = part(RangeCoder, variance_contexts=True), context_models(shapes, roles, own)
            decoded = decode_model(codes, shapes, roles, own)
            nats = sum(float(known.cost(decoded[path] - weights[path]).sum()) for path, known in stats.items())
            lines.append(
                {
                    "bytes": sum(len(section.data) for section in pack_tensors(codes, roles, coder, contexts)),
                    "unpacked": round(unpacked, 5),
                    "packed": round(self.held_out.bpb(decoded), 5),
                    "predicted": round(nats / math.log(2) / self.held_out.bytes_per_token, 5),
                    "training_loss": round(self.training_loss(decoded), 5),
                }
            )
        return lines


def measure(options: argparse.Namespace) -> list[Line]:
    setting = LastPhaseSetting(shards_folder(options), options.folder, options.steps, options.every, options.tokens)
    corpus = corpus_id(setting.data)
    done = [line for line in read_lines(options.out) if (line["corpus"], line["steps"]) == (corpus, options.steps)]
    packed = PackedMeasurement(setting)
    for seed in options.seeds:
        for phase in (0.0, *options.bits):
            if any((line["seed"], line["phase"]) == (seed, phase) for line in done):
                continue
            about = {"bench": "last_phase", "corpus": corpus, "steps": options.steps, "seed": seed, "phase": phase}
            found = ends(setting, seed, phase)
            names, all_bits = (list(AVERAGES)[:1], [phase]) if phase else (list(AVERAGES), options.bits)
            lines = [
                about | {"average": name, "bits": bits} | line | {"environment": collect_environment()}
                for name in names
                for bits, line in zip(all_bits, packed.lines(found[name], [*map(rules, all_bits)]), strict=True)
            ]
            for line in lines:  # all of a phase before the first is written
                append_line(options.out, line)
            done += lines
    return done


def table(lines: Sequence[Line]) -> str:
    """Bits per byte of the plain end with the recipe's average, and differences from it, mean and standard deviation."""
    first = next(iter(AVERAGES))
    plain = {(e["bits"], e["seed"]): e for e in lines if (e["phase"], e["average"]) == (0.0, first)}
    rows = [
        "| bits | last tenth | average | bytes | packed | before packing | training loss |",
        "|" + " --- |" * 7,
    ]
    for bits, phase, name in dict.fromkeys((e["bits"], bool(e["phase"]), e["average"]) for e in lines):
        alike = [e for e in lines if (e["bits"], bool(e["phase"]), e["average"]) == (bits, phase, name)]
        pairs = [(e, plain[bits, e["seed"]]) for e in alike if (bits, e["seed"]) in plain]
        base = not phase and name == first
        cells = [
            _mean_and_std([e[key] - (0 if base else other[key]) for e, other in pairs], signed=not base)
            for key in ("packed", "unpacked", "training_loss")
        ]
        size = statistics.mean(e["bytes"] for e, _ in pairs)
        rows.append(f"| {bits:g} | {'rounded' if phase else 'plain'} | {name} | {size:,.0f} | {' | '.join(cells)} |")
    return "\n".join([*rows[:2], *sorted(rows[2:])])


def _mean_and_std(values: Sequence[float], *, signed: bool) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{'+' if signed else ''}.4f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_text_options(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/last_phase"), help="where trained states are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/last_phase.jsonl"), help="file of the measured lines")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the table of a file of lines, measure nothing"
    )
    parser.add_argument("--steps", type=int, default=600, help="training steps of each model")
    parser.add_argument("--every", type=int, default=10, help="steps between two encodings in the rounded phase")
    parser.add_argument("--bits", type=float, nargs="+", default=[2.0, 3.0, 4.0], help="mean bits per weight")
    parser.add_argument("--tokens", type=int, default=32_768, help="held-out tokens to score")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(table(read_lines(options.table) if options.table else measure(options)))


if __name__ == "__main__":
    main()
