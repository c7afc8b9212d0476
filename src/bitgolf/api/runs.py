"""Runs in Python: training by a recipe, and the results in the folder of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bitgolf.api.calls import library_call
from bitgolf.api.models import Model, load
from bitgolf.api.paths import AnyPath, newest_or_named, optional_path, to_paths
from bitgolf.api.recipes import open_recipe
from bitgolf.api.tables import Table
from bitgolf.config.paths import resolve_path
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.reporting import read_result
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.stages import STAGE_NAMES
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.state import open_run as read_run
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.events import StepRow, read_events, training_steps
from bitgolf.report.log import RunLog
from bitgolf.report.observers import Observer
from bitgolf.text.read_report import ReadOptions
from bitgolf.tracking.choose import make_trackers


def train(
    recipe: AnyPath | Spec[Recipe],
    *,
    text: AnyPath | Sequence[AnyPath] = (),
    key: str = "",
    skip_null: bool = False,
    strict: bool = False,
    shards: AnyPath | None = None,
    tokenizer: AnyPath | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    set: Mapping[str, Any] | None = None,
    out: AnyPath | None = None,
    seed: int | None = None,
    devices: int = 1,
    device: str = "auto",
    from_stage: str | None = None,
    resume: bool = False,
    strict_cap: bool = False,
    quick: bool = False,
    score_tokens: int | Literal["all"] | None = None,
    progress: bool = True,
    observer: Observer | None = None,
    track: str | Sequence[str] = (),
) -> RunFolder:
    """Run a recipe, as `bitgolf run` does, and return its folder. Stages done with the same settings are reused.

    recipe: a value, a name or file, or the folder of a run. seconds, steps: limits of training; 0 means none. set: path in
    the recipe -> value or part. observer: receives each event; a text that it returns stops the run. All others are as
    the options of `bitgolf run`. `Stopped` and `KeyboardInterrupt` save a training. A refused call changes nothing.
    """
    reading, observers = ReadOptions(key, skip_null, strict), [observer] if observer else []
    given = GivenInputs(to_paths(text), optional_path(shards), optional_path(tokenizer), reading, seed, score_tokens)
    trackers, first = to_trackers(track), _checked_stage(from_stage)
    options = ExecutionOptions(devices, device, first, resume, strict_cap, track=trackers)
    with library_call(progress=progress):
        argument, base = open_recipe(recipe, quick=quick)
        changed = _changed(base, {"train.seconds": seconds, "train.steps": steps}, set or {})
        done = run_recipe(changed, given, options, argument=argument, out=optional_path(out), observers=observers)
    return RunFolder(Path(done.run))


def _changed(recipe: Spec[Recipe], limits: Mapping[str, float | None], changes: Mapping[str, Any]) -> Spec[Recipe]:
    """The recipe with the limits that are not None, then the changes."""
    given = {path: value for path, value in limits.items() if value is not None}
    for path, value in [*given.items(), *changes.items()]:
        recipe = recipe.set(resolve_path(recipe, path), value)
    return recipe


def _checked_stage(name: str | None) -> str | None:
    if name is not None and name not in STAGE_NAMES:
        raise UsageError(f"unknown stage {name!r}", where="from_stage", hint=f"stages: {', '.join(STAGE_NAMES)}")
    return name


def to_trackers(given: str | Sequence[str]) -> tuple[str, ...]:
    """Trackers as a tuple. Raises `UsageError` for one that cannot be used."""
    found = (given,) if isinstance(given, str) else tuple(given)
    make_trackers(found)
    return found


def open_run(folder: AnyPath) -> RunFolder:
    """Open the folder of a run, or `latest`, the newest run below runs/, to read its results.

    Raises `UsageError` if there is no run, and `FormatVersionError` if it has another format.
    """
    with library_call(progress=False):
        return RunFolder(newest_or_named(folder))


class RunFolder:
    """The folder of a run and the results in it, which are read when they are asked for.

    Raises `UsageError` for what the run has not reached yet, with how to continue it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run()  # raises if the folder has no run

    def __repr__(self) -> str:
        done = self.stages
        state = f"done up to {done[-1]}" if done else "no stage is done"
        if done == list(STAGE_NAMES):
            scores = ", ".join(f"{stage} {bpb:.4f}" for stage, bpb in self.score.items())
            state = f"{scores} bpb" if scores else "done, not scored"
        return f"RunFolder({str(self.folder)!r}: {self.recipe['name']}, {state})"

    def _run(self) -> Run:
        return read_run(self.folder, RunLog(quiet=True))

    @property
    def stages(self) -> list[str]:
        """Names of the stages that are done, in order."""
        return list(self._run().completed)

    @cached_property
    def recipe(self) -> Spec[Recipe]:
        """The recipe of the run."""
        return self._run().recipe

    @property
    def seed(self) -> int:
        """The random seed of the run."""
        return self._run().seed

    @property
    def result(self) -> RunResult:
        """All results; the fields are the keys of `bitgolf run --json`."""
        self._require("report")
        return read_result(self._run())

    @property
    def score(self) -> dict[str, float]:
        """Bits per byte of the held-out text: `trained`, `averaged` and `packed` weights, then methods by name.

        Empty for a run that was not scored.
        """
        return {stage: bpb for stage, bpb in self.result.bpb.items() if bpb is not None}

    @property
    def log(self) -> Table[StepRow]:
        """The training steps: `step`, `loss` (nats per token), `tokens` and `training_seconds` so far."""
        return Table(StepRow, training_steps(self.events))

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of the log, each with its kind (`event`), its time in seconds since 1970, and further fields."""
        return read_events(RunFiles(self.folder).log).events

    @property
    def artifact(self) -> Path:
        """The packed model."""
        self._require("pack")
        return RunFiles(self.folder).artifact

    @property
    def report(self) -> Path:
        """The result as a page, report.html."""
        self._require("report")
        return RunFiles(self.folder).html_report

    def model(self, *, device: str = "auto") -> Model:
        """Load the packed model; see `load`."""
        return load(self.artifact, device=device)

    def _require(self, stage: str) -> None:
        if stage not in self.stages:
            hint = f"bitgolf.train({str(self.folder)!r}, resume=True) continues the run"
            raise UsageError(f"the run has not reached the stage {stage} yet", where=str(self.folder), hint=hint)
