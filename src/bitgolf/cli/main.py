"""The program `bitgolf` and its commands, in the order of `--help`. Only the commands that need torch import it.

`runs`: commands on recipes and runs. `sweep`: many runs. `doctor`: checks of a run or the machine. `artifacts`, `coding`: commands on a packed model.
`data`: commands on shards. `submissions`: commands on record folders. `other_formats`: artifacts for other programs. `store`: commands on many runs. `watch`: following a run. `audit`: audits of scores. `options`: options that several commands share; `run_options`: those of `run`.
`on_hosts`: several processes that torchrun or srun has started. `completion`: what TAB offers. `failures`: messages of exceptions. `usage_errors`: those of the parser.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import cache
from typing import Annotated, Any

import typer

from bitgolf import __version__
from bitgolf.cli import artifacts, coding, data, other_formats, runs, store, submissions
from bitgolf.cli.audit import audit
from bitgolf.cli.doctor import doctor
from bitgolf.cli.failures import finish_output, report_failure
from bitgolf.cli.global_options import GlobalOptions, split_global_options
from bitgolf.cli.on_hosts import run_on_hosts
from bitgolf.cli.sweep import sweep
from bitgolf.cli.watch import watch
from bitgolf.report.display import open_display, shown_on
from bitgolf.runtime.openmp import limit_spinning

COMPLETION_VARIABLE = "_BITGOLF_COMPLETE"
"""Environment variable with which a shell asks for completions."""

EVERY_COMMAND = "Options of every command, see `bitgolf --help`: --quiet, --verbose, --width N, --debug."

app = typer.Typer(
    name="bitgolf",
    help="Train and compress the best language model that fits a byte budget and a time budget, and prove its score.",
    epilog="Start here:  bitgolf run quickstart",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    runs.recipes,
    runs.show,
    runs.diff,
    runs.run,
    watch,
    artifacts.score,
    coding.compress,
    coding.decompress,
    artifacts.generate,
    artifacts.ledger,
    audit,
    doctor,
    runs.pack,
    sweep,
    submissions.export,
    submissions.check,
    submissions.record,
    submissions.bundle,
    submissions.verify,
    store.runs,
    store.compare,
):
    app.command(epilog=EVERY_COMMAND)(command)
app.command("to-hf", epilog=EVERY_COMMAND)(other_formats.to_hf)
app.command("to-web", epilog=EVERY_COMMAND)(other_formats.to_web)
app.command("import", epilog=EVERY_COMMAND)(store.import_logs)
app.add_typer(data.app, name="data")


def print_version(value: bool) -> None:
    """Callback of `--version`: print the version and exit."""
    if value:
        print(f"bitgolf {__version__}")
        raise typer.Exit


@app.callback()
def every_command(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show no messages and no progress: only the result, or the error.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show more messages, and all tables of the result of `run`.")
    ] = False,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            metavar="N",
            help="Columns that tables and messages fit. Default: those of the terminal; without one, 80.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the program; --quiet, --verbose, --width and --debug may stand anywhere.

    They are here for the help: `split_global_options` reads them.
    """


def main() -> None:
    """Run the command line, and exit unless the command succeeded.

    The exit status is 2 for wrong usage, 1 for a failure, 130 after an interrupt, 141 if the reader of the output ended
    first. Tracebacks are shown only with --debug, which may stand anywhere.
    """
    limit_spinning()
    if status := run_command_line(sys.argv[1:]):
        sys.exit(status)


def run_command_line(words: Sequence[str]) -> int:
    """Run one command and return its exit status. No exception leaves this function, except `SystemExit`.

    words: the command line, with options of the program anywhere.
    """
    options = GlobalOptions(debug="--debug" in words)  # until the options are known
    try:
        options, words = split_global_options(words, _options_with_value())
        with _applied(options):
            return run_on_hosts(
                words,
                lambda: _invoke(list(words) or ["--help"]) or finish_output(),
                lambda error: report_failure(error, words, debug=options.debug),
            )
    except SystemExit:
        raise
    except BaseException as error:
        return report_failure(error, words, debug=options.debug)


@contextmanager
def _applied(options: GlobalOptions) -> Iterator[None]:
    """Show messages and progress as the options ask for, for the duration of a command."""
    if options.width:
        os.environ["COLUMNS"] = str(options.width)  # typer and rich read it, too
    with shown_on(open_display(quiet=options.quiet, verbose=options.verbose)):
        yield


def _invoke(words: list[str]) -> int:
    """Parse the command line and call the command; returns its exit status."""
    program = command_parser()
    if COMPLETION_VARIABLE in os.environ:
        return _answer_shell(program)
    try:
        with program.make_context("bitgolf", list(words), obj=tuple(words)) as context:
            program.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


def _answer_shell(program: Any) -> int:
    """Print what a shell asks for after TAB; returns the exit status. Messages would appear in the line that is typed."""
    try:
        with redirect_stderr(io.StringIO()):
            program.main([], prog_name="bitgolf")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except Exception:
        return 1
    return 0


@cache
def command_parser() -> Any:
    """Typer's parser of the program; building it takes as long as a short command."""
    program = typer.main.get_command(app)
    _tidy_help(program)
    return program


@cache
def _options_with_value() -> frozenset[str]:
    """Names of the options of all commands that take a value, as the word after them."""
    commands, found = [command_parser()], set[str]()
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        for option in command.params:
            if option.param_type_name == "option" and not option.is_flag:
                found.update(option.opts)
    return frozenset(found)


def _tidy_help(command: Any) -> None:
    """Let the help wrap whole paragraphs, and show no type for options without a value, also of commands below."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for param in command.params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    for below in getattr(command, "commands", {}).values():
        _tidy_help(below)
