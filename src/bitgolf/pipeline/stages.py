"""The stages of a run in their order: what decides each one's outcome, and the function that does its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from bitgolf import __version__
from bitgolf.files import json_digest
from bitgolf.pipeline.calibration import calibrate, calibration_inputs
from bitgolf.pipeline.compression import pack, pack_inputs, quantize, quantize_inputs
from bitgolf.pipeline.data import prepare, prepare_inputs
from bitgolf.pipeline.reporting import report, report_inputs
from bitgolf.pipeline.scoring import score, score_inputs
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training import average, averaging_inputs, check_checkpoint_owner, train, training_inputs


@dataclass(frozen=True)
class Stage:
    """One stage of a run: from files of its folder to files of its folder.

    inputs: a JSON value, of which the stage's outcome is a function. work: does it, and returns what `stages.json` keeps.
    check: raises, before anything of the run is changed, where the stage must not begin.
    """

    name: str
    inputs: Callable[[Run], list[Any]]
    work: Callable[[Run], msgspec.Struct]
    check: Callable[[Run], None] = lambda run: None

    def key(self, run: Run) -> str:
        """A stage whose key is the one that stands in `stages.json` is unchanged, and need not be done again."""
        return json_digest([self.name, __version__, self.inputs(run)])

    def unchanged(self, run: Run) -> bool:
        return run.completed.get(self.name, {}).get("key") == self.key(run)


STAGES: tuple[Stage, ...] = (
    Stage("prepare", prepare_inputs, prepare),
    Stage("train", training_inputs, train, check_checkpoint_owner),
    Stage("average", averaging_inputs, average),
    Stage("calibrate", calibration_inputs, calibrate),
    Stage("quantize", quantize_inputs, quantize),
    Stage("pack", pack_inputs, pack),
    Stage("score", score_inputs, score),
    Stage("report", report_inputs, report),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def stage_named(name: str) -> Stage:
    return STAGES[STAGE_NAMES.index(name)]
