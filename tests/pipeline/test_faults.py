"""Machines that fail during a run: a full disk in the middle of each stage, and a clock that jumps. Nothing is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitgolf.config.recipe_file import read_recipe
from bitgolf.errors import BitgolfError
from bitgolf.files import read_json
from bitgolf.pipeline import execute as execution
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.stages import STAGE_NAMES, STAGES
from bitgolf.pipeline.state import Run, read_outcomes
from bitgolf.report.events import read_events
from bitgolf.report.log import RunLog
from helpers.damage import toy_source

SIZE = 24 << 20  # bytes of the small disk
LEFT = 3 * 4096  # bytes that are free when a stage starts


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Fill the disk but for `LEFT` bytes."""
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    size = (disk / "ballast").stat().st_size
    with (disk / "ballast").open("rb+") as file:
        file.truncate(size - LEFT)


def run_toy(folder: Path, *, resume: bool = False) -> None:
    recipe, _, text = toy_source()
    given = GivenInputs([Path(text)], seed=0)
    run_recipe(read_recipe(Path(recipe)), given, ExecutionOptions(resume=resume), out=folder)


def before_work(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Call `act` when the work of a stage begins. The stage `prepare` writes its data in its check already."""
    beginning = "check" if name == "prepare" else "work"

    def stages() -> Iterator[Any]:
        for stage in STAGES:
            call = getattr(stage, beginning)

            def acting(run: Run, call: Callable[[Run], Any] = call) -> Any:
                act()
                return call(run)

            yield replace(stage, **{beginning: acting}) if stage.name == name else stage

    monkeypatch.setattr(execution, "STAGES", tuple(stages()))


WRITING = [name for name in STAGE_NAMES if name != "score"]  # whose outcome is in stages.json only


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", [s if s in ("train", "quantize") else pytest.param(s, marks=pytest.mark.exhaustive) for s in WRITING]
)
def test_a_full_disk_loses_nothing(
    toy_run: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stages that were completed are reused when there is space again, and the artifact is the same."""
    with monkeypatch.context() as patch:
        before_work(patch, stage, lambda: fill(disk))
        with pytest.raises((BitgolfError, OSError)):
            run_toy(disk / "run")
    assert stage not in read_outcomes(disk / "run", RunLog(quiet=True))
    (disk / "ballast").unlink()
    capsys.readouterr()
    run_toy(disk / "run", resume=True)
    said = capsys.readouterr().err
    for earlier in STAGE_NAMES[: STAGE_NAMES.index(stage)]:
        assert f"{earlier}: unchanged, reused" in said
    assert (disk / "run" / "artifact.bg").read_bytes() == (toy_run / "artifact.bg").read_bytes()
    assert read_json(disk / "run" / "score.json")["bpb"] == read_json(toy_run / "score.json")["bpb"]
    assert not list((disk / "run").rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("jump", [-400 * 86400.0, 400 * 86400.0])
def test_a_clock_that_jumps_changes_nothing(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """The time of day is set back or forward before training; only the times in the log show it."""
    real = time.time
    with monkeypatch.context() as patch:
        before_work(patch, "train", lambda: patch.setattr(time, "time", lambda: real() + jump))
        run_toy(tmp_path / "other")
    times = [event["time"] for event in read_events(tmp_path / "other" / "log.jsonl").events]
    assert max(times) - min(times) > 300 * 86400
    assert (tmp_path / "other" / "artifact.bg").read_bytes() == (toy_run / "artifact.bg").read_bytes()
    run_toy(tmp_path / "other")
