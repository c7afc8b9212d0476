"""`bitgolf run auto` and `bitgolf show auto`: what is printed, stored and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitgolf.pipeline import auto_choice
from helpers.command_line import run_command

SETS = ("tokens.vocab=300", "model.dim=32", "model.heads=2", "model.kv_heads=2", "train.seconds=0", "train.steps=2")
TOY = [
    word
    for setting in (*SETS, "calibrate=none", "proof=none", "quantize.1.use=IntRows(bits=6)")
    for word in ("--set", setting)
]
BUDGET = ("--cap", "60000", "--seconds", "30")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text of 40 documents, in which commands run. The machine is measured at 2e8, then 4e8, …"""
    (tmp_path / "text").mkdir()
    for i in range(40):
        (tmp_path / "text" / f"{i}.txt").write_text(" ".join(f"word{(7 * i + j * j) % 97}" for j in range(90)))
    speeds = iter(range(1, 10))
    monkeypatch.setattr(auto_choice, "measure_speed", lambda *_: 2e8 * next(speeds))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_chosen_once_and_found_again_by_the_same_command(work: Path) -> None:
    words = ("run", "auto", *BUDGET, "--text", "text", *TOY, "--score-tokens", "0")
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    assert "because of" in done.stderr and "--set model.dim=N" in done.stderr and "at 0.2 GFLOP/s" in done.stderr
    (folder,) = (work / "runs").iterdir()
    assert folder.name.startswith("auto-60000-30s-")
    stored = json.loads((folder / "inputs.json").read_text())
    assert stored["auto"]["budget"]["speed"] == 2e8 and stored["auto"]["budget"]["cap"] == 60_000
    assert json.loads((folder / "score.json").read_text())["bytes"]["cap"] == 60_000
    again = run_command(*words)
    assert again.returncode == 0 and "train: unchanged, reused" in again.stderr, again.stderr
    assert "when the run in" in again.stderr and list((work / "runs").iterdir()) == [folder]
    continued = run_command("run", str(folder))
    assert continued.returncode == 0 and "train: unchanged, reused" in continued.stderr
    assert json.loads((folder / "inputs.json").read_text()) == stored


def test_show_prints_the_choice_without_running(work: Path) -> None:
    done = run_command("show", "auto", *BUDGET, "--speed", "7e10", "--text", "text")
    assert done.returncode == 0 and "auto: chosen for 60,000 bytes, 30 s" in done.stdout, done.stderr
    assert "bits per weight" in done.stdout and "measuring" not in done.stderr and not (work / "runs").exists()
    document = json.loads(run_command("show", "auto", *BUDGET, "--text", "text", "--json").stdout)
    assert document["auto"]["budget"]["speed"] == 2e8
    assert document["forecast"]["cap"] == 60_000 and document["auto"]["bytes"] <= 60_000
    changed = run_command(
        "show", "auto", *BUDGET, "--speed", "7e10", "--text", "text", "--set", "model.layers=7", "--json"
    )
    assert json.loads(changed.stdout)["layers"] == 7


def test_the_budget_of_the_challenge_is_a_tuned_recipe(work: Path) -> None:
    words = ("--cap", "16000000", "--seconds", "600", "--speed", "1.5e15", "--text", "text")
    done = run_command("show", "auto", *words)
    assert "it was tuned at this cap and clock" in done.stdout and done.returncode == 0


@pytest.mark.parametrize(
    ("words", "where", "hint"),
    [
        (("run", "quickstart", "--cap", "60000"), "--cap", "--set pack.cap=BYTES"),
        (("run", "quickstart", "--seconds", "60"), "--seconds", "--set train.seconds=S"),
        (("show", "quickstart", "--speed", "1e9"), "--speed", "the recipe auto"),
        (("show", "quickstart", "--text", "text"), "--text", "leave it out"),
        (("run", "auto", "--cap", "5", "--text", "text"), "--cap", "from 30,000"),
        (("run", "auto", "--seconds", "1e30", "--text", "text"), "--seconds", "got 1e+30"),
        (("run", "auto", "--speed", "nan", "--text", "text"), "--speed", "got nan"),
        (("run", "auto", "--text", "nowhere"), "--text", "nowhere"),
    ],
)
def test_wrong_use_is_one_clear_error_and_nothing_is_written(
    work: Path, words: tuple[str, ...], where: str, hint: str
) -> None:
    done = run_command(*words)
    assert done.returncode == 2 and where in done.stderr and hint in done.stderr, done.stderr
    assert "measuring" not in done.stderr and not (work / "runs").exists()
