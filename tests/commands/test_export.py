"""`bitgolf export`: the record folder of a run, its claims, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bitgolf.commands import export as module
from bitgolf.commands.check import check_folders
from bitgolf.commands.export import ExportOptions, export_runs
from bitgolf.commands.record import TEXT_KEY, read_runs
from bitgolf.errors import BitgolfError, UsageError
from helpers.damage import finished_copy

pytestmark = pytest.mark.usefixtures("real_script_sizes")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose cap of 40,000 bytes limits the model alone."""
    return finished_copy(tmp_path_factory.mktemp("export"))


def export(run: Path, target: Path) -> Path:
    export_runs([run], target, ExportOptions(author="A", github_id="a", blurb="A toy."))
    return target


@pytest.fixture(scope="module")
def record(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("records") / "toy")


def test_the_folder_has_what_the_challenge_asks_for(record: Path) -> None:
    names = {path.name for path in record.iterdir()}
    wanted = {"README.md", "submission.json", "requirements.txt", "train_gpt.py", "train_seed0.log", "readable.py"}
    assert names == wanted
    packages = (record / "requirements.txt").read_text()
    assert all(f"{name}==" in packages for name in ("torch", "brotli", "sentencepiece"))
    assert "bitgolf" not in (record / "requirements.txt").read_text()


def test_claims_are_those_of_the_run_and_of_the_script(record: Path, run: Path) -> None:
    claims, result = json.loads((record / "submission.json").read_text()), json.loads((run / "score.json").read_text())
    best = min(result["methods"], key=lambda method: method["bpb"])
    assert claims["val_bpb"] == pytest.approx(best["bpb"], abs=1e-8)
    assert claims["bytes_code"] == (record / "train_gpt.py").stat().st_size
    assert claims["bytes_total"] == claims["bytes_code"] + result["bytes"]["model"]
    assert claims["seed_results"]["0"]["artifact_bytes"] == claims["bytes_total"]
    assert claims[TEXT_KEY] == read_runs([run], "").text


def test_check_finds_no_error(record: Path) -> None:
    result = check_folders([record], 1, lambda progress: None)
    assert result.passes, result


def test_no_path_of_the_machine_is_in_the_folder(record: Path, run: Path) -> None:
    for path in record.iterdir():
        assert str(run.parent) not in path.read_text(), path.name


def test_what_cannot_be_exported_is_refused(
    run: Path, record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="files already"):
        export(run, record)
    monkeypatch.setattr(module, "CAP", 60_000)
    with pytest.raises(BitgolfError, match="over the cap of 60,000"):
        export(run, tmp_path / "record")
    assert not (tmp_path / "record").exists() and not list(tmp_path.glob(".record*"))


def test_the_script_imports_nothing_of_the_package(record: Path) -> None:
    program = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='script')\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'bitgolf'])\n"
    )
    for name in ("train_gpt.py", "readable.py"):
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, str(record / name)], capture_output=True, text=True, check=False
        )
        assert done.stdout == "[]\n", done.stderr[-2000:]
