"""The stage `report`: the result of a run as JSON and as an HTML page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bitgolf.config.requirements import required_code
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import CorruptFileError
from bitgolf.files import read_json, write_bytes, write_json
from bitgolf.pipeline.calibration import CalibrationOutcome
from bitgolf.pipeline.compression import PackedArtifact
from bitgolf.pipeline.html_report.contents import ReportContents, collect_contents
from bitgolf.pipeline.result import HeldOutText, RunResult
from bitgolf.pipeline.scoring import ScoreOutcome
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training_result import TrainingResult
from bitgolf.recipes.identity import is_quick, recipe_hash
from bitgolf.report.environment import collect_environment
from bitgolf.report.events import ValidationRow, read_events, validation_rows
from bitgolf.report.quiet_matplotlib import quiet_matplotlib


class Reported(msgspec.Struct, frozen=True):
    """Outcome of the stage `report`, which is empty: its results are files."""


def report_inputs(run: Run) -> list[Any]:
    return [run.completed["score"]["key"], run.recipe.hash]


def report(run: Run) -> Reported:
    """Write `score.json`, `environment.json` and `report.html`."""
    log = read_events(run.files.log)
    result, environment = _run_result(run, validation_rows(log.events)), collect_environment()
    write_json(run.files.result, msgspec.to_builtins(result))
    write_json(run.files.environment, environment)
    if skipped := log.explanation():
        run.log.event("warning", message=skipped)
    contents = collect_contents(run, result, environment, log.events)
    write_bytes(run.files.html_report, load_renderer()(contents).encode())
    return Reported()


def load_renderer() -> Callable[[ReportContents], str]:
    """Return `render_report`. Its import takes a second, since it loads matplotlib, which only this stage needs."""
    with quiet_matplotlib():
        from bitgolf.pipeline.html_report.page import render_report
    return render_report


def _run_result(run: Run, validation: list[ValidationRow]) -> RunResult:
    """The result of a run whose earlier stages are completed."""
    trained, calibrated = run.outcome("train", TrainingResult), run.outcome("calibrate", CalibrationOutcome)
    packed, scored = run.outcome("pack", PackedArtifact), run.outcome("score", ScoreOutcome)
    text = load_manifest(run.data_folder).val
    return RunResult(
        run=str(run.folder),
        recipe=run.recipe().name,
        hash=recipe_hash(run.recipe),
        seed=run.seed,
        device=trained.device,
        params=trained.parameters,
        tokens=trained.tokens,
        steps=trained.steps,
        seconds={stage: done["seconds"] for stage, done in run.completed.items()},
        training_clock=calibrated.training_clock,
        calibration=calibrated.calibration,
        bpb=scored.bpb,
        held_out=HeldOutText(
            documents=text.documents,
            tokens=text.tokens,
            bytes=text.encoded_bytes,
            sidecar_bytes=text.sidecar_bytes,
        ),
        bytes=packed.bytes,
        fits=packed.fits,
        roundtrip=scored.roundtrip,
        methods=scored.methods,
        part_usage=trained.part_usage,
        scored=scored.scored,
        validation=validation,
        quick=is_quick(run.recipe().name),
        code=[file.name for file in required_code(run.recipe.to_json())],
    )


def read_result(run: Run) -> RunResult:
    """Read `score.json`. Raises `CorruptFileError` if it is missing or damaged."""
    hint = "`--from report` writes it again"
    try:
        return msgspec.convert(read_json(run.files.result), RunResult)
    except msgspec.ValidationError as error:
        message = f"not the result of a run ({error})"
        raise CorruptFileError(message, where=str(run.files.result), hint=hint) from error
    except CorruptFileError as error:
        error.hint = hint
        raise
