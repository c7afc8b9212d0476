"""The command `watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.completion import complete_run
from bitgolf.cli.options import JsonFlag, print_result, recipe_or_newest_run

WatchedRun = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        callback=recipe_or_newest_run,
        autocompletion=complete_run,
        help="The folder of a run, latest, or HOST:PATH of another machine, which is read by ssh.",
    ),
]
EveryOption = Annotated[float, typer.Option("--every", metavar="S", help="Seconds between two looks at the run.")]
PageOption = Annotated[
    Path | None,
    typer.Option("--page", metavar="FILE", help="Also write the state as a web page, which browsers load again."),
]
WaitFlag = Annotated[bool, typer.Option("--wait", help="Wait for a run that has not begun.")]
OnceFlag = Annotated[bool, typer.Option("--once", help="Print the state of the run now, and end.")]


def watch(
    run: WatchedRun,
    every: EveryOption = 2.0,
    page: PageOption = None,
    wait: WaitFlag = False,
    once: OnceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Follow a run: stage, loss as a chart, validation, speed and time left, warnings, and the result when it ends.

    Only its log and the name of its process are read; nothing is written to its folder, and the run takes no notice. The
    exit status is 0 if the run finished, and 1 if it did not.
    """
    from bitgolf.commands.watch import final_lines, watch

    view = watch(run, every=every, page=page, wait=wait, once=once)
    print_result(as_json, view.state, "\n".join(final_lines(view)))
    if view.state.status != "finished" and not once:
        raise typer.Exit(1)
