"""Optimizers of the speedrun records at equal steps: `python bench/optimizers.py --text FILE... [--steps N]`.

A baseline of three layers of width 64 is trained for `--steps` steps on the same batches (of each seed) with Muon, and with
one change at a time: Contra-Muon, SOAP before orthogonalization, EMA-Nesterov, and NorMuon for comparison. Settings are the
published ones; the learning rate is that of each run's line, the same for all unless `--lr` names others. Each finished
run appends a line to the results file, and runs that have one are not repeated. TOY SCALE: the figures compare
optimizers with one another on a short run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ablate import train_and_score
from corpus import add_text_options, corpus_id, shards_folder
from result_lines import append_line, read_lines

from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import ShuffledWindows
from bitgolf.model.attention.attention import Attention
from bitgolf.model.mlp import MLP
from bitgolf.optim.adam import Adam
from bitgolf.optim.contra_muon import ContraMuon
from bitgolf.optim.ema_nesterov import EMANesterov
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import NorMuon
from bitgolf.optim.orthogonalize import ConvergentNewtonSchulz
from bitgolf.optim.schedules import LinearRamp, WarmdownFraction
from bitgolf.optim.soap import SOAP
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.environment import collect_environment

LENGTH, LR = 128, 0.03
Edit = Callable[[Spec[Recipe]], Spec[Recipe]]


def muon(**settings: Any) -> Edit:
    return lambda recipe: recipe.edit(Muon, replace(**settings))


def all_three(recipe: Spec[Recipe]) -> Spec[Recipe]:
    edited = muon(orthogonalize=part(ContraMuon), pre_orthogonalize=(part(SOAP),))(recipe)
    return edited.set("train.lookahead", part(EMANesterov))


OPTIMIZERS: dict[str, Edit] = {
    "Muon": lambda recipe: recipe,
    "Contra-Muon": muon(orthogonalize=part(ContraMuon)),
    "SOAP-Muon": muon(pre_orthogonalize=(part(SOAP),)),
    "EMA-Nesterov": lambda recipe: recipe.set("train.lookahead", part(EMANesterov)),
    "all three": all_three,
    "twelve Newton-Schulz steps": muon(orthogonalize=part(ConvergentNewtonSchulz)),
    "NorMuon": muon(post_orthogonalize=(part(NorMuon),)),
}


def base(steps: int, lr: float) -> Spec[Recipe]:
    """The challenge's baseline with three layers of width 64, batches of 1,024 tokens."""
    recipe = get_recipe("baseline").set("model.layers", 3).set("model.dim", 64).edit(MLP, replace(hidden=128))
    recipe = recipe.edit(Attention, replace(heads=4, kv_heads=2))
    momentum = part(LinearRamp, start=0.85, end=0.95, steps=300)
    optim = (
        part(Rule, where="matrix", use=part(Muon, lr=lr, momentum=momentum)),
        part(Rule, where="*", use=part(Adam, lr=0.02)),
    )
    limits = replace(
        seconds=0.0, steps=steps, rows=8, micro_rows=0, length=LENGTH, order=part(ShuffledWindows), optim=optim
    )
    recipe = recipe.edit("train", limits).set("train.lr_schedule", part(WarmdownFraction, fraction=0.5))
    return recipe.replace(published=None)


def run(options: argparse.Namespace) -> None:
    data, torch_threads = shards_folder(options), options.threads
    corpus = corpus_id(data)
    if torch_threads:
        torch.set_num_threads(torch_threads)
    done = {(e["optimizer"], e["seed"], e["steps"], e["lr"]) for e in read_lines(options.out) if e["corpus"] == corpus}
    for seed in options.seeds:
        for name in options.optimizers:
            key = {"optimizer": name, "seed": seed, "steps": options.steps, "lr": options.lr}
            if tuple(key.values()) in done:
                continue
            found = train_and_score(OPTIMIZERS[name](base(options.steps, options.lr)), data, seed, options.tokens)
            line = {"bench": "optimizers", "corpus": corpus, **key, **found, "environment": collect_environment()}
            append_line(options.out, line)
            print(f"{name}, seed {seed}: {found['bpb']['float']:.4f}, {found['train_seconds']} s", file=sys.stderr)


def table(lines: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds: bits per byte of Muon, differences from it for the others."""
    rows = ["| optimizer | steps | lr | bits per byte | seconds, ratio |", "| --- | --- | --- | --- | --- |"]
    found = {(e["steps"], e["lr"], e["optimizer"], e["seed"]): e for e in lines}
    for steps, lr, name in dict.fromkeys(key[:3] for key in found):
        pairs = [
            (line, found[steps, lr, "Muon", seed])
            for (a, b, c, seed), line in found.items()
            if (a, b, c) == (steps, lr, name) and (steps, lr, "Muon", seed) in found
        ]
        first = name == "Muon"
        values = [own["bpb"]["float"] - (0 if first else plain["bpb"]["float"]) for own, plain in pairs]
        ratios = [own["train_seconds"] / plain["train_seconds"] for own, plain in pairs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = f"{statistics.mean(values):{'' if first else '+'}.4f} ± {spread:.4f}"
        rows.append(f"| {name} | {steps} | {lr:g} | {mean} | {statistics.median(ratios):.2f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_text_options(parser)
    names = list(OPTIMIZERS)
    parser.add_argument("--out", type=Path, default=Path("runs/optimizers.jsonl"), help="file of the measured lines")
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=300, help="training steps of each run")
    parser.add_argument("--lr", type=float, default=LR, help="learning rate of the matrices")
    parser.add_argument("--tokens", type=int, default=16_384, help="held-out tokens to score")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (0: as many as it takes)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file of lines and run nothing")
    options = parser.parse_args()
    print(table(read_lines(options.table))) if options.table else run(options)


if __name__ == "__main__":
    main()
