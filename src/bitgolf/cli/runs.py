"""Recipes and runs: `recipes`, `show`, `diff`, `run`, `doctor`, `pack`, `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitgolf.cli.options import DeviceOption, JsonFlag, RunArgument, SetOption, ShardsOption, TextOption, print_result
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.recipes import describe, load_recipe, published_bpb, recipe_names

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe


def _resolve(recipe: str, sets: list[str]) -> Spec[Recipe]:
    """A recipe by name, by its JSON file, or by the folder of a run, which has to be of this version's format."""
    from bitgolf.pipeline.state import check_format

    if Path(recipe).is_dir():
        check_format(Path(recipe))
    return load_recipe(recipe, sets)


def recipes(as_json: JsonFlag = False) -> None:
    """List the recipes, with the bits per byte that their authors published."""
    known = {name: describe(name) for name in recipe_names()}
    lines = [f"{'recipe':18s} {'published bpb':16s} what it is"]
    for name, line in known.items():
        stage, bpb = published_bpb(name) or ("", "-")
        lines.append(f"{name:18s} {f'{bpb} {stage}':16s} {line}")
    print_result(as_json, known, "\n".join(lines))


def show(recipe: str, sets: SetOption = [], as_json: JsonFlag = False) -> None:  # noqa: B006
    """Resolve a recipe: parameters by role, forecast of the packed bytes, cautions. Trains nothing."""
    from bitgolf.commands.show import describe_recipe
    from bitgolf.commands.tables import show_table

    document = describe_recipe(_resolve(recipe, sets))
    print_result(as_json, document, show_table(document))


def diff(a: str, b: str, as_json: JsonFlag = False) -> None:
    """Compare two recipes, path by path."""
    from bitgolf.config.edits import diff as spec_diff

    rows = spec_diff(_resolve(a, []), _resolve(b, []))
    document = [{"path": p, "a": x, "b": y} for p, x, y in rows]
    print_result(as_json, document, "\n".join(f"{p}: {x!r} -> {y!r}" for p, x, y in rows) or "the same")


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a recipe.json, or an earlier run's folder.")],
    sets: SetOption = [],  # noqa: B006
    text: TextOption = [],  # noqa: B006
    shards: ShardsOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder. Default: runs/NAME-HASH-sSEED.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    devices: Annotated[
        int, typer.Option("--devices", min=1, help="Processes to train and score with, one GPU each if there are any.")
    ] = 1,
    device: DeviceOption = "auto",
    first: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Do this stage and the later ones again.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished training.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """The whole pipeline, or its rest: prepare, train, average, calibrate, quantize, pack, score, report."""
    from bitgolf.commands.tables import run_table
    from bitgolf.pipeline.execute import run_recipe
    from bitgolf.pipeline.stages import STAGE_NAMES

    if first is not None and first not in STAGE_NAMES:
        raise UsageError(f"unknown stage {first!r}", hint=f"stages: {', '.join(STAGE_NAMES)}")
    document = run_recipe(
        recipe,
        _resolve(recipe, sets),
        text=text,
        shards=shards,
        out=out,
        seed=seed,
        processes=devices,
        device=device,
        from_stage=first,
        resume=resume,
    )
    print_result(as_json, document, run_table(document))


def doctor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was quantized.")],
    tokens: Annotated[
        int, typer.Option("--tokens", min=64, help="Held-out tokens to measure on; half as many calibrate.")
    ] = 16384,
    each: Annotated[bool, typer.Option("--each", help="Measure every tensor, not kinds of them together.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Where the bits per byte went that quantization cost, and what is wrong with it. Exit status 1 for an error."""
    from bitgolf.commands.doctor import diagnose_run as examine
    from bitgolf.commands.tables import doctor_table

    document = examine(run, tokens=tokens, per_tensor=each, device=device)
    print_result(as_json, document, doctor_table(document))
    if not document.passes:
        raise typer.Exit(1)


def pack(
    run: RunArgument,
    cap: Annotated[
        int | None,
        typer.Option("--cap", min=1, metavar="BYTES", help="The most bytes, decimal. Default: the recipe's."),
    ] = None,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="Count the whole file, not the model alone.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Quantize and pack a run's weights again with the steps that fill a cap: never over it, 0.05 % under it at most."""
    from bitgolf.commands.pack import pack_to_cap
    from bitgolf.commands.tables import pack_table

    document = pack_to_cap(run, cap, self_contained=self_contained)
    print_result(as_json, document, pack_table(document))


def sweep(
    run: RunArgument,
    sets: Annotated[
        list[str],
        typer.Option("--set", metavar="PATH=VALUE,VALUE", help="Values to try at a path of `quantize` or `pack`."),
    ],
    measure: Annotated[bool, typer.Option("--score", help="Measure bits per byte, not only predict.")] = False,
    tokens: Annotated[int, typer.Option("--tokens", min=64, help="Held-out tokens to measure on.")] = 65536,
    as_json: JsonFlag = False,
) -> None:
    """Every combination of settings on a run's weights, without training: bytes and bits per byte, in one table."""
    from bitgolf.commands.sweep import sweep as sweep_run
    from bitgolf.commands.tables import sweep_table

    document = sweep_run(run, sets, tokens=tokens if measure else None)
    print_result(as_json, document, sweep_table(document))
