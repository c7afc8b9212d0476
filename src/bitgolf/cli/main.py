"""The program `bitgolf` and its commands, in the order of `--help`. Only the commands that need torch import it.

`runs`: commands on recipes and runs. `artifacts`: commands on a packed model. `data`: commands on shards. `options`:
options that several commands share. `failures`: messages of exceptions.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Annotated, Any

import typer

from bitgolf import __version__
from bitgolf.cli import artifacts, data, runs
from bitgolf.cli.failures import finish_output, report_failure
from bitgolf.runtime.openmp import limit_spinning

app = typer.Typer(
    name="bitgolf",
    help="Train and compress the best language model that fits a byte budget and a time budget, and prove its score.",
    epilog="Start here:  bitgolf run quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    runs.recipes,
    runs.show,
    runs.diff,
    runs.run,
    artifacts.score,
    artifacts.compress,
    artifacts.decompress,
    artifacts.generate,
    artifacts.ledger,
    runs.doctor,
    runs.pack,
    runs.sweep,
):
    app.command()(command)
app.add_typer(data.app, name="data")


def print_version(value: bool) -> None:
    """Callback of `--version`: print the version and exit."""
    if value:
        print(f"bitgolf {__version__}")
        raise typer.Exit


@app.callback()
def every_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the program. `main` reads --debug; it is here for the help."""


def main() -> None:
    """Run the command line, and exit unless the command succeeded.

    The exit status is 2 for wrong usage, 1 for a failure, 130 after an interrupt, 141 if the reader of the output ended
    first. Tracebacks are shown only with --debug, which may stand anywhere.
    """
    limit_spinning()
    words = [word for word in sys.argv[1:] if word != "--debug"]
    if status := run_command_line(words, debug="--debug" in sys.argv):
        sys.exit(status)


def run_command_line(words: list[str], *, debug: bool = False) -> int:
    """Run one command and return its exit status. No exception leaves this function, except `SystemExit`.

    debug: print the traceback of an exception, too.
    """
    try:
        return _invoke(words or ["--help"]) or finish_output()
    except SystemExit:
        raise
    except BaseException as error:
        return report_failure(error, debug=debug)


def _invoke(words: list[str]) -> int:
    """Parse the command line and call the command; returns its exit status."""
    program = _program()
    try:
        with program.make_context("bitgolf", words) as context:
            program.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


@cache
def _program() -> Any:
    """Typer's parser of the program; building it takes as long as a short command."""
    return typer.main.get_command(app)
