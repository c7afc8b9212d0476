"""The state of a run: its recipe and inputs, the files of its folder, and what its stages have left there.

A run folder says its format in `inputs.json`. A folder of another format is refused before anything in it is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError, FormatVersionError, UsageError
from bitgolf.files import read_json, write_json
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog

RUN_FORMAT = 2
"""The format of run folders: their files, and the keys in them."""

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class RunFiles:
    """The files of a run folder, each named here and nowhere else."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.json"

    @property
    def inputs(self) -> Path:
        """The text or the shards, the seed, and the format of the folder (`RunInputs`)."""
        return self.folder / "inputs.json"

    @property
    def stages(self) -> Path:
        """For each stage that is done: its key, its seconds, and its outcome."""
        return self.folder / "stages.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def training(self) -> Path:
        """`TrainingResult`."""
        return self.folder / "train.json"

    @property
    def trained(self) -> Path:
        """The weights after the last step."""
        return self.folder / "trained.safetensors"

    @property
    def averaged(self) -> Path:
        """The weights that are quantized."""
        return self.folder / "averaged.safetensors"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.safetensors"

    @property
    def codes(self) -> Path:
        return self.folder / "codes" / "codes.safetensors"

    @property
    def tensor_reports(self) -> Path:
        """A row for each tensor: its codec, its bits, its error."""
        return self.folder / "codes" / "report.json"

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact.bg"

    @property
    def result(self) -> Path:
        """`RunResult`, as `run --json` prints it."""
        return self.folder / "score.json"

    @property
    def environment(self) -> Path:
        return self.folder / "environment.json"

    @property
    def html_report(self) -> Path:
        return self.folder / "report.html"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"


class RunInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What a run works on, as `inputs.json` holds it. text: files and folders, absolute; shards: a folder."""

    seed: int
    text: tuple[str, ...] = ()
    shards: str | None = None
    format: int = RUN_FORMAT


@dataclass(frozen=True)
class Run:
    """A run: a recipe, a seed, the text it works on, and the folder that holds every stage's results.

    devices: processes that train, calibrate and score; device: their kind, as `device_type.select_device` takes it.
    resume: go on with an unfinished training; fresh_start: training may replace what the folder holds.
    done: what the stages have left, by their name, in their order; the same mapping as in `stages.json`.
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
    overwrite: bool = False
    completed: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.folder)

    @property
    def data_folder(self) -> Path:
        """The folder of shards and tokenizer that this run trains on."""
        return self.shards or self.folder / "data"

    def settings(self, *names: str) -> list[Any]:
        """What the recipe says under these names."""
        whole = self.recipe.to_json()
        return [whole[name] for name in names]

    def outcome(self, stage: str, kind: type[Outcome]) -> Outcome:
        """What a stage returned. Raises `CorruptFileError` where the stage is not done, or left something else."""
        try:
            return msgspec.convert(self.completed[stage], kind)
        except (KeyError, msgspec.ValidationError) as error:
            message = f"the outcome of the stage {stage} is missing or damaged ({error})"
            raise CorruptFileError(message, where=str(self.files.stages), hint=f"--from {stage}") from error

    def record(self, stages: Mapping[str, dict[str, Any]]) -> None:
        """Replace what the stages have left, here and in `stages.json`."""
        kept = dict(stages)
        self.completed.clear()
        self.completed.update(kept)
        write_json(self.files.stages, self.completed)


def read_inputs(folder: Path) -> RunInputs:
    """Raises `FormatVersionError` where the folder is of another format than this version's."""
    file = RunFiles(folder).inputs
    written = read_json(file)
    found = written.get("format") if isinstance(written, dict) else None
    if found != RUN_FORMAT:
        raise FormatVersionError("the run folder", found=found, supported=RUN_FORMAT, where=str(folder))
    try:
        return msgspec.convert(written, RunInputs)
    except msgspec.ValidationError as error:
        raise CorruptFileError(f"not the inputs of a run ({error})", where=str(file)) from error


def check_format(folder: Path) -> None:
    """Raises `FormatVersionError` for the folder of a run in another format; a folder that holds no run passes."""
    files = RunFiles(folder)
    if files.inputs.exists():
        read_inputs(folder)
    elif files.stages.exists():
        raise FormatVersionError("the run folder", found=None, supported=RUN_FORMAT, where=str(folder))


def read_outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """What the stages have left in a folder; nothing where none is done."""
    file = RunFiles(folder).stages
    return read_json(file) if file.exists() else {}


def open_run(folder: Path, log: RunLog) -> Run:
    """The run in a folder, with what its stages have left. Nothing is changed.

    Raises `UsageError` where there is none, and `FormatVersionError` where it is of another format.
    """
    files = RunFiles(folder)
    if missing := [file.name for file in (files.recipe, files.inputs) if not file.exists()]:
        cause = f"this is no run's folder: {missing[0]} is missing"
        raise UsageError(cause, where=str(folder), hint="`bitgolf run RECIPE` makes one")
    inputs = read_inputs(folder)
    shards = Path(inputs.shards) if inputs.shards else None
    recipe = from_json(read_json(files.recipe))
    return Run(recipe, folder, log, inputs.seed, inputs.text, shards, completed=read_outcomes(folder))
