"""The options of `run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bitgolf.cli.completion import STAGES, complete_run, one_of
from bitgolf.cli.options import LARGEST_COUNT, LARGEST_SEED, MOST_PROCESSES, at_most
from bitgolf.errors import UsageError
from bitgolf.tracking.choose import make_trackers

if TYPE_CHECKING:
    from bitgolf.pipeline.auto_choice import AutoRequest

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="The folder of the run. Default: the one that RECIPE names, or runs/NAME-HASH-sSEED.",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        callback=at_most(LARGEST_SEED),
        help="Random seed of training. Default: 0. With the folder of a run, --seed, --text and --shards are those of the "
        "run, and others are refused (--from prepare begins it again).",
    ),
]
StrictCapFlag = Annotated[
    bool, typer.Option("--strict-cap", help="Do not train if the artifact is forecast to be over the cap.")
]
DevicesOption = Annotated[
    int,
    typer.Option(
        "--devices",
        metavar="N",
        min=1,
        max=MOST_PROCESSES,
        help="Number of processes to train and score with, one GPU each on a GPU machine. Under torchrun or srun: that "
        "of the processes started.",
    ),
]


def check_stage(name: str | None) -> str | None:
    """The value of --from. Raises `UsageError` if there is no such stage."""
    if name is not None:
        from bitgolf.pipeline.stages import STAGE_NAMES

        if name not in STAGE_NAMES:
            raise UsageError(f"unknown stage {name!r}", where="--from", hint=f"stages: {', '.join(STAGE_NAMES)}")
    return name


FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STAGE",
        autocompletion=one_of(*STAGES),
        callback=check_stage,
        help="Run this stage and all later ones again.",
    ),
]


def parse_score_tokens(given: str) -> int | Literal["all"] | None:
    """The value of --score-tokens; None if it is not given. Raises `UsageError` if it is neither a number nor `all`."""
    if given == "all" or not given:
        return "all" if given else None
    if not (given.isdecimal() and int(given) <= LARGEST_COUNT):
        message = f"expected a number of tokens, or all, got {given!r}"
        raise UsageError(message, where="--score-tokens", hint="0 leaves scoring out")
    return int(given)


ScoreTokensOption = Annotated[
    str,
    typer.Option(
        "--score-tokens",
        metavar="N",
        help="Score a sample of whole held-out documents with about N tokens, chosen by hash; 0 leaves scoring out; all "
        "scores all of them. Default: all, or what the run in the folder was given; 8,000 with --quick.",
    ),
]
CapOption = Annotated[
    int | None,
    typer.Option(
        "--cap",
        metavar="BYTES",
        callback=at_most(LARGEST_COUNT),
        help="With the recipe auto, which chooses its sizes from this, --seconds, the text and the speed of the machine: "
        "bytes of the artifact. Default: 1,000,000. For other recipes: --set pack.cap=BYTES.",
    ),
]
SecondsOption = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        metavar="S",
        help="With the recipe auto: seconds of training, calibration included. Default: 90. For other recipes: --set "
        "train.seconds=S.",
    ),
]
SpeedOption = Annotated[
    float | None,
    typer.Option(
        "--speed",
        metavar="FLOPS",
        help="With the recipe auto: training speed to assume, in floating-point operations per second, such as 7e10. "
        "Default: measured in about 5 s.",
    ),
]
ReuseOption = Annotated[
    list[Path],
    typer.Option(
        "--reuse",
        metavar="FOLDER",
        autocompletion=complete_run,
        help="A run, or a folder with runs: stages with the same inputs and settings are taken over from it instead of "
        "being executed. May be repeated.",
    ),
]


def check_trackers(values: list[str]) -> list[str]:
    """The values of --track. Raises `UsageError` for one that is no tracker, or whose package is missing."""
    make_trackers(values)
    return values


TrackOption = Annotated[
    list[str],
    typer.Option(
        "--track",
        metavar="TRACKER",
        autocompletion=one_of("tensorboard:", "wandb:", "trackio:"),
        callback=check_trackers,
        help="Send losses, learning rates, scores and sizes to a tracker: tensorboard:FOLDER, wandb:PROJECT (offline "
        "unless WANDB_MODE says otherwise) or trackio:PROJECT. May be repeated.",
    ),
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Continue an unfinished training from its last checkpoint.")]


def auto_options(recipe: str, cap: int | None, seconds: float | None, speed: float | None) -> AutoRequest | None:
    """What is asked of the recipe `auto`; None for another recipe. Raises `UsageError` if that is given its options."""
    if recipe == "auto":
        from bitgolf.pipeline.auto_choice import auto_request

        return auto_request(cap, seconds, speed)
    instead = {"--cap": "--set pack.cap=BYTES", "--seconds": "--set train.seconds=S", "--speed": "the recipe auto"}
    for (option, hint), value in zip(instead.items(), (cap, seconds, speed), strict=True):
        if value is not None:
            raise UsageError(f"only the recipe auto takes this option, not {recipe}", where=option, hint=f"use {hint}")
    return None
