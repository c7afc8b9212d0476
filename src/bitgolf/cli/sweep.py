"""The command `sweep`: many runs of a recipe, or many encodings of one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitgolf.cli.code_options import accepts_code
from bitgolf.cli.completion import complete_recipe, one_of
from bitgolf.cli.options import (
    LARGEST_COUNT,
    MOST_PROCESSES,
    DeviceOption,
    JsonFlag,
    KeyOption,
    QuickFlag,
    ShardsOption,
    ShardTokenizerOption,
    SkipNullFlag,
    StrictFlag,
    TextOption,
    at_most,
    check_assignments,
    print_result,
    recipe_or_newest_run,
    tokens_option,
)
from bitgolf.cli.run_options import DevicesOption, ReuseOption, ScoreTokensOption, TrackOption, parse_score_tokens
from bitgolf.errors import UsageError
from bitgolf.recipes import named_folder
from bitgolf.text.read_report import ReadOptions

if TYPE_CHECKING:
    from bitgolf.commands.sweep_runs import SweepExecution, SweepOptions
    from bitgolf.config.spec import Spec
    from bitgolf.pipeline.execute import ExecutionOptions
    from bitgolf.pipeline.given_inputs import GivenInputs
    from bitgolf.recipes.recipe import Recipe

MEASURES = ("best", "trained", "averaged", "packed", "sliding", "adapted")
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|SWEEP|RUN",
        autocompletion=complete_recipe,
        callback=recipe_or_newest_run,
        help="A recipe, as in `run`; a sweep: its name (--list), a JSON file, FILE.py:NAME, or its folder, to continue "
        "it; or the folder of a trained run, whose weights are quantized with other settings.",
    ),
]
SetsOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=VALUE,VALUE",
        callback=check_assignments,
        help="Values to try; PATH may be short, as in `run`. One value changes all runs. A value with commas needs "
        "brackets. Of a trained run, only paths below `quantize` and `pack`. May be repeated.",
    ),
]
VariantOption = Annotated[
    list[str],
    typer.Option(
        "--variant",
        metavar="NAME:EDIT;EDIT",
        help="A variant with several edits, PATH=VALUE or PATH+=PART. May be repeated.",
    ),
]
SeedsOption = Annotated[
    str,
    typer.Option(
        "--seeds",
        metavar="N|A,B,C",
        help="Several seeds: their number, or a list. The result is a table with mean and spread. Default of a sweep: 3 "
        "seeds, or its own; `run` has a single one.",
    ),
]
SearchOption = Annotated[
    str,
    typer.Option(
        "--search",
        metavar="SEARCH",
        help="Grid, OneAtATime, GreedyForward, SuccessiveHalving or OptunaSearch, with settings in brackets. "
        "Default: Grid, all combinations, or that of the sweep.",
    ),
]
GateOption = Annotated[
    list[str],
    typer.Option(
        "--gate",
        metavar="GATE",
        help="End runs early: LossNotFinite, OverCap, TrainedBpbAbove(limit=BPB) or BehindBest, with settings in "
        "brackets. May be repeated.",
    ),
]
StepsOption = Annotated[
    int,
    typer.Option("--steps", metavar="N", min=0, callback=at_most(LARGEST_COUNT), help="Train each run for N steps."),
]
ClockOption = Annotated[
    float, typer.Option("--seconds", metavar="S", min=0, help="Train each run for S seconds instead.")
]
MeasureOption = Annotated[
    str,
    typer.Option(
        "--measure", metavar="SCORE", autocompletion=one_of(*MEASURES), help=f"Score to compare: {', '.join(MEASURES)}."
    ),
]
SweepOutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Folder of the runs. Stages that they share are executed once, and the same command continues after an "
        "interruption. Default: runs/sweep-NAME-HASH.",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=MOST_PROCESSES,
        help="Runs at the same time, one GPU each on a GPU machine.",
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster", metavar="ADDRESS", help="Execute runs on a Ray cluster that shares the disk; auto finds one."
    ),
]
MeasureFlag = Annotated[
    bool, typer.Option("--score", help="Of a trained run: measure bits per byte in addition to the prediction.")
]
TokensOption = Annotated[
    int,
    tokens_option("Of a trained run: number of held-out tokens to score."),
]
ListFlag = Annotated[bool, typer.Option("--list", help="List the sweeps of this package.")]


@accepts_code
def sweep(
    target: TargetArgument = "",
    sets: SetsOption = [],  # noqa: B006
    variants: VariantOption = [],  # noqa: B006
    seeds: SeedsOption = "",
    search: SearchOption = "",
    gates: GateOption = [],  # noqa: B006
    steps: StepsOption = 0,
    seconds: ClockOption = 0.0,
    measure: MeasureOption = "",
    text: TextOption = [],  # noqa: B006
    key: KeyOption = "",
    skip_null: SkipNullFlag = False,
    strict: StrictFlag = False,
    shards: ShardsOption = None,
    tokenizer: ShardTokenizerOption = None,
    out: SweepOutOption = None,
    reuse: ReuseOption = [],  # noqa: B006
    track: TrackOption = [],  # noqa: B006
    workers: WorkersOption = 1,
    cluster: ClusterOption = "",
    devices: DevicesOption = 1,
    device: DeviceOption = "auto",
    quick: QuickFlag = False,
    score_tokens: ScoreTokensOption = "",
    score: MeasureFlag = False,
    tokens: TokensOption = 65536,
    list_names: ListFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare variants of a recipe with itself over several seeds, or encode a trained run with other settings."""
    if list_names or not target:
        return _list(target, list_names, as_json)
    from bitgolf.commands.sweep_runs import SweepExecution, SweepOptions

    given = _given(text, ReadOptions(key, skip_null, strict), shards, tokenizer, score_tokens)
    options = SweepOptions(tuple(sets), tuple(variants), seeds, 0, search, tuple(gates), steps, seconds, measure, quick)
    execution = SweepExecution(given, out, tuple(reuse), workers, cluster, devices, device, tuple(track))
    return _sweep(target, options, execution, tokens if score else None, as_json)


def _given(
    text: list[Path], reading: ReadOptions, shards: Path | None, tokenizer: Path | None, score_tokens: str
) -> GivenInputs:
    """The inputs of each run. Raises `UsageError` for a number of tokens that is none."""
    from bitgolf.pipeline.given_inputs import GivenInputs

    return GivenInputs(tuple(text), shards, tokenizer, reading, score_tokens=parse_score_tokens(score_tokens))


def _list(target: str, list_names: bool, as_json: bool) -> None:
    """Print the sweeps of this package, if `--list` is given alone."""
    from bitgolf.commands.recipe_tables import sweeps_table
    from bitgolf.sweeps.load import describe_sweep, sweep_names

    if target or not list_names:
        message = "--list takes no argument" if target else "the argument RECIPE, SWEEP or RUN is missing"
        raise UsageError(message, where=target or "sweep", hint="bitgolf sweep quickstart --set Muon.lr=0.01,0.02")
    known = {name: describe_sweep(name) for name in sweep_names()}
    print_result(as_json, known, sweeps_table(known))


def _sweep(target: str, options: SweepOptions, execution: SweepExecution, tokens: int | None, as_json: bool) -> None:
    """Quantize a trained run again, or run a sweep. tokens: held-out tokens to score, None without --score."""
    if run := _trained_run(target):
        return _quantize_again(run, options, execution, tokens, as_json)
    if tokens:
        raise UsageError("only the folder of a trained run takes this option", where="--score", hint="leave it out")
    return _run_variants(target, options, execution, as_json)


def _trained_run(target: str) -> Path | None:
    """The folder of a trained run that the argument names; None for a recipe or a sweep."""
    from bitgolf.sweeps.folder import SWEEP_FILE

    folder = named_folder(target)
    return folder if folder and not (folder / SWEEP_FILE).exists() else None


def _quantize_again(
    run: Path, options: SweepOptions, execution: SweepExecution, tokens: int | None, as_json: bool
) -> None:
    from bitgolf.commands.sweep import sweep as sweep_run
    from bitgolf.commands.sweep_runs import SweepExecution, SweepOptions
    from bitgolf.commands.tables import sweep_table

    if options._replace(sets=()) != SweepOptions() or execution != SweepExecution():
        message = "this is the folder of a trained run, of which only quantization and packing are repeated"
        hint = f"--set, --score and --tokens alone; for whole runs: bitgolf sweep {run}/recipe.json --reuse {run}"
        raise UsageError(message, where=str(run), hint=hint)
    document = sweep_run(run, options.sets, tokens=tokens)
    print_result(as_json, document, sweep_table(document))


def _run_variants(target: str, options: SweepOptions, execution: SweepExecution, as_json: bool) -> None:
    from bitgolf.commands.sweep_runs import sweep_runs
    from bitgolf.commands.sweep_table import sweep_runs_table

    summary = sweep_runs(target, options, execution)
    print_result(as_json, summary, sweep_runs_table(summary))


def run_seeds(
    recipe: Spec[Recipe],
    seeds: str,
    given: GivenInputs,
    options: ExecutionOptions,
    *,
    folder: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """`run --seeds`: a sweep without variants. folder: of the run that the argument names, for which this is refused."""
    from bitgolf.commands.sweep_runs import repeat_recipe
    from bitgolf.commands.sweep_table import sweep_runs_table

    if folder:
        hint = f"for other seeds of its recipe: bitgolf run {folder}/recipe.json --seeds {seeds}"
        raise UsageError("the folder of a run has a seed of its own", where=f"--seeds {seeds}", hint=hint)
    if options.from_stage:
        message = "--from begins a single run again"
        raise UsageError(message, where=f"--seeds {seeds}", hint="leave one of the two options out")
    summary = repeat_recipe(recipe, seeds, given, options, out)
    print_result(as_json, summary, sweep_runs_table(summary))
