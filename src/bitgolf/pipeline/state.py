"""The state of a run: its recipe and inputs, the files of its folder, and the outcomes of its stages.

`inputs.json` contains the format number of the folder. A folder of another format is refused before anything in it is
changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from bitgolf.config.recipe_file import read_recipe, write_recipe
from bitgolf.config.requirements import required_code
from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError, FormatVersionError, UsageError, error_location
from bitgolf.files import (
    has_own_digest,
    read_checked_json,
    read_json,
    with_digest,
    write_bytes,
    write_checked_json,
    write_json,
)
from bitgolf.pipeline.pending import PendingResults
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.recipes.choose import Choice
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.text.read_report import DEFAULT_OPTIONS, ReadOptions

RUN_FORMAT = 5
"""Format number of run folders: their files, and the keys in them."""

Outcome = TypeVar("Outcome")
ScoreTokens = Annotated[int, msgspec.Meta(ge=0)] | Literal["all"]
"""Held-out tokens to score: a sample of whole documents with about so many, none for 0, or all."""


class RunInputs(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of `inputs.json`. text: absolute paths of files, folders and patterns; shards: absolute path of a folder.

    reading: how the text is read. tokenizer: absolute path of the tokenizer of the shards; None for the one in their
    folder. score_tokens: how much of the held-out text is scored; unlike the others, it may change from run to run.
    auto: what was chosen for the recipe `auto`, None for another recipe.
    """

    seed: int
    text: tuple[str, ...] = ()
    reading: ReadOptions = DEFAULT_OPTIONS
    shards: str | None = None
    tokenizer: str | None = None
    score_tokens: ScoreTokens = "all"
    auto: Choice | None = None
    format: int = RUN_FORMAT


@dataclass(frozen=True)
class Run:
    """A run: a recipe, a seed, the text, and the folder of all results.

    text_paths: files, folders and patterns of text; reading: how their records are read; shards: a folder of shards;
    tokenizer: file of their tokenizer, None for the one in their folder; without text and shards, the recipe's text is
    used. score_tokens: how much of the held-out text is scored. auto: what was chosen for the recipe `auto`.
    devices: number of processes that train, calibrate and score. device_type: their kind, as in `select_device`.
    resume: continue an unfinished training. train_until: fraction of the training after which it is left unfinished;
    1 for all of it. overwrite: training may replace the checkpoints in the folder.
    completed: stage -> its key, seconds and outcome, in order; the same mapping as in `stages.json`.
    pending: results that are not written yet.
    """

    recipe: Spec[Recipe]
    folder: Path
    log: RunLog
    seed: int = 0
    text_paths: tuple[str, ...] = ()
    shards: Path | None = None
    devices: int = 1
    device_type: str = "auto"
    resume: bool = False
    train_until: float = 1.0
    overwrite: bool = False
    completed: dict[str, dict[str, Any]] = field(default_factory=dict)
    reading: ReadOptions = DEFAULT_OPTIONS
    tokenizer: Path | None = None
    score_tokens: ScoreTokens = "all"
    auto: Choice | None = None
    pending: PendingResults = field(default_factory=PendingResults)

    @property
    def inputs(self) -> RunInputs:
        """The contents of `inputs.json`."""
        return RunInputs(
            seed=self.seed,
            text=self.text_paths,
            reading=self.reading,
            shards=str(self.shards) if self.shards else None,
            tokenizer=str(self.tokenizer) if self.tokenizer else None,
            score_tokens=self.score_tokens,
            auto=self.auto,
        )

    @property
    def files(self) -> RunFiles:
        """Paths of the files of the run's folder."""
        return RunFiles(self.folder)

    @property
    def data_folder(self) -> Path:
        """Folder of the manifest and of the tokenizer. Shards that were given with `shards` stay where they are."""
        return self.folder / "data"

    @property
    def new_data_folder(self) -> Path:
        """Where the stage `prepare` writes. It takes the place of `data_folder` when it is complete."""
        return self.folder / "data.new"

    def settings(self, *names: str) -> list[Any]:
        """JSON values of these fields of the recipe."""
        whole = self.recipe.to_json()
        return [whole[name] for name in names]

    def outcome(self, stage: str, kind: type[Outcome]) -> Outcome:
        """Outcome of a completed stage. Raises `CorruptFileError` if it is missing or of another type."""
        try:
            return msgspec.convert(self.completed[stage], kind)
        except (KeyError, msgspec.ValidationError) as error:
            message = f"the outcome of the stage {stage} is missing or damaged ({error})"
            raise CorruptFileError(
                message, where=str(self.files.stages), hint=f"--from {stage} runs the stage again"
            ) from error

    def start_writing(self, earlier: Mapping[str, dict[str, Any]]) -> None:
        """Make the folder that of this run: its log, inputs and recipe, and the outcomes of `earlier` stages alone."""
        self.log.start_writing()
        self.files.stopped.unlink(missing_ok=True)
        write_checked_json(
            self.files.inputs, msgspec.to_builtins(self.inputs)
        )  # first: it has the format of the folder
        self.record(earlier)
        write_recipe(self.files.recipe, self.recipe)
        for file in required_code(self.recipe.to_json()):
            write_bytes(self.files.code / file.name, file.source)

    def record(self, stages: Mapping[str, dict[str, Any]]) -> None:
        """Replace the outcomes of all stages, here and in `stages.json`, where each has a digest of its contents."""
        kept = {stage: with_digest(done) for stage, done in stages.items()}
        self.completed.clear()
        self.completed.update(kept)
        write_json(self.files.stages, self.completed)


def read_inputs(folder: Path) -> RunInputs:
    """Read `inputs.json` of a run folder.

    Raises `FormatVersionError` if the folder has another format, and `CorruptFileError` if the file is not valid.
    """
    file = RunFiles(folder).inputs
    try:
        written = read_checked_json(file)
        if (found := written.get("format")) != RUN_FORMAT:
            raise FormatVersionError("the run folder", found=found, supported=RUN_FORMAT, where=str(folder))
        return msgspec.convert(written, RunInputs)
    except FormatVersionError:
        raise
    except (CorruptFileError, msgspec.ValidationError) as error:
        hint = f"`bitgolf run RECIPE --out {folder}` with the text and the seed of this run writes it again"
        raise CorruptFileError(f"not the inputs of a run ({error})", where=str(file), hint=hint) from error


def check_format(folder: Path) -> None:
    """Raise `FormatVersionError` if a folder holds a run of another format.

    A folder without a run is accepted, and one whose `inputs.json` is damaged, since a run that is given its text and
    seed writes that file again.
    """
    files = RunFiles(folder)
    try:
        read_inputs(folder)
    except FormatVersionError:
        raise
    except CorruptFileError:
        stages = read_json(files.stages) if files.stages.exists() and not files.inputs.exists() else {}
        if stages and not any(has_own_digest(done) for done in stages.values()):
            raise FormatVersionError("the run folder", found=None, supported=RUN_FORMAT, where=str(folder)) from None


def stored_inputs(folder: Path) -> RunInputs | None:
    """The inputs of the run in a folder; None if there is no run. Raises the errors of `read_inputs`."""
    check_format(folder)
    files = RunFiles(folder)
    return read_inputs(folder) if files.inputs.exists() or files.stages.exists() else None


def read_outcomes(folder: Path, log: RunLog) -> dict[str, dict[str, Any]]:
    """The outcomes in `stages.json` of a run folder. A stage whose outcome is damaged counts as not run: a warning."""
    file = RunFiles(folder).stages
    if not file.exists():
        return {}
    try:
        written = read_json(file)
    except CorruptFileError as error:
        log.event("warning", message=f"{error}: all stages count as not run")
        return {}
    stages = written if isinstance(written, dict) else {}
    intact = {stage: done for stage, done in stages.items() if has_own_digest(done)}
    if damaged := sorted(stages.keys() - intact) or ([] if isinstance(written, dict) else ["all"]):
        message = (
            f"{file}: the outcomes of these stages are damaged, so that they count as not run: {', '.join(damaged)}"
        )
        log.event("warning", message=f"{message:.300}")
    return intact


def check_run_folder(folder: Path) -> None:
    """Raise `UsageError` if a folder has no run."""
    files = RunFiles(folder)
    if missing := [file.name for file in (files.recipe, files.inputs) if not file.exists()]:
        cause = f"this is not the folder of a run: {missing[0]} is missing"
        raise UsageError(cause, where=str(folder), hint="`bitgolf run RECIPE` creates one")


def open_run(folder: Path, log: RunLog) -> Run:
    """Read the run in a folder, with the outcomes of its stages. Nothing is changed.

    Raises `UsageError` if there is no run, and `FormatVersionError` if it has another format.
    """
    check_run_folder(folder)
    files = RunFiles(folder)
    inputs = read_inputs(folder)  # first: a recipe of another format cannot be read
    with error_location(str(files.recipe)):
        recipe = read_recipe(files.recipe)
    run = run_of_inputs(recipe, folder, log, inputs)
    return replace(run, completed=read_outcomes(folder, log))


def run_of_inputs(recipe: Spec[Recipe], folder: Path, log: RunLog, inputs: RunInputs) -> Run:
    """The run of a recipe with the inputs that its folder stores; no stage is completed."""
    return Run(
        recipe,
        folder,
        log,
        inputs.seed,
        inputs.text,
        Path(inputs.shards) if inputs.shards else None,
        reading=inputs.reading,
        tokenizer=Path(inputs.tokenizer) if inputs.tokenizer else None,
        score_tokens=inputs.score_tokens,
        auto=inputs.auto,
    )
