"""Stages are taken over from other runs: the longest sequence with equal keys, undamaged, and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitgolf.files import file_digest, read_json
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.stage_reuse import TAKEN_FROM
from bitgolf.pipeline.stages import STAGE_NAMES
from bitgolf.recipes import load_recipe
from bitgolf.report.events import read_events, training_events, training_steps
from helpers import damage
from helpers.command_line import run_command

BITS = "quantize.2.use.bits"


def run_beside(source: Path, *sets: str, seed: int = 0, sources: tuple[Path, ...] | None = None) -> RunResult:
    """A run of the toy recipe and text with some settings, in a folder beside the source."""
    recipe, _, text = damage.toy_source()
    given, options = GivenInputs([Path(text)], seed=seed), ExecutionOptions(reuse=sources or (source,), resume=True)
    return run_recipe(load_recipe(recipe, list(sets)), given, options, out=source.parent / "new")


def executed(folder: Path) -> list[str]:
    """Stages that a run executed itself."""
    return [event["stage"] for event in read_events(folder / "log.jsonl").events if event["event"] == "stage"]


def without_times(stages: dict[str, Any]) -> dict[str, Any]:
    ignored = dict.fromkeys(("seconds", "digest", TAKEN_FROM))
    return {name: done | ignored for name, done in stages.items() if name != "report"}


def test_an_equal_run_executes_nothing_but_the_report(toy_run: Path) -> None:
    result, new = run_beside(toy_run), toy_run.parent / "new"
    assert executed(new) == ["report"]
    ours, theirs = read_json(new / "stages.json"), read_json(toy_run / "stages.json")
    assert without_times(ours) == without_times(theirs) and list(ours) == list(STAGE_NAMES)
    assert {done.get(TAKEN_FROM) for name, done in ours.items() if name != "report"} == {str(toy_run)}
    assert result.run == str(new) and result.bpb == read_json(toy_run / "score.json")["bpb"]
    assert (new / "averaged.safetensors").samefile(toy_run / "averaged.safetensors"), "a link takes no space"
    logs = [training_steps(read_events(folder / "log.jsonl").events) for folder in (new, toy_run)]
    assert logs[0] == logs[1] and len(logs[0]) == 8, "the report has a chart of the losses"
    assert run_beside(toy_run) == result and executed(new) == ["report"], "the same command does nothing more"


@pytest.mark.parametrize(
    ("sets", "seed", "first"),
    [
        ([f"{BITS}=3"], 0, "quantize"),
        (["calibrate.source.batches=1"], 0, "calibrate"),
        (["pack.coder.tables=smallest"], 0, "pack"),
        (["score.0.window=16"], 0, "pack"),
        (["Muon.lr=0.01"], 0, "train"),
        ([], 1, "train"),
        (["tokens.vocab=310"], 0, "prepare"),
    ],
)
def test_the_longest_equal_sequence_of_stages_is_taken_over(
    toy_run: Path, sets: list[str], seed: int, first: str
) -> None:
    run_beside(toy_run, *sets, seed=seed)
    assert executed(toy_run.parent / "new") == list(STAGE_NAMES[STAGE_NAMES.index(first) :])


def test_the_result_is_that_of_a_run_of_its_own(toy_run: Path) -> None:
    taken = run_beside(toy_run, f"{BITS}=3")
    shutil.rmtree(toy_run.parent / "new")
    own = run_beside(toy_run, f"{BITS}=3", sources=(toy_run.parent / "nothing",))
    assert executed(toy_run.parent / "new") == list(STAGE_NAMES)
    assert (taken.bpb, taken.bytes) == (own.bpb, own.bytes)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("averaged.safetensors", "average"),
        ("artifact.bg", "pack"),
        ("data/tokenizer.model", "prepare"),
    ],
)
def test_a_damaged_stage_is_executed_again(toy_run: Path, name: str, first: str) -> None:
    (toy_run / name).write_bytes(damage.flip_bit((toy_run / name).read_bytes()))
    changed = file_digest(toy_run / name)
    run_beside(toy_run)
    assert executed(toy_run.parent / "new") == list(STAGE_NAMES[STAGE_NAMES.index(first) :])
    assert file_digest(toy_run / name) == changed, "the source stays as it was"


def test_a_missing_checkpoint_of_a_finished_training_is_not_needed(toy_run: Path) -> None:
    shutil.rmtree(toy_run / "checkpoint")
    run_beside(toy_run)
    assert executed(toy_run.parent / "new") == ["report"]


def test_files_are_copied_to_another_disk(toy_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, path: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    run_beside(toy_run)
    new = toy_run.parent / "new"
    assert executed(new) == ["report"] and not (new / "artifact.bg").samefile(toy_run / "artifact.bg")
    assert not list(new.rglob("*.part"))


def test_a_source_that_vanishes_meanwhile_is_not_used(toy_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.link

    def vanish(source: Path, path: Path) -> None:
        if source.name == "averaged.safetensors":
            source.unlink(missing_ok=True)
        original(source, path)

    monkeypatch.setattr(os, "link", vanish)
    run_beside(toy_run)
    new = toy_run.parent / "new"
    assert executed(new) == list(STAGE_NAMES[STAGE_NAMES.index("average") :])


def test_what_the_folder_has_is_not_replaced(toy_run: Path) -> None:
    new = toy_run.parent / "new"
    new.mkdir()
    (new / "artifact.bg").write_bytes(b"of the user")
    run_beside(toy_run)
    assert executed(new)[0] == "pack", "the stages before it are taken over"


def test_the_first_source_with_a_stage_is_used(toy_run: Path) -> None:
    other = Path(shutil.copytree(toy_run, toy_run.parent / "other", copy_function=shutil.copy2))
    (other / "artifact.bg").unlink()
    run_beside(toy_run, sources=(other, toy_run))
    stages = read_json(toy_run.parent / "new" / "stages.json")
    origins = {name: Path(done[TAKEN_FROM]).name for name, done in stages.items() if TAKEN_FROM in done}
    assert origins["quantize"] == "other" and origins["pack"] == "run"


def test_the_origin_of_a_stage_is_the_run_that_executed_it(toy_run: Path) -> None:
    run_beside(toy_run)
    second = toy_run.parent / "new"
    third = second.rename(toy_run.parent / "second")
    run_beside(toy_run, sources=(third,))
    assert read_json(toy_run.parent / "new" / "stages.json")["train"][TAKEN_FROM] == str(toy_run)


def test_the_events_of_the_last_training_are_those_of_its_resumed_parts() -> None:
    def of(kind: str, **fields: Any) -> dict[str, Any]:
        return {"event": kind, **fields}

    steps = [of("step", step=i, loss=1.0) for i in range(1, 6)]
    events = [
        of("stage", stage="train"), of("step", step=1, loss=9.0), of("stage_done", stage="train"),
        of("stage", stage="train"), of("phase", step=0, phase_start=0.0), *steps[:3], of("phase", step=2, phase_start=0.5),
        of("stage", stage="train"), of("resume", step=2), of("phase", step=2, phase_start=0.5), *steps[2:],
        of("stage", stage="average"), of("warning", message="x"),
    ]  # fmt: skip
    assert training_events(events) == [events[4], *steps[:2], of("phase", step=2, phase_start=0.5), *steps[2:]]


def test_the_command_takes_a_folder_with_runs(toy_run: Path) -> None:
    new, words = toy_run.parent / "new", ["run", *damage.toy_source(), "--out", str(toy_run.parent / "new")]
    nothing = toy_run.parent / "nothing"
    refused = run_command(*words, "--reuse", str(nothing))
    assert refused.returncode == 2 and f"--reuse {nothing}: there is no run" in refused.stderr and not new.exists()
    done = run_command(*words, "--reuse", str(toy_run.parent))
    assert done.returncode == 0 and f"score: taken over from {toy_run}" in done.stderr
    assert executed(new) == ["report"]
