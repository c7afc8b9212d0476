"""Recipes under one cap, one clock and one text: `python bench/recipes_by_cap.py --text FILE... [--caps 250000 1000000]`.

Each recipe is scaled to the cap by `bitgolf.recipes.scaling`, trained for the same time on the same text with the same
tokenizer, and packed to the cap: the step sizes of its codecs are scaled until the file is at most 0.05 % below it. Bits
per byte are measured as trained, averaged, packed with the first method of the recipe, and packed with its last one,
which adapts if the recipe has one that does.

Every step is a command of Bitgolf in a folder of its own below `--work`, so the bench may be killed at any time: the
same command continues. A finished run appends one line to the results, and runs that have a line are not repeated.
`--by-steps` trains for the steps that the clock has room for by a short measurement, so that figures of a busy machine
compare. `--table FILE` prints the table of these lines and runs nothing. `--tiny` makes every run a matter of seconds, to
try it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clock_steps import by_steps, steps_in
from corpus import add_text_options, corpus_id
from result_lines import Line, append_line, read_lines

from bitgolf.config.edits import replace
from bitgolf.config.recipe_file import write_recipe
from bitgolf.config.spec import Spec, part
from bitgolf.files import write_bytes
from bitgolf.model.layer_orders import EachLayerOnce
from bitgolf.pipeline.forecast import forecast_recipe
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.tuning import FloatTuning
from bitgolf.recipes import get_recipe
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.scaling import Scale, scale_recipe
from bitgolf.report.environment import collect_environment
from bitgolf.score.methods import ContiguousScoring

SEEDS = (0, 1, 2)
VOCABULARIES = {250_000: 1024, 1_000_000: 2048}
"""Cap in bytes -> pieces of the tokenizer; other caps take those of the nearest one below."""
STAGES = ("trained", "averaged", "packed", "adapted")
PR1855_STEPS = 4931
"""Steps of pr1855 in 600 s on 8 H100, which recipes with its training are expected to make, too."""
SMALL_STEPS = 600
"""Steps of bitgolf_small in its 300 s."""
ROOM = 8
"""A run may make an artifact of so many caps; `pack` then brings it to the cap."""


class Contender(NamedTuple):
    """A recipe, and the edit that makes a variant of it. full_steps: steps at full size; 0 if they are published."""

    name: str
    recipe: str
    edit: Callable[[Spec[Recipe]], Spec[Recipe]] = lambda recipe: recipe
    full_steps: int = 0


def without_bigrams(recipe: Spec[Recipe]) -> Spec[Recipe]:
    return recipe.set("model.post_embed", recipe["model.post_embed"][1:])


def two_bits(recipe: Spec[Recipe]) -> Spec[Recipe]:
    """Fewer bits for more weights: the scaled model becomes wider."""
    return recipe.edit(TrellisCodec, replace(bits=2.0))


def tuned_floats(recipe: Spec[Recipe]) -> Spec[Recipe]:
    """A twentieth of the clock is for tuning the parameters that stay floats after all others are rounded."""
    tuning = part(FloatTuning, steps=30, reserve=recipe["train.seconds"] / 20)
    return recipe.replace(tune=tuning)


def without_loops(recipe: Spec[Recipe]) -> Spec[Recipe]:
    return recipe.set("model.layer_schedule.order", part(EachLayerOnce))


CONTENDERS = (
    Contender("baseline", "baseline"),
    Contender("pr1855", "pr1855"),
    Contender("pr2135", "pr2135"),
    Contender("bitgolf_small", "bitgolf_small", full_steps=SMALL_STEPS),
    Contender("bitgolf_small, tuned floats", "bitgolf_small", tuned_floats, SMALL_STEPS),
    Contender("bitgolf_small, 2 bits", "bitgolf_small", two_bits, SMALL_STEPS),
    Contender("bitgolf16", "bitgolf16", full_steps=PR1855_STEPS),
    Contender("bitgolf16 without bigrams", "bitgolf16", without_bigrams, PR1855_STEPS),
    Contender("bitgolf16 without loops", "bitgolf16", without_loops, PR1855_STEPS),
)


class CommonSettings(NamedTuple):
    """What all runs of one call have in common."""

    seconds: float
    steps: int
    tokens: int
    rows: int
    length: int
    machine: dict[str, Any]
    by_steps: bool = False


def scaled(contender: Contender, cap: int, setting: CommonSettings) -> Spec[Recipe]:
    """The contender in proportion, with contiguous scoring first and room for an artifact above the cap."""
    documents = max(1, setting.tokens // 1000)
    scale = Scale(
        cap,
        vocabulary(cap),
        setting.seconds,
        setting.steps,
        setting.rows,
        setting.length,
        documents=documents,
        full_steps=contender.full_steps,
    )
    small = scale_recipe(contender.edit(get_recipe(contender.recipe)), scale, lambda r: forecast(r, scale.vocab))
    last = small["score"][-1]
    methods = (part(ContiguousScoring, window=setting.length), *(() if _contiguous(last) else (last,)))
    return small.set("pack.cap", ROOM * cap).replace(
        name=contender.name.replace(",", "").replace(" ", "-"), score=methods
    )


def _contiguous(method: Spec[Any]) -> bool:
    return method.cls is ContiguousScoring


def forecast(recipe: Spec[Recipe], vocab: int) -> int:
    return forecast_recipe(recipe(), vocab).forecast.bytes


def vocabulary(cap: int) -> int:
    return VOCABULARIES[max((known for known in VOCABULARIES if known <= cap), default=min(VOCABULARIES))]


def bitgolf(*words: str) -> dict[str, Any]:
    """The JSON result of a command. Exits with its status if it fails, after its own message."""
    command = [sys.executable, "-m", "bitgolf", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, env=os.environ | {"COLUMNS": "100"})
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}. The same command of this bench continues.")
    return json.loads(done.stdout)


def shards(work: Path, text: Sequence[Path], vocab: int) -> Path:
    """The folder of the shards for a vocabulary, made if it is missing or unfinished."""
    folder = work / f"data-{vocab}"
    if not (folder / "manifest.json").exists():
        words = ["--text", *map(str, text)] if text else ["--text", str(Path(os.__file__).parent / "*.py")]
        bitgolf("data", "make", str(folder), *words, "--vocab", str(vocab))
    return folder


SCALABLE = ("TrellisCodec", "SdClip")
"""Codecs and clips with a continuous setting, by which `pack` reaches a cap."""


def measure(contender: Contender, cap: int, seed: int, setting: CommonSettings, data: Path, work: Path) -> Line:
    """Train, pack and score one run; continues what is in its folder."""
    recipe = scaled(contender, cap, setting)
    if setting.by_steps:
        recipe = by_steps(recipe, stored_steps(recipe, vocabulary(cap), work / "steps.json"))
    folder = work / f"{cap}-{recipe['name']}-{recipe_hash(recipe)}-{seed}"
    stored = folder.with_suffix(".json")
    write_recipe(stored, recipe)
    inputs = ("--shards", str(data), "--out", str(folder), "--seed", str(seed), "--resume")
    trained = bitgolf("run", str(stored), *inputs, "--score-tokens", "0")
    packed = packed_to(cap, recipe, folder, stored, trained)
    run = bitgolf("run", packed["recipe"], *inputs, "--score-tokens", str(setting.tokens))
    bpb = {stage: run["bpb"][stage] for stage in STAGES}
    facts = {key: run[key] for key in ("params", "steps", "tokens", "hash", "scored")}
    shape = {"dim": recipe["model.dim"], "layers": recipe["model.layers"]}
    sizes = {"bytes": packed["bytes"], "log2_step_scale": packed["log2_step_scale"]}
    return {"bpb": bpb, **facts, **shape, **sizes, "seconds_by_stage": trained["seconds"] | run["seconds"]}


def stored_steps(recipe: Spec[Recipe], vocab: int, file: Path) -> int:
    """Steps in the recipe's clock: those in the file, or measured and added to it, so that all seeds have the same."""
    known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    if (key := recipe_hash(recipe)) not in known:
        known[key] = steps_in(recipe, vocab)
        write_bytes(file, json.dumps(known, indent=1).encode())
    return known[key]


def packed_to(cap: int, recipe: Spec[Recipe], folder: Path, stored: Path, trained: Line) -> Line:
    """Pack a trained run to the cap. A recipe without a codec whose steps can be scaled keeps its artifact.

    Raises `SystemExit` if such an artifact is over the cap.
    """
    if any(name in json.dumps(recipe.to_json()) for name in SCALABLE):
        return bitgolf("pack", str(folder), "--cap", str(cap))
    size = trained["bytes"]["total"]
    if size > cap:
        raise SystemExit(
            f"{recipe['name']}: {size:,} bytes, over the cap of {cap:,}, and its codecs have no steps to scale"
        )
    return {"recipe": str(stored), "bytes": size, "log2_step_scale": 0.0}


def pending(
    done: Sequence[Line], options: argparse.Namespace, corpora: dict[int, str]
) -> Iterator[tuple[int, int, Contender]]:
    """(cap, seed, contender) of the runs without a line; all contenders with one seed before the next seed."""
    keys = ("corpus", "cap", "seconds", "by_steps", "seed", "recipe")
    have = {tuple(line[key] for key in keys) for line in done}
    for seed in options.seeds:
        for cap in options.caps:
            for one in CONTENDERS:
                key = corpora[cap], cap, options.seconds, options.by_steps, seed, one.name
                if one.name in options.recipes and key not in have:
                    yield cap, seed, one


def run(options: argparse.Namespace) -> None:
    sizes = options.seconds, options.steps, options.tokens, options.rows, options.length
    setting = CommonSettings(*sizes, collect_environment(), options.by_steps)
    folders = {cap: shards(options.work, options.text or (), vocabulary(cap)) for cap in options.caps}
    corpora = {cap: corpus_id(folder) for cap, folder in folders.items()}
    for cap, seed, one in pending(read_lines(options.out), options, corpora):
        found = measure(one, cap, seed, setting, folders[cap], options.work)
        line = {
            "bench": "recipes",
            "corpus": corpora[cap],
            "cap": cap,
            "vocab": vocabulary(cap),
            "seconds": options.seconds,
            "by_steps": options.by_steps,
            "recipe": one.name,
            "seed": seed,
            **found,
            "command": " ".join(sys.argv),
            "environment": setting.machine,
        }
        append_line(options.out, line)
        print(f"{one.name}, {cap:,} bytes, seed {seed}: {found['bpb']}", file=sys.stderr)


def table(done: Sequence[Line]) -> str:
    """One row for each recipe and cap: bits per byte by stage, mean and standard deviation over the seeds."""
    heads = ["recipe", "cap", "parameters", "steps", *STAGES, "seeds"]
    rows = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    for cap in sorted({line["cap"] for line in done}):
        for one in CONTENDERS:
            lines = [line for line in done if (line["cap"], line["recipe"]) == (cap, one.name)]
            if lines:
                steps = statistics.mean(line["steps"] for line in lines)
                cells = [cell([line["bpb"][stage] for line in lines]) for stage in STAGES]
                facts = [one.name, f"{cap:,}", f"{lines[0]['params']:,}", f"{steps:,.0f}"]
                rows.append(f"| {' | '.join([*facts, *cells, str(len(lines))])} |")
    return "\n".join(rows)


def cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    spread = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.4f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_text_options(parser)
    names = [one.name for one in CONTENDERS]
    usual = [name for name in names if name in ("baseline", "pr1855", "bitgolf16", "bitgolf_small")]
    parser.add_argument("--out", type=Path, default=Path("runs/recipes.jsonl"), help="file of the measured lines")
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"), help="folder of the shards and of the runs")
    parser.add_argument("--caps", type=int, nargs="+", default=[*VOCABULARIES], help="caps in bytes")
    parser.add_argument("--recipes", nargs="+", choices=names, default=usual, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--seconds", type=float, default=300.0, help="training clock of each run")
    parser.add_argument("--steps", type=int, default=600, help="expected steps, to which schedules in steps are scaled")
    parser.add_argument("--tokens", type=int, default=65_536, help="held-out tokens to score")
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--by-steps", action="store_true", help="train by steps instead of the clock")
    parser.add_argument("--tiny", action="store_true", help="two seconds of training and 2,000 scored tokens")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file of lines and run nothing")
    options = parser.parse_args()
    if options.tiny:
        options.seconds, options.steps, options.tokens, options.rows, options.length = 2.0, 10, 2_000, 4, 64
    print(table(read_lines(options.table))) if options.table else run(options)


if __name__ == "__main__":
    main()
