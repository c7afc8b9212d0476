"""Cases 14 and 15: a run in a process of its own, a second one in its folder, and a resume after its text has changed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from bitgolf.files import write_json
from helpers.command_line import run_command
from helpers.folder_state import folder_state
from helpers.forked import ForkedProcess
from helpers.forked_programs import run_python
from helpers.toy import toy_recipe


def wait_for_checkpoints(run: Path, process: ForkedProcess) -> None:
    deadline = time.monotonic() + 120
    while len(list((run / "checkpoint").glob("step-*"))) < 2:
        assert time.monotonic() < deadline and process.status is None, "the process ended before training began"
        time.sleep(0.01)


def replace_text(target: Path, source: Path) -> None:
    """Put the files of `source` in the place of those in `target`, as a copy does: with new times."""
    shutil.rmtree(target)
    shutil.copytree(source, target, copy_function=shutil.copyfile)


@pytest.mark.slow
def test_a_second_run_and_a_resume_on_other_text_change_nothing(shared: Path, tmp_path: Path) -> None:
    a, b, text, run = shared / "cases/14/A", shared / "cases/14/B", tmp_path / "text", tmp_path / "run"
    shutil.copytree(a, text)
    write_json(tmp_path / "toy.json", toy_recipe(steps=200).replace(proof=None).to_json())
    own = ("run", f"{tmp_path}/toy.json", "--out", f"{run}", "--set", "train.checkpoint_seconds=0")
    process = ForkedProcess(run_python, ["-m", "bitgolf", *own, "--text", f"{text}"])
    try:
        wait_for_checkpoints(run, process)
        second = run_command(*own, "--text", f"{b}")
        assert (
            second.returncode == 1
            and f"another process is writing to this folder: process {process.pid}" in second.stderr
        )
    finally:
        process.kill()
        process.finish()
    assert not (run / "artifact.bg").exists(), "the process ended before it was killed"

    replace_text(text, b)
    before = folder_state(run)
    assert before and ".lock" in before, "the killed process left its lock"
    resumed = run_command(*own, "--text", f"{text}", "--resume")
    assert resumed.returncode == 2 and "another recipe, seed or text" in resumed.stderr
    assert folder_state(run) == before

    replace_text(text, a)
    resumed = run_command(*own, "--text", f"{text}", "--resume")
    assert resumed.returncode == 0 and "resumed after step" in resumed.stderr
    assert (run / "artifact.bg").exists() and not (run / ".lock").exists()
