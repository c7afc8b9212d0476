"""Runs of the recipe `auto` by clock and cap, and `quickstart` beside it: `python bench/auto_runs.py --text FILE... [--by-steps]`

Every combination of `--clocks` and `--caps` is trained, packed and scored; with `--quickstart`, this recipe at its own clock
and cap, too. A finished run appends one JSON line, and runs that have a line are not repeated; an interrupted training goes
on where it was. `--by-steps` replaces the clock by the training steps that it would have at `--speed`, so that figures of a
busy machine compare. `--table FILE` prints the tables of a file of lines.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from result_lines import append_line, read_lines

from bitgolf.commands.auto import plan_auto_run
from bitgolf.config.spec import Spec
from bitgolf.pipeline.auto_choice import auto_request
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.recipes import get_recipe, scaling_laws
from bitgolf.recipes.choose import CALIBRATION_SHARE, REFERENCE_SPEED, sizes_of_shape
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.environment import collect_environment
from bitgolf.training.checkpoint import newest_file

CLOCKS, CAPS = (90.0, 600.0, 3600.0), (100_000, 400_000, 1_600_000)


class AutoSetting(NamedTuple):
    """A run: recipe, seconds, bytes, random seed, and whether its steps stand for the clock."""

    recipe: str
    seconds: float
    cap: int
    seed: int
    by_steps: bool

    @property
    def name(self) -> str:
        """Name of the folder of the run."""
        return f"{self.recipe}-{self.cap}-{self.seconds:g}s-s{self.seed}{'-steps' if self.by_steps else ''}"


def settings(options: argparse.Namespace) -> Iterator[AutoSetting]:
    """Yield the runs, those of short clocks first."""
    for seed in options.seeds:
        if options.quickstart:
            recipe = get_recipe("quickstart")
            yield AutoSetting("quickstart", recipe["train.seconds"], recipe["pack.cap"], seed, options.by_steps)
            yield AutoSetting("auto", recipe["train.seconds"], recipe["pack.cap"], seed, options.by_steps)
        for seconds in options.clocks:
            yield from (AutoSetting("auto", seconds, cap, seed, options.by_steps) for cap in options.caps)


def run(setting: AutoSetting, options: argparse.Namespace) -> dict[str, Any]:
    """Run one setting, or continue it; the line of its result."""
    folder = options.folder / setting.name
    given = GivenInputs(tuple(options.text or ()), seed=setting.seed, score_tokens=options.score_tokens)
    execution, predicted = ExecutionOptions(resume=newest_file(folder / "checkpoint") is not None), None
    if setting.recipe == "auto":
        request = auto_request(setting.cap, setting.seconds, options.speed)
        planned = plan_auto_run(request, given, execution, out=folder)
        recipe, given, choice = planned.recipe, planned.given, planned.given.auto
        assert choice is not None
        predicted, tokens = choice.packed_bpb, float(choice.tokens)
    else:
        recipe, tokens = get_recipe(setting.recipe), tokens_of_quickstart(setting.seconds, options.speed)
    if setting.by_steps:
        recipe = by_steps(recipe, tokens)
    result = run_recipe(recipe, given, execution, out=folder)
    shape = {"width": recipe["model.dim"], "layers": recipe["model.layers"], "vocab": recipe["tokens.vocab"]}
    return {
        "bench": "auto_runs",
        **setting._asdict(),
        **shape,
        "bits": round(recipe["quantize.1.use.bits"], 3),
        "predicted_bpb": predicted,
        "bpb": result.bpb,
        "bytes": result.bytes.model,
        "tokens": result.tokens,
        "params": result.params,
        "scored": None if result.scored is None else result.scored.tokens,
        "train_seconds": result.training_clock.train,
    }


def tokens_of_quickstart(seconds: float, speed: float) -> float:
    """Training tokens of `quickstart` in this time at this speed, counted as those of `auto` are."""
    shape = sizes_of_shape(128, 2048)
    return seconds * (1 - CALIBRATION_SHARE) * speed / scaling_laws.token_cost(shape, 256, 2048)


def by_steps(recipe: Spec[Recipe], tokens: float) -> Spec[Recipe]:
    """The recipe with a number of steps in the place of its clock."""
    steps = max(1, round(tokens / (recipe["train.rows"] * recipe["train.length"])))
    return recipe.set("train.seconds", 0.0).set("train.steps", steps)


def tables(lines: list[dict[str, Any]]) -> str:
    """A table of clock by cap for each stage, and one line for each run."""
    found = {(line["seconds"], line["cap"]): line for line in lines if line["recipe"] == "auto"}
    clocks, caps = sorted({clock for clock, _ in found}), sorted({cap for _, cap in found})
    rows = [f"| clock | {' | '.join(f'{cap:,} bytes' for cap in caps)} |", "| --- |" + " --- |" * len(caps)]
    for clock in clocks:
        cells = [found.get((clock, cap)) for cap in caps]
        words = [f"{c['bpb']['packed']:.3f} ({c['predicted_bpb']:.3f})" if c else "not measured" for c in cells]
        rows.append(f"| {clock:g} s | {' | '.join(words)} |")
    rows += ["", "| run | width, layers, vocabulary, bits | tokens | bytes | trained | packed |", "| --- " * 6 + "|"]
    for line in lines:
        shape = f"{line['width']}, {line['layers']}, {line['vocab']:,}, {line['bits']:g}"
        name = f"{line['recipe']}, {line['seconds']:g} s, {line['cap']:,} bytes, seed {line['seed']}"
        bpb = line["bpb"]
        rows.append(f"| {name} | {shape} | {line['tokens']:,} | {line['bytes']:,} | {bpb['trained']:.4f} | {bpb['packed']:.4f} |")  # fmt: skip
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", type=Path, metavar="FILE", help="text of the runs (default: the source of Python's standard library)")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path("runs/auto-runs"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("runs/auto_runs.jsonl"), help="file of the measured lines")
    parser.add_argument("--clocks", type=float, nargs="*", default=CLOCKS, metavar="S", help="seconds of training")
    parser.add_argument("--caps", type=int, nargs="*", default=CAPS, metavar="BYTES", help="bytes of the artifact")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--speed", type=float, default=REFERENCE_SPEED, help="training speed, operations per second")
    parser.add_argument("--score-tokens", type=int, default=65_536, help="held-out tokens to score")
    parser.add_argument("--by-steps", action="store_true", help="train by steps instead of the clock")
    parser.add_argument("--quickstart", action="store_true", help="compare with quickstart at its own budget")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (0: as many as it takes)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a file of lines")
    options = parser.parse_args()
    if options.table:
        print(tables(read_lines(options.table)))
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    for setting in settings(options):
        if any(all(line[k] == v for k, v in setting._asdict().items()) for line in read_lines(options.out)):
            continue
        append_line(options.out, run(setting, options) | {"environment": collect_environment()})
        print(setting.name, file=sys.stderr)


if __name__ == "__main__":
    main()
