"""The program `bitgolf` and its commands, in the order of `--help`. Only the commands that need torch import it.

`runs`: commands on recipes and runs. `artifacts`: commands on a packed model. `data`: commands on shards. `options`:
options that several commands share.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bitgolf import __version__
from bitgolf.cli import artifacts, data, runs
from bitgolf.errors import BitgolfError
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
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that precede every command."""


def main() -> None:
    """Run the command line.

    The exit status is 2 for wrong usage, 1 for a failure, 130 after an interrupt. Tracebacks are shown only with
    --debug.
    """
    limit_spinning()
    try:
        app()
    except BitgolfError as error:
        if "--debug" in sys.argv:
            raise
        print(f"bitgolf: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
