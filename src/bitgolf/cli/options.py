"""Options that several commands share, and the printing of results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from unicodedata import category

import typer

from bitgolf.cli.completion import (
    DEVICES,
    complete_artifact,
    complete_chain,
    complete_recipe,
    complete_run,
    complete_setting,
    one_of,
)
from bitgolf.cli.failures import STANDARD_OUTPUT
from bitgolf.errors import UsageError
from bitgolf.files import encode_json
from bitgolf.report.display import current_display
from bitgolf.report.progress import Progress
from bitgolf.report.wrapping import line_width, wrap

LARGEST_SEED = 2**63 - 1
LARGEST_COUNT = 10**15
"""Of bytes, tokens or files."""
MOST_PROCESSES = 1024


QuickFlag = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Make the recipe a toy that runs in seconds, for trying things: a short clock, the start of the text, small "
        "batches and widths, one score of a sample, no round trip. --set applies after it.",
    ),
]
JsonFlag = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON document on standard output, everything else on standard error."
    ),
]


def at_most(highest: int) -> Callable[[typer.CallbackParam, int | None], int | None]:
    """Return a callback that raises `UsageError` for a number above `highest`, which the help need not show."""

    def check(param: typer.CallbackParam, value: int | None) -> int | None:
        if value is not None and value > highest:
            raise UsageError(f"must be at most {highest:,}, got {value:,}", where=max(param.opts, key=len))
        return value

    return check


def tokens_option(help: str) -> Any:
    """The option `--tokens`: a number of held-out tokens."""
    return typer.Option("--tokens", metavar="N", min=64, callback=at_most(LARGEST_COUNT), help=help)


def count_option(name: str, help: str) -> Any:
    """An option with a number of bytes, targets or other things, from 0 on."""
    return typer.Option(name, metavar="N", min=0, callback=at_most(LARGEST_COUNT), help=help)


def check_assignments(context: typer.Context, values: list[str]) -> list[str]:
    """The values of --set or --add. Raises `UsageError` for one that is followed by its VALUE as a word of its own."""
    words: Sequence[str] = context.obj or ()
    for value in values:
        at = words.index(value) + 1 if value in words else len(words)
        following = [word for word in words[at : at + 2] if word != "="][:1]
        if "=" not in value and following and not following[0].startswith("-"):
            hint = f"write it as one word without spaces: {value}={following[0].removeprefix('=')}"
            raise UsageError(f"expected PATH=VALUE, got {value!r}", where=words[at - 2], hint=hint)
    return values


SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        callback=check_assignments,
        autocompletion=complete_setting,
        help="Set the value at a path of the recipe. The path may leave out segments before its last one if only one "
        "setting can be meant: seconds=60, model.mlp.hidden=512, Muon.lr=0.02. May be repeated.",
    ),
]
AddOption = Annotated[
    list[str],
    typer.Option(
        "--add",
        metavar="PATH=PART",
        callback=check_assignments,
        autocompletion=complete_chain,
        help="Add a part to the end of a chain, such as post_embed='EmbeddingNorm()', or a rule before the first one that "
        "matches the same. May be repeated; --set and --add apply in the order in which they are given.",
    ),
]


def edits_in_order(context: typer.Context, sets: Sequence[str], adds: Sequence[str]) -> list[str]:
    """The values of --set, and those of --add as `PATH+=PART`, in the order of the command line."""
    given = {"--set": list(sets), "--add": [addition.replace("=", "+=", 1) for addition in adds]}
    options = (given.get(word.partition("=")[0]) for word in context.obj or ())
    edits = [values.pop(0) for values in options if values]
    return [*edits, *given["--set"], *given["--add"]]


TextOption = Annotated[
    list[Path],
    typer.Option(
        "--text",
        metavar="PATH",
        help="A file, a folder, a pattern in quotes, or - for standard input: any text, jsonl, ndjson, json, csv, tsv "
        "or parquet; plain, as .gz, .bz2, .xz or .zst, or in a .zip or .tar archive. May be repeated.",
    ),
]
KeyOption = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="NAME",
        help="Key or column that holds the text in jsonl, json, csv or parquet. Default: text, else content.",
    ),
]
SkipNullFlag = Annotated[
    bool, typer.Option("--skip-null", help="Skip and count records whose text is null or missing, instead of failing.")
]
StrictFlag = Annotated[
    bool,
    typer.Option("--strict", help="A file that is not text is an error in a folder, too, instead of being skipped."),
]
ShardsOption = Annotated[
    Path | None,
    typer.Option(
        "--shards",
        metavar="DIR",
        help="A folder of shards: written by `data make`, or published files with `train` or `val` in their names.",
    ),
]
ShardTokenizerOption = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="FILE",
        help="The tokenizer that made the shards. Default: the one in their folder.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="KIND",
        autocompletion=one_of(*DEVICES),
        help="Kind of device: auto (CUDA if available), cuda, cpu or mps (experimental).",
    ),
]


def newest_run(path: Path | None) -> Path | None:
    """The path of an argument; for `latest`, the folder of the newest run. Raises `UsageError` if there is none."""
    return path if path is None else Path(recipe_or_newest_run(str(path)))


def recipe_or_newest_run(name: str) -> str:
    """An argument as it is, except for `latest`, which stands for the folder of the newest run."""
    if name != "latest":
        return name
    from bitgolf.pipeline.latest_run import latest_run

    found = latest_run()
    current_display().message(f"latest is {found}")
    return str(found)


ArtifactArgument = Annotated[
    Path,
    typer.Argument(
        metavar="ARTIFACT",
        autocompletion=complete_artifact,
        callback=newest_run,
        help="A packed model: the file artifact.bg, the folder of its run, or latest, the newest run below runs/.",
    ),
]
RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        callback=newest_run,
        autocompletion=complete_run,
        help="The folder of a trained run, or latest, the newest run below runs/.",
    ),
]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        autocompletion=complete_recipe,
        callback=recipe_or_newest_run,
        help="A recipe: its name, a recipe.json, FILE.py:NAME for one of your own, the folder of a run (./NAME if a "
        "recipe has its name), or latest, the newest run below runs/.",
    ),
]


def start_work() -> None:
    """Show that a command has started: the packages that most commands need take seconds to import."""
    current_display().progress(Progress("start"))


def print_result(as_json: bool, result: Any, text: str) -> None:
    """Print the result of a command: `result` as JSON, or `text`, in lines that fit. Neither need be valid Unicode."""
    if as_json:
        import msgspec

        write_output(json.dumps(msgspec.to_builtins(result), indent=1, ensure_ascii=False) + "\n")
    else:
        width = line_width(sys.stdout)
        lines = (part for line in text.split("\n") for part in wrap(line, width, rest="  "))
        write_output("".join(f"{line}\n" for line in lines))


def write_sampled(text: str) -> None:
    """Write a text of a model to standard output at once.

    On a terminal, which would obey them, control characters except line breaks and tabs are written as escapes.
    """
    if sys.stdout.isatty():
        text = "".join(char if char in "\n\t" or category(char)[0] != "C" else repr(char)[1:-1] for char in text)
    write_output(text)


def write_output(text: str) -> None:
    """Write a text, which need not be valid Unicode, to standard output at once."""
    current_display().before_result()
    try:
        print(encode_json(text).decode(), end="", file=sys.stdout, flush=True)
    except OSError as error:
        error.filename = STANDARD_OUTPUT
        raise
