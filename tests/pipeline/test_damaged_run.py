"""Each file of a run is damaged in turn: the run is found again, or one error has a hint that works."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bitgolf.errors import CorruptFileError
from bitgolf.files import read_json, with_digest
from bitgolf.pipeline.state import read_outcomes
from bitgolf.pipeline.trained_run import TrainedRun
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.report.events import read_events
from bitgolf.report.log import RunLog
from helpers.command_line import run_command
from helpers.damage import DAMAGE, flip_bit, toy_source

FILES = (
    "recipe.json",
    "inputs.json",
    "stages.json",
    "train.json",
    "trained.safetensors",
    "averaged.safetensors",
    "calibration.safetensors",
    "codes/codes.safetensors",
    "codes/report.json",
    "artifact.bg",
    "score.json",
    "environment.json",
    "report.html",
    "log.jsonl",
    "run.log",
    "checkpoint/key.json",
    "checkpoint/step-00000007.safetensors",
    "checkpoint/step-00000008.safetensors",
    "data/manifest.json",
    "data/tokenizer.model",
    "data/train_000000.bin",
    "data/val_000000.bin",
    "data/train_documents.fp",
    "data/val_documents.fp",
)
ALL = [(file, kind) for file in FILES for kind in DAMAGE]
REPRESENTATIVES = [
    ("stages.json", "emptied"),
    ("stages.json", "one bit"),
    ("recipe.json", "one bit"),
    ("inputs.json", "cut"),
    ("averaged.safetensors", "one bit"),
    ("codes/codes.safetensors", "one bit"),
    ("checkpoint/step-00000008.safetensors", "zeroed"),
    ("data/val_000000.bin", "one bit"),
    ("score.json", "cut"),
    ("log.jsonl", "zeroed"),
]


def found_again(run: Path, *options: str) -> CompletedProcess[str]:
    """`bitgolf run FOLDER`, and then what the hint of each error says, at most three times."""
    done = run_command("run", str(run), *options)
    for _ in range(3):
        assert "Traceback" not in done.stderr
        if done.returncode:
            done = run_command("run", *hinted(run, done.stderr.rpartition("hint: ")[2]))
    assert done.returncode == 0, done.stderr
    return done


def hinted(run: Path, hint: str) -> tuple[str, ...]:
    """Do what a hint says; returns the words of the command that it names."""
    if "bitgolf run RECIPE --out" in hint:
        return (*toy_source(), "--out", str(run))
    if "delete the folder to train" in hint:
        shutil.rmtree(run / "checkpoint")
        return (str(run),)
    if "manifest.json and run again" in hint:
        (run / "data" / "manifest.json").unlink()
        return (str(run),)
    if "delete this file" in hint:
        (run / "checkpoint/key.json").unlink()
        return (str(run), "--resume")
    if "--resume continues" in hint:
        return (str(run), "--resume")
    stage = re.search(r"--from (\w+)", hint)
    assert stage, f"the hint names no command: {hint}"
    return (str(run), "--from", stage[1])


def results(run: Path) -> tuple[bytes, object]:
    return (run / "artifact.bg").read_bytes(), read_json(run / "score.json")["bpb"]


def check_damage(run: Path, file: str, kind: str) -> None:
    before = results(run)
    path = run / file
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    found_again(run, *(("--from", "score") if "val_" in file else ()))
    assert results(run) == before
    again = run_command("run", str(run))
    assert again.returncode == 0 and again.stderr.count("unchanged, reused") == 8, "nothing is damaged any more"


@pytest.mark.slow
@pytest.mark.parametrize(("file", "kind"), REPRESENTATIVES)
def test_a_damaged_file_does_not_lose_the_run(toy_run: Path, file: str, kind: str) -> None:
    check_damage(toy_run, file, kind)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("file", "kind"), ALL)
def test_no_damaged_file_loses_the_run(toy_run: Path, file: str, kind: str) -> None:
    check_damage(toy_run, file, kind)


@pytest.mark.slow
def test_the_list_of_files_is_complete(toy_run: Path) -> None:
    present = {path.relative_to(toy_run).as_posix() for path in toy_run.rglob("*") if path.is_file()}
    assert present == set(FILES)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["recipe.json", "inputs.json", "stages.json", "checkpoint/key.json"])
def test_a_missing_file_does_not_lose_the_run(toy_run: Path, file: str) -> None:
    before = results(toy_run)
    (toy_run / file).unlink()
    if file == "recipe.json":  # then the folder is no run any more
        assert run_command("run", *toy_source(), "--out", str(toy_run)).returncode == 0
    found_again(toy_run)
    assert results(toy_run) == before


@pytest.mark.slow
def test_deleted_checkpoints_do_not_undo_a_training(toy_run: Path) -> None:
    shutil.rmtree(toy_run / "checkpoint")
    done = run_command("run", str(toy_run))
    assert done.returncode == 0 and "train: unchanged, reused" in done.stderr


@pytest.mark.slow
def test_the_next_stage_checks_what_the_last_one_wrote(toy_run: Path) -> None:
    path = toy_run / "averaged.safetensors"
    path.write_bytes(flip_bit(path.read_bytes()))
    before = {file: file.read_bytes() for file in toy_run.rglob("*") if file.is_file() and file.suffix != ".log"}
    refused = run_command("run", str(toy_run), "--from", "quantize")
    assert refused.returncode == 2 and "averaged.safetensors has changed" in refused.stderr
    assert "use --from average" in refused.stderr
    changed = {file.name for file, data in before.items() if file.read_bytes() != data}
    assert changed == set()
    with pytest.raises(CorruptFileError, match=r"averaged\.safetensors has changed"):
        TrainedRun(toy_run, RunLog(quiet=True), EncodingSession())


@pytest.mark.slow
@pytest.mark.usefixtures("charts")
def test_a_torn_line_of_the_log_is_skipped_and_said(toy_run: Path) -> None:
    log = toy_run / "log.jsonl"
    whole = len(read_events(log).events)
    log.write_bytes(log.read_bytes()[:-9])
    done = run_command("run", str(toy_run), "--from", "report")
    assert done.returncode == 0 and "log.jsonl: 1 line is not a whole event and was skipped" in done.stderr
    assert "Training loss" in (toy_run / "report.html").read_text()
    events = read_events(log)
    assert events.skipped == 1 and len(events.events) > whole and events.events[-1]["event"] == "result"


def test_what_is_no_event_is_skipped(tmp_path: Path) -> None:
    good = json.dumps({"event": "step", "step": 1, "loss": 2.5})
    lines = [
        good,
        '{"event": "st',
        "[1]",
        '{"event": 5}',
        "",
        "\0\0\0",
        "\ud800".encode("utf-8", "surrogatepass"),
        good,
    ]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    found = read_events(tmp_path / "log.jsonl")
    assert [event["event"] for event in found.events] == ["step", "step"] and found.skipped == 5
    assert read_events(tmp_path / "none.jsonl") == ([], 0)


def test_an_outcome_that_was_changed_counts_as_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"train": with_digest({"key": "a", "steps": 8}), "average": with_digest({"key": "b"})}
    kept["train"]["steps"] = 9
    (tmp_path / "stages.json").write_text(json.dumps(kept))
    assert read_outcomes(tmp_path, RunLog()) == {"average": kept["average"]}
    assert "the outcomes of these stages are damaged, so that they count as not run: train" in " ".join(
        capsys.readouterr().err.split()
    )
