"""The stages of a run, in order. Each has a function that does its work and one that returns its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from bitgolf import __version__
from bitgolf.files import json_digest
from bitgolf.pipeline.calibration import calibrate, calibration_inputs
from bitgolf.pipeline.checkpoint_owner import check_training
from bitgolf.pipeline.compression import check_fits, encode_weights, pack, pack_inputs, quantize, quantize_inputs
from bitgolf.pipeline.data import build_data, prepare, prepare_inputs
from bitgolf.pipeline.reporting import report, report_inputs
from bitgolf.pipeline.scoring import score, score_inputs
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training import average, averaging_inputs, load_checkpoint, train, training_inputs


@dataclass(frozen=True)
class Stage:
    """One stage of a run: it reads files of the run's folder and writes files there.

    inputs: returns a JSON value that determines the stage's outcome. work: runs the stage; returns the outcome that
    `stages.json` stores. check: raises if the stage must not start; it runs before anything in the folder is changed,
    and computes as much of the outcome as it needs to decide (`PendingResults`), which `work` then writes.
    """

    name: str
    inputs: Callable[[Run], list[Any]]
    work: Callable[[Run], msgspec.Struct]
    check: Callable[[Run], None] = lambda run: None

    def key(self, run: Run) -> str:
        """Digest of the stage's name, the version of Bitgolf and the stage's inputs."""
        return json_digest([self.name, __version__, self.inputs(run)])

    def unchanged(self, run: Run) -> bool:
        """Whether the stage is completed with the same key, so that its outcome can be reused."""
        return run.completed.get(self.name, {}).get("key") == self.key(run)


STAGES: tuple[Stage, ...] = (
    Stage("prepare", prepare_inputs, prepare, build_data),
    Stage("train", training_inputs, train, check_training),
    Stage("average", averaging_inputs, average, load_checkpoint),
    Stage("calibrate", calibration_inputs, calibrate),
    Stage("quantize", quantize_inputs, quantize, encode_weights),
    Stage("pack", pack_inputs, pack, check_fits),
    Stage("score", score_inputs, score),
    Stage("report", report_inputs, report),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def stage_named(name: str) -> Stage:
    """The stage of this name. Raises `ValueError` if there is none."""
    return STAGES[STAGE_NAMES.index(name)]
