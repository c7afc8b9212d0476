"""Commands that are refused leave every byte of a run's folder as it was, and no folder where there was none."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitgolf.files import read_json, write_json
from bitgolf.pipeline import preview
from bitgolf.pipeline.latest_run import latest_run
from bitgolf.runtime.folder_lock import folder_lock
from helpers.command_line import run_command
from helpers.folder_state import folder_state
from helpers.toy_run import scalable_recipe

WORDS = ("alpha", "beta", "gamma", "delta", "while", "return", "if", "(x)", "= 1", "\n    ", "# note", "é")


def write_text(folder: Path, seed: int, count: int = 40) -> Path:
    chance = random.Random(seed)
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"{i:02d}.txt").write_text(" ".join(chance.choice(WORDS) for _ in range(80)) + f" {i}\n")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, two texts, a finished run `done`, and `begun`, a run whose training is unfinished."""
    place = tmp_path_factory.mktemp("place") / "here"
    place.mkdir()
    write_json(place / "toy.json", scalable_recipe().to_json())
    write_text(place / "A", 1)
    write_text(place / "B", 2)
    (place / "records.jsonl").write_text(json.dumps({"body": "a"}) + "\n")
    started = run_command("run", f"{place}/toy.json", "--text", f"{place}/A", "--out", f"{place}/done")
    assert started.returncode == 0, started.stderr
    begun = Path(shutil.copytree(place / "done", place / "begun"))
    stages = read_json(begun / "stages.json")
    write_json(begun / "stages.json", {"prepare": stages["prepare"]})
    shutil.copytree(place, place.parent / "original")
    return place


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`place` as the working directory, put in order after the test. The key of `prepare` has its path."""
    monkeypatch.chdir(place)
    before = folder_state(place)
    yield place
    if folder_state(place) != before:
        shutil.rmtree(place)
        shutil.copytree(place.parent / "original", place)


def lose_checkpoints(here: Path) -> None:
    for path in (here / "done" / "checkpoint").glob("step-*"):
        path.unlink()


def damage_checkpoints(here: Path) -> None:
    for path in (here / "done" / "checkpoint").glob("step-*"):
        path.write_bytes(path.read_bytes()[:-50])


def replace_text(here: Path) -> None:
    write_text(here / "A", 3)


def shorten_text(here: Path) -> None:
    for path in sorted((here / "A").iterdir())[1:]:
        path.unlink()


def lose_averaged_stage(here: Path) -> None:
    stages = read_json(here / "done" / "stages.json")
    write_json(here / "done" / "stages.json", {name: stages[name] for name in ("prepare", "train")})


def lose_codes(here: Path) -> None:
    (here / "done" / "codes" / "codes.safetensors").unlink()


REFUSED: list[tuple[str, str, Callable[[Path], object] | None]] = [
    ("run done --seed 5", "--seed was 0, now 5", None),
    ("run done --text B", "--text was", None),
    ("run done --key body", "options of reading text was not given, now --key body", None),
    ("run done --strict", "now --strict", None),
    ("run done --shards begun/data", "--shards was not given, now", None),
    ("run done --tokenizer done/data/tokenizer.model", "--tokenizer has no effect without --shards", None),
    ("run done --text A --shards done/data", "exclude each other", None),
    ("run toy.json --out done", "--text was", None),
    ("run toy.json --text A --seed 1 --out done", "--seed was 0, now 1", None),
    ("run done --text A --from train --shards begun/data", "exclude each other", None),
    ("run done --text B --from train", "--text was", None),
    ("run done --text nowhere", "no such file", None),
    ("run done --from nonsense", "unknown stage", None),
    ("run done --device tpu", "unknown device", None),
    ("run done --set train.nonsense=1", "nonsense", None),
    ("run done --set train.steps=9", "of another recipe, seed or text", None),
    ("run done --set tokens.vocab=310", "of another recipe, seed or text", None),
    ("run done --set train.steps=9 --from quantize", "the earlier stage train has changed inputs", None),
    ("run done --from score --set quantize.2.use.bits=3", "the earlier stage quantize has changed inputs", None),
    ("run done --set pack.cap=9000", "over the cap of 9,000", None),
    ("run done --set quantize.2.use.bits=6 --set pack.cap=16000", "over the cap of 16,000", None),
    ("run done --set pack.counted=model+code", "leaves nothing of a cap of 40,000", None),
    ("run done --set calibrate=none", "needs calibration", None),
    ("run done --from train --set pack.cap=9000 --strict-cap", "forecast", None),
    ("run done --from average", "there is no checkpoint", lose_checkpoints),
    ("run done --from average", "has changed since the stage train wrote it", damage_checkpoints),
    ("run done", "of another recipe, seed or text", replace_text),
    ("run done --resume", "of another recipe, seed or text", replace_text),
    ("run done --from prepare", "documents", shorten_text),
    ("run begun", "--resume continues", None),
    ("run begun --resume --text B", "--text was", None),
    ("run begun --resume", "of another recipe, seed or text", replace_text),
    ("run begun --resume --set train.steps=9", "of another recipe, seed or text", None),
    ("run A", "recipe.json", None),
    ("pack done --cap 100", "out of reach", None),
    ("pack begun", "averaged and calibrated", None),
    ("pack A", "not the folder of a run", None),
    ("sweep done --set train.steps=1,2", "takes effect before quantization", None),
    ("sweep done --set quantize.2.use.bits=", "values", None),
    ("sweep done --set quantize.2.use.nonsense=1", "nonsense", None),
    ("sweep done --set pack.cap=20000", "averaged and calibrated", lose_averaged_stage),
    ("doctor done", "was not quantized", lose_codes),
    ("doctor A", "not the folder of a run", None),
    ("doctor done --device tpu", "unknown device", None),
]


@pytest.mark.parametrize(("words", "reason", "change"), REFUSED, ids=[f"{i}" for i in range(len(REFUSED))])
def test_what_is_refused_changes_nothing(
    here: Path, words: str, reason: str, change: Callable[[Path], object] | None
) -> None:
    if change:
        change(here)
    before = folder_state(here)
    done = run_command(*words.split())
    assert done.returncode in (1, 2) and reason in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert folder_state(here) == before


STARTS: list[tuple[str, str]] = [
    ("toy.json --text nowhere", "no such file"),
    ("toy.json --text A --device tpu", "unknown device"),
    ("toy.json --text A --set calibrate=none", "needs calibration"),
    ("toy.json --text A --set pack.cap=9000 --strict-cap", "forecast"),
    ("toy.json --text A --set pack.counted=model+code", "leaves nothing of a cap of 40,000"),
    ("toy.json --text A/00.txt", "documents"),
    ("toy.json --text -", "documents"),
    ("toy.json --text records.jsonl", "body"),
    ("toy.json --text A --set model.block.mixer.heads=3", "heads"),
    ("toy.json --shards A", "tokenizer"),
    ("toy.json --text A --from score", "the earlier stage prepare"),
]


OUTS = ("new", "deep/er/new", "empty")


@pytest.mark.parametrize(
    ("words", "reason", "out"),
    [
        pytest.param(*start, out, marks=[] if (i + j) % len(OUTS) == 0 else [pytest.mark.exhaustive])
        for i, start in enumerate(STARTS)
        for j, out in enumerate(OUTS)
    ],
)
def test_a_failed_start_leaves_no_folder(
    here: Path, words: str, reason: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one document")))
    (here / "empty").mkdir()
    before = folder_state(here)
    done = run_command("run", *words.split(), "--out", out)
    assert done.returncode in (1, 2) and reason in done.stderr, done.stderr
    assert folder_state(here) == before


@pytest.mark.parametrize("out", ["toy.json", "toy.json/run", "/proc/nope"])
def test_a_folder_that_cannot_be_made_is_one_error(here: Path, out: str) -> None:
    """Case 16."""
    before = folder_state(here)
    done = run_command("run", "toy.json", "--text", "A", "--out", out)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cannot write to the folder" in done.stderr or "a part of the path is a file" in done.stderr
    assert folder_state(here) == before


def test_too_little_disk_is_refused_before_anything_is_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "free_bytes", lambda folder: 1000)
    before = folder_state(here)
    done = run_command("run", "toy.json", "--text", "A", "--out", "new")
    assert done.returncode == 1 and "the disk has 1,000 free" in done.stderr
    again = run_command("run", "done", "--from", "train")
    assert again.returncode == 1 and folder_state(here) == before
    assert run_command("run", "done").returncode == 0, "nothing is trained, so nothing is needed"


@pytest.mark.parametrize("words", ["run done", "run done --from train", "pack done", "sweep done --set pack.cap=20000"])
def test_a_second_writer_is_refused_and_told_who_writes(here: Path, words: str) -> None:
    with folder_lock(here / "done"):
        before = folder_state(here)
        done = run_command(*words.split())
        assert (
            done.returncode == 1 and f"another process is writing to this folder: process {os.getpid()}" in done.stderr
        )
        assert folder_state(here) == before


@pytest.mark.parametrize(
    "words",
    [
        "score done --shards done/data",
        "ledger done",
        "generate done --tokens 2",
        "show done",
        "diff done toy.json",
        "doctor done --tokens 64",
    ],
)
def test_reading_needs_no_lock_and_writes_nothing(here: Path, words: str) -> None:
    with folder_lock(here / "done"):
        before = folder_state(here)
        done = run_command(*words.split())
        assert done.returncode == 0, done.stderr
        assert folder_state(here) == before


def test_the_same_options_again_are_no_difference(here: Path) -> None:
    before = folder_state(here)
    for words in (
        "run done --seed 0",
        "run done --text A",
        "run toy.json --text A --out done",
        "run done --text A --seed 0",
    ):
        done = run_command(*words.split())
        assert done.returncode == 0 and "score: unchanged, reused" in done.stderr
    assert folder_state(here) == before, "nothing had to be done"


@pytest.mark.slow
def test_other_text_and_seed_are_taken_with_from_prepare(here: Path) -> None:
    done = run_command("run", "done", "--text", "B", "--seed", "3", "--from", "prepare")
    assert done.returncode == 0, done.stderr
    inputs = read_json(here / "done" / "inputs.json")
    assert inputs["text"] == [str(here / "B")] and inputs["seed"] == 3
    again = run_command("run", "done", "--seed", "4", "--from", "train")
    assert again.returncode == 0 and read_json(here / "done" / "inputs.json")["seed"] == 4
    assert "prepare: unchanged, reused" in again.stderr
    assert not {"data.new", "data.old", ".lock"} & {path.name for path in (here / "done").iterdir()}


@pytest.mark.slow
def test_the_same_text_with_other_times_continues(here: Path) -> None:
    for path in (here / "A").iterdir():
        os.utime(path, ns=(10**18, 10**18))
    artifact = (here / "done" / "artifact.bg").read_bytes()
    resumed = run_command("run", "begun", "--resume")
    assert resumed.returncode == 0 and (here / "begun" / "artifact.bg").read_bytes() == artifact, resumed.stderr
    done = run_command("run", "done")
    assert done.returncode == 0 and "train: unchanged, reused" in done.stderr and "prepare …" in done.stderr


def test_a_folder_named_like_a_recipe_is_not_the_recipe(here: Path) -> None:
    shutil.move("done", "quickstart")
    shown = run_command("show", "quickstart")
    assert "quickstart" in shown.stdout.splitlines()[0] and "./quickstart would be the folder" in shown.stderr
    assert "toy" in run_command("show", "./quickstart").stdout.splitlines()[0]
    done = run_command("run", "./quickstart")
    assert done.returncode == 0 and "report: unchanged, reused" in done.stderr


def test_latest_is_the_newest_run_wherever_a_run_is_an_argument(here: Path) -> None:
    missing = run_command("ledger", "latest")
    assert missing.returncode == 2 and "there is no run yet" in missing.stderr and "Traceback" not in missing.stderr
    (here / "runs").mkdir()
    for i, name in enumerate(("begun", "done")):
        shutil.move(name, f"runs/{name}")
        for path in (here / "runs" / name).iterdir():
            os.utime(path, (i, i))
    (here / "runs" / "other").mkdir()
    assert latest_run() == Path("runs/done")
    for words in (
        "show latest",
        "run latest",
        "ledger latest",
        "generate latest --tokens 2",
        "doctor latest --tokens 64",
    ):
        done = run_command(*words.split())
        assert done.returncode == 0 and "latest is runs/done" in done.stderr, done.stderr
    os.utime(here / "runs" / "begun" / "log.jsonl")
    assert latest_run() == Path("runs/begun")


@pytest.mark.slow
def test_cautions_forecast_and_space_are_printed_before_training(here: Path) -> None:
    done = run_command("run", "toy.json", "--text", "A", "--out", "new", "--set", "pack.cap=9000")
    lines = done.stderr
    assert done.returncode == 1 and "over the cap of 9,000" in lines
    order = [
        lines.index(words)
        for words in ("forecast: ", "caution: the artifact is forecast", "disk: the run needs", "prepare …")
    ]
    assert order == sorted(order) and "forecasts err by up to 13 %" in lines
    assert {"prepare", "train", "average", "calibrate", "quantize"} == set(read_json(here / "new" / "stages.json"))
    assert not (here / "new" / "artifact.bg").exists()
    again = run_command("run", "new", "--set", "pack.cap=40000")
    assert again.returncode == 0 and "quantize: unchanged, reused" in again.stderr


def test_a_failed_start_with_standard_input_leaves_no_copy(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"other text")))
    before = folder_state(here)
    done = run_command("run", "done", "--text", "-")
    assert done.returncode == 2 and "--text was" in done.stderr and folder_state(here) == before
