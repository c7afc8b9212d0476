"""The stages of a run, in order. Each has a function that does its work and one that returns its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bitgolf import __version__
from bitgolf.config.requirements import requirements
from bitgolf.files import json_digest
from bitgolf.pipeline.averaging import average, averaging_inputs, load_checkpoint
from bitgolf.pipeline.calibration import calibrate, calibration_inputs
from bitgolf.pipeline.checkpoint_owner import check_training
from bitgolf.pipeline.compression import check_fits, encode_weights, pack, pack_inputs, quantize, quantize_inputs
from bitgolf.pipeline.data import build_data, prepare, prepare_inputs
from bitgolf.pipeline.outputs import changed_output
from bitgolf.pipeline.reporting import report, report_inputs
from bitgolf.pipeline.scoring import score, score_inputs
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training import train, training_inputs
from bitgolf.training.checkpoint import newest_file


@dataclass(frozen=True)
class Stage:
    """One stage of a run: it reads files of the run's folder and writes files there.

    inputs: returns a JSON value that determines the stage's outcome. work: runs the stage; returns the outcome that
    `stages.json` stores. outputs: returns the files that the stage wrote and later stages read, or the user.
    check: raises if the stage must not start; it runs before anything in the folder is changed, and computes as much of
    the outcome as it needs to decide (`PendingResults`), which `work` then writes. optional: the user may delete the
    outputs when the stage is completed. undigested: patterns of its further files, relative to the folder, which their
    readers check or which are for information alone.
    """

    name: str
    inputs: Callable[[Run], list[Any]]
    work: Callable[[Run], msgspec.Struct]
    outputs: Callable[[Run], list[Path]] = lambda run: []
    check: Callable[[Run], None] = lambda run: None
    optional: bool = False
    undigested: tuple[str, ...] = ()

    def key(self, run: Run) -> str:
        """Digest of the stage's name, the version of Bitgolf, the stage's inputs, and code of others that they need."""
        inputs = self.inputs(run)
        return json_digest([self.name, __version__, inputs, *msgspec.to_builtins(requirements(inputs))])

    def unchanged(self, run: Run) -> bool:
        """Whether the stage is completed with the same key, so that its outcome can be reused."""
        return run.completed.get(self.name, {}).get("key") == self.key(run)

    def damage(self, run: Run) -> str:
        """What is wrong with the outputs of the completed stage, as words; "" if they are as it wrote them."""
        return changed_output(run, self.name, missing_allowed=self.optional)


def _data_files(run: Run) -> list[Path]:
    """The files that training reads. No validation file is opened before `score`, which compares its digests itself."""
    return [path for path in run.data_folder.iterdir() if path.is_file() and not path.name.startswith("val")]


def _last_checkpoint(run: Run) -> list[Path]:
    return [path for path in [newest_file(run.files.checkpoints)] if path]


def _calibration(run: Run) -> list[Path]:
    return [run.files.calibration] if run.recipe().calibrate else []


STAGES: tuple[Stage, ...] = (
    Stage("prepare", prepare_inputs, prepare, _data_files, build_data, undigested=("data/*",)),
    Stage(
        "train",
        training_inputs,
        train,
        _last_checkpoint,
        check_training,
        optional=True,
        undigested=("checkpoint/*", "train.json"),
    ),
    Stage("average", averaging_inputs, average, lambda run: [run.files.trained, run.files.averaged], load_checkpoint),
    Stage("calibrate", calibration_inputs, calibrate, _calibration),
    Stage(
        "quantize", quantize_inputs, quantize, lambda run: [run.files.codes, run.files.tensor_reports], encode_weights
    ),
    Stage("pack", pack_inputs, pack, lambda run: [run.files.artifact], check_fits),
    Stage("score", score_inputs, score),
    Stage(
        "report", report_inputs, report, lambda run: [run.files.result, run.files.environment, run.files.html_report]
    ),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def stage_named(name: str) -> Stage:
    """The stage of this name. Raises `ValueError` if there is none."""
    return STAGES[STAGE_NAMES.index(name)]
