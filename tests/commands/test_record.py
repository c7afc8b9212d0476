"""`bitgolf record`: runs against runs, a record folder and a number; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.command_line import run_command
from helpers.toy_run import finish

NEW, OLD = [1.10, 1.101, 1.102], [1.15, 1.152, 1.151]


def with_score(run: Path, folder: Path, seed: int, bpb: float) -> Path:
    """Copy a run and give it a seed and a score."""
    shutil.copytree(run, folder)
    result = json.loads((folder / "score.json").read_text())
    result |= {"seed": seed, "run": str(folder)}
    result["methods"][0] |= {"bpb": bpb, "targets": 1000, "bytes": 2000}
    (folder / "score.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs new0 to new2 and old0 to old2, of the seeds 0 to 2."""
    folder = tmp_path_factory.mktemp("record")
    run = finish(folder / "toy")
    for name, scores in (("new", NEW), ("old", OLD)):
        for seed, bpb in enumerate(scores):
            with_score(run, folder / f"{name}{seed}", seed, bpb)
    return folder


def paths(folder: Path, name: str, count: int = 3) -> list[str]:
    return [str(folder / f"{name}{i}") for i in range(count)]


def verdict(runs: Path, *words: str) -> dict:
    result = run_command("record", *paths(runs, "new"), *words, "--json")
    document = json.loads(result.stdout)
    assert result.returncode == (0 if document["is_record"] else 1), result.stderr
    return document


def test_runs_against_runs(runs: Path) -> None:
    found = verdict(runs, "--against", ",".join(paths(runs, "old")))
    assert found["is_record"] and found["test"]["method"] == "welch"
    assert found["test"]["improvement"] == pytest.approx(0.05)
    assert found["margin"] == pytest.approx(0.005 / 0.6931471805599453 / 2)
    assert found["notes"] == []
    assert not verdict(runs, "--against", ",".join(paths(runs, "old")), "--margin-bpb", "0.0499")["is_record"]


def test_equal_seeds_can_be_paired(runs: Path) -> None:
    against = ",".join(reversed(paths(runs, "old")))
    assert verdict(runs, "--against", against, "--paired")["test"]["degrees"] == 2
    wrong = run_command("record", *paths(runs, "new"), "--against", ",".join(paths(runs, "old", 2)), "--paired")
    assert wrong.returncode == 2 and "equal seeds" in wrong.stderr


def test_many_tries_are_corrected(runs: Path) -> None:
    against = ",".join(paths(runs, "old"))
    one, many = verdict(runs, "--against", against), verdict(runs, "--against", against, "--tries", "5000")
    assert one["p"] < many["p"] == pytest.approx(1 - (1 - one["p"]) ** 5000, rel=1e-6)
    assert (one["tries"], many["tries"]) == (1, 5000)


def test_a_number_has_no_spread_and_no_text(runs: Path) -> None:
    found = verdict(runs, "--against", "1.15")
    assert found["test"]["method"] == "constant" and found["is_record"]
    assert "text of 1.15 is not known" in found["notes"][0]


def test_two_seeds_are_no_record(runs: Path) -> None:
    result = run_command("record", *paths(runs, "new", 2), "--against", "1.9")
    assert result.returncode == 1 and "not a record" in result.stdout and "asks for 3 seeds" in result.stdout


def test_a_record_folder(runs: Path, tmp_path: Path) -> None:
    by_seed = {seed: {"val_bpb": bpb} for seed, bpb in zip((7, 8, 9), OLD, strict=True)}
    text = verdict(runs, "--against", "1.15")["new"]["text"]
    for stated, status in (({}, 0), ({"validation_text": text}, 0), ({"validation_text": "other"}, 2)):
        (tmp_path / "submission.json").write_text(json.dumps({"seed_results": by_seed, **stated}))
        result = run_command("record", *paths(runs, "new"), "--against", str(tmp_path))
        assert result.returncode == status, result.stderr
        assert ("is not known" in result.stdout) == (not stated)
        assert ("other validation text" in result.stderr) == (status == 2)


def test_what_cannot_be_compared_is_refused(runs: Path, tmp_path: Path) -> None:
    new = paths(runs, "new")
    twice = run_command("record", new[0], new[0], "--against", "1.2")
    assert twice.returncode == 2 and "there twice" in twice.stderr
    single = run_command("record", new[0], "--against", "1.2")
    assert single.returncode == 2 and "at least 2 seeds" in single.stderr
    for against, words in (("none", "no such folder"), (str(tmp_path), "submission.json"), ("-1", "bits per byte")):
        wrong = run_command("record", *new, "--against", against)
        assert wrong.returncode == 2 and words in wrong.stderr, wrong.stderr
    method = run_command("record", *new, "--against", "1.2", "--with", "Nothing")
    assert method.returncode == 2 and "it has: " in method.stderr


def test_other_text_is_refused(runs: Path, tmp_path: Path) -> None:
    other = with_score(runs / "new0", tmp_path / "other", 5, 1.0)
    manifest = json.loads((other / "data" / "manifest.json").read_text())
    manifest["val"]["fingerprints"] = "another"
    (other / "data" / "manifest.json").write_text(json.dumps(manifest))
    result = run_command("record", *paths(runs, "new"), str(other), "--against", "1.2")
    assert result.returncode == 2 and "other validation text" in result.stderr


def test_the_text_names_every_score(runs: Path) -> None:
    result = run_command("record", *paths(runs, "new"), "--against", ",".join(paths(runs, "old")))
    assert all(f"{bpb:.5f}" in result.stdout for bpb in (*NEW, *OLD))
    assert "a record: p = " in result.stdout and "nats per token" in result.stdout
