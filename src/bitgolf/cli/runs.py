"""The commands on recipes and runs: `recipes`, `show`, `diff`, `run`, `pack`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from bitgolf.cli.code_options import accepts_code
from bitgolf.cli.completion import complete_recipe
from bitgolf.cli.on_hosts import group_size
from bitgolf.cli.options import (
    LARGEST_COUNT,
    AddOption,
    DeviceOption,
    JsonFlag,
    KeyOption,
    QuickFlag,
    RecipeArgument,
    RunArgument,
    SetOption,
    ShardsOption,
    ShardTokenizerOption,
    SkipNullFlag,
    StrictFlag,
    TextOption,
    at_most,
    edits_in_order,
    print_result,
    recipe_or_newest_run,
)
from bitgolf.cli.run_options import (
    CapOption,
    DevicesOption,
    FromOption,
    OutOption,
    ResumeFlag,
    ReuseOption,
    ScoreTokensOption,
    SecondsOption,
    SeedOption,
    SpeedOption,
    StrictCapFlag,
    TrackOption,
    auto_options,
    parse_score_tokens,
)
from bitgolf.cli.sweep import SeedsOption, run_seeds
from bitgolf.config.plugins import recipe_plugins
from bitgolf.errors import UsageError
from bitgolf.recipes import (
    describe,
    edited_recipe,
    experiment_names,
    load_recipe,
    named_folder,
    published_bpb,
    recipe_names,
)
from bitgolf.report.wrapping import line_width
from bitgolf.text.read_report import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

    from bitgolf.config.spec import Spec
    from bitgolf.pipeline.auto_choice import AutoRequest
    from bitgolf.pipeline.execute import ExecutionOptions
    from bitgolf.pipeline.given_inputs import GivenInputs
    from bitgolf.pipeline.result import RunResult
    from bitgolf.recipes.recipe import Recipe


def _resolve(recipe: str, edits: list[str], *, quick: bool = False) -> Spec[Recipe]:
    """Load a recipe by name, from a file, or from the folder of a run, and apply `--quick` and edits to it.

    Raises `FormatVersionError` if the folder has another format, and `UsageError` for `--quick` with a folder.
    """
    from bitgolf.pipeline.state import check_format

    if folder := named_folder(recipe):
        check_format(folder)
        if quick:
            cause = "--quick makes another recipe, which is not that of the run in this folder"
            raise UsageError(cause, where=str(folder), hint="`bitgolf run RECIPE --quick` starts a run of its own")
    return load_recipe(recipe, edits, quick=quick)


def recipes(as_json: JsonFlag = False) -> None:
    """List the recipes and the experiments on them, with the bits per byte published by their authors."""
    from bitgolf.commands.recipe_tables import experiments_table, recipes_table

    known = {name: describe(name) for name in recipe_names()}
    experiments = {name: describe(name) for name in experiment_names()}
    plugins = recipe_plugins().items()
    known |= {name: f"of {plugin}" for name, plugin in plugins if name not in known | experiments}
    published = {name: published_bpb(name) for name in known | experiments}
    tables = f"{recipes_table(known, published)}\n\n{experiments_table(experiments, published)}"
    print_result(as_json, known | experiments, tables)


@accepts_code
def show(
    context: typer.Context,
    recipe: RecipeArgument,
    sets: SetOption = [],  # noqa: B006
    adds: AddOption = [],  # noqa: B006
    quick: QuickFlag = False,
    cap: CapOption = None,
    seconds: SecondsOption = None,
    speed: SpeedOption = None,
    text: TextOption = [],  # noqa: B006
    shards: ShardsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a recipe without training it: parameters by role, forecasts of bytes and memory, settings, and cautions.

    --text and --shards are those of the run that the recipe auto is for, which are not read.
    """
    from bitgolf.commands.auto_table import auto_table
    from bitgolf.commands.show import describe_recipe
    from bitgolf.commands.show_table import show_table
    from bitgolf.pipeline.code_size import size_if_counted

    edits, choice = edits_in_order(context, sets, adds), None
    if request := auto_options(recipe, cap, seconds, speed):
        from bitgolf.commands.auto import chosen_for_show
        from bitgolf.pipeline.given_inputs import GivenInputs
        from bitgolf.recipes.auto import chosen_recipe

        choice = chosen_for_show(request, GivenInputs(text, shards))
        wanted = edited_recipe(chosen_recipe(choice), edits, quick=quick)
    elif text or shards:
        message = f"only the recipe auto takes a text here, not {recipe}"
        raise UsageError(message, where="--text" if text else "--shards", hint="leave it out")
    else:
        wanted = _resolve(recipe, edits, quick=quick)
    document = describe_recipe(wanted, choice, code=size_if_counted(wanted))
    chosen = [auto_table(choice, line_width(sys.stdout))] if choice else []
    print_result(as_json, document, "\n\n".join([*chosen, show_table(document)]))


@accepts_code
def diff(
    context: typer.Context,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", autocompletion=complete_recipe, callback=recipe_or_newest_run, help="A recipe, as in `show`."
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B",
            autocompletion=complete_recipe,
            callback=recipe_or_newest_run,
            help="The recipe to compare with. Default: A, changed by --set.",
        ),
    ] = "",
    sets: SetOption = [],  # noqa: B006
    adds: AddOption = [],  # noqa: B006
    as_json: JsonFlag = False,
) -> None:
    """Compare two recipes: list the settings that differ. --set and --add change the second one.

    With one recipe, `diff A --set PATH=VALUE` shows what the options change.
    """
    from bitgolf.commands.recipe_tables import diff_table
    from bitgolf.recipes.differences import compare_recipes

    edits = edits_in_order(context, sets, adds)
    if not b and not edits:
        raise UsageError("there is nothing to compare with", hint="name a second recipe, or change the first by --set")
    rows = compare_recipes(_resolve(a, []), _resolve(b or a, edits))
    edited = " ".join([b or a, "changed"]) if edits else b
    print_result(as_json, rows, diff_table(rows, a, edited))


@accepts_code
def run(
    context: typer.Context,
    recipe: RecipeArgument,
    sets: SetOption = [],  # noqa: B006
    adds: AddOption = [],  # noqa: B006
    text: TextOption = [],  # noqa: B006
    key: KeyOption = "",
    skip_null: SkipNullFlag = False,
    strict: StrictFlag = False,
    shards: ShardsOption = None,
    tokenizer: ShardTokenizerOption = None,
    out: OutOption = None,
    seed: SeedOption = None,
    seeds: SeedsOption = "",
    devices: DevicesOption = 1,
    device: DeviceOption = "auto",
    first: FromOption = None,
    resume: ResumeFlag = False,
    reuse: ReuseOption = [],  # noqa: B006
    track: TrackOption = [],  # noqa: B006
    strict_cap: StrictCapFlag = False,
    quick: QuickFlag = False,
    score_tokens: ScoreTokensOption = "",
    cap: CapOption = None,
    seconds: SecondsOption = None,
    speed: SpeedOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a recipe: prepare, train, average, calibrate, quantize, pack, score, report. Unchanged stages are reused."""
    from bitgolf.commands.reuse import source_runs
    from bitgolf.pipeline.execute import ExecutionOptions
    from bitgolf.pipeline.given_inputs import GivenInputs

    reading, tokens = ReadOptions(key, skip_null, strict), parse_score_tokens(score_tokens)
    given = GivenInputs(text, shards, tokenizer, reading, seed, tokens)
    processes, sources = group_size(devices, "--devices"), source_runs(reuse)
    options = ExecutionOptions(processes, device, first, resume, strict_cap, sources, track=tuple(track))
    edits, request = edits_in_order(context, sets, adds), auto_options(recipe, cap, seconds, speed)
    _execute(RunRequest(recipe, edits, request, given, options, quick, out, seeds), as_json)


class RunRequest(NamedTuple):
    """What `run` is asked for. auto: of the recipe `auto`, None for another one. seeds: "" for a single run."""

    recipe: str
    edits: list[str]
    auto: AutoRequest | None
    given: GivenInputs
    options: ExecutionOptions
    quick: bool
    out: Path | None
    seeds: str


def _execute(asked: RunRequest, as_json: bool) -> None:
    """Run a recipe, or several seeds of it, and print the result."""
    from bitgolf.commands.auto import plan_auto_run
    from bitgolf.pipeline.execute import run_recipe

    given, options, out = asked.given, asked.options, asked.out
    if asked.auto:
        wanted, given, out = plan_auto_run(
            asked.auto, given, options, edits=asked.edits, quick=asked.quick, out=asked.out
        )
        wanted = edited_recipe(wanted, asked.edits, quick=asked.quick)
    else:
        wanted = _resolve(asked.recipe, asked.edits, quick=asked.quick)
    folder = named_folder(asked.recipe)
    if asked.seeds:
        return run_seeds(wanted, asked.seeds, given, options, folder=folder, out=asked.out, as_json=as_json)
    return _print_run(as_json, run_recipe(wanted, given, options, argument=folder, out=out))


def _print_run(as_json: bool, result: RunResult) -> None:
    from bitgolf.commands.tables import run_table

    print_result(as_json, result, run_table(result))


@accepts_code
def pack(
    run: RunArgument,
    cap: Annotated[
        int | None,
        typer.Option(
            "--cap",
            min=1,
            callback=at_most(LARGEST_COUNT),
            metavar="BYTES",
            help="Maximum size in bytes. Default: the cap of the recipe.",
        ),
    ] = None,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="Count the whole file instead of the model without its tokenizer.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Quantize and pack the weights of a run again, with step sizes that make the artifact just fit a cap.

    The artifact is never over the cap, and at most 0.05 % below it unless its size changes in larger jumps or the steps
    are the finest. It is written to RUN/artifact-BYTES.bg, with its recipe beside it as .json; the run is not changed.
    """
    from bitgolf.commands.pack import pack_to_cap
    from bitgolf.commands.tables import pack_table

    document = pack_to_cap(run, cap, self_contained=self_contained)
    print_result(as_json, document, pack_table(document))
