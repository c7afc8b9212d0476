"""`run --quick` and `--score-tokens`: labels of toys, samples of the held-out text, and runs without scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.command_line import run_command

SETS = ("tokens.vocab=300", "model.dim=32", "train.seconds=0", "train.steps=2", "calibrate=none")
WORDS = [word for setting in (*SETS, "quantize.1.use=IntRows(bits=6)") for word in ("--set", setting)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 120 documents of about 600 bytes."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(120):
        (folder / f"{i:03}.txt").write_text(" ".join(f"word{(7 * i + j * j) % 97}" for j in range(90)))
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "score.json").read_text())


def test_a_quick_run_says_that_it_is_one(text: Path, work: Path) -> None:
    done = run_command("run", "quickstart", "--quick", "--text", str(text), *WORDS, "--score-tokens", "100")
    assert done.returncode == 0, done.stderr
    (folder,) = (work / "runs").iterdir()
    result = result_of(folder)
    assert folder.name.startswith("quickstart-quick-") and result["recipe"] == "quickstart-quick"
    assert result["quick"] is True and result["roundtrip"] is None
    assert "A quick run" in done.stdout and "A quick run" in (folder / "report.html").read_text()
    assert "quickstart-quick" in (folder / "run.log").read_text()
    scored = result["scored"]
    assert isinstance(scored, dict) and 0 < scored["share"] < 1 and scored["tokens"] >= 100
    assert f"{scored['share']:.2%} of all" in done.stdout and len(result["methods"]) == 1  # type: ignore[arg-type]
    assert result["methods"][0]["bytes"] == scored["bytes"]  # type: ignore[index]


def test_scoring_left_out_and_done_later(text: Path, work: Path) -> None:
    words = ("--quick", "--text", str(text), *WORDS, "--out", "r")
    done = run_command("run", "quickstart", *words, "--score-tokens", "0")
    assert done.returncode == 0, done.stderr
    result = result_of(work / "r")
    assert result["scored"] is None and result["methods"] == [] and set(result["bpb"].values()) == {None}  # type: ignore[attr-defined]
    assert (work / "r" / "artifact.bg").exists() and "Not scored." in done.stdout
    again = run_command("run", "r")
    assert again.returncode == 0 and "score: unchanged, reused" in again.stderr
    whole = run_command("run", "r", "--score-tokens", "all", "--json")
    assert whole.returncode == 0 and "train: unchanged, reused" in whole.stderr, whole.stderr
    assert json.loads(whole.stdout)["scored"]["share"] == 1 and json.loads(whole.stdout)["bpb"]["packed"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score-tokens", "-1"], "expected a number of tokens, or all, got '-1'"),
        (["--score-tokens", "many"], "got 'many'"),
        (["--score-tokens", "1" * 40], "expected a number of tokens"),
    ],
)
def test_values_that_are_no_number_of_tokens(words: list[str], message: str, work: Path) -> None:
    done = run_command("run", "quickstart", *words)
    assert done.returncode == 2 and message in done.stderr and not list(work.iterdir())


def test_quick_makes_another_recipe_than_that_of_a_folder(work: Path) -> None:
    (work / "r").mkdir()
    done = run_command("run", "r", "--quick")
    assert done.returncode == 2 and "--quick makes another recipe" in done.stderr


def test_show_has_the_toy(work: Path) -> None:
    document = json.loads(run_command("show", "baseline", "--quick", "--json").stdout)
    assert document["name"] == "baseline-quick" and document["params"] < 3_000_000
