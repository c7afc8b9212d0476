"""The command `watch`: until a run ends, however it ends, and without a trace in its folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bitgolf.commands import watch as watch_module
from bitgolf.files import write_json
from bitgolf.runtime.folder_lock import LOCK_FILE, folder_lock
from helpers.command_line import run_command
from helpers.folder_state import folder_state
from helpers.forked import ForkedProcess
from helpers.forked_programs import run_python
from helpers.screen import TerminalProgram
from helpers.toy import toy_recipe
from helpers.toy_training import make_data

Write = Callable[..., None]
BEGUN = {"recipe": "toy", "hash": "abc", "seed": 0}


def writer(folder: Path) -> Write:
    """A function that appends an event to the log of a run."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(kind: str, **fields: Any) -> None:
        with (folder / "log.jsonl").open("a") as handle:
            handle.write(json.dumps({"event": kind, "time": time.time(), **fields}) + "\n")

    return write


@pytest.fixture
def run(tmp_path: Path) -> Iterator[tuple[Path, Write]]:
    """The folder of a run in training, whose lock this process holds, and a function that writes to its log."""
    folder = tmp_path / "run"
    write = writer(folder)
    with folder_lock(folder):
        write("run", **BEGUN)
        write("stage", stage="train")
        write("training", steps=10, time_limit_seconds=0.0)
        for step in range(1, 6):
            write("step", step=step, loss=5.0 - step / 4, tokens=10 * step, training_seconds=step / 2)
        yield folder, write


def test_a_run_is_followed_to_its_end(run: tuple[Path, Write], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, write = run
    looks = list[int]()

    def one_more(seconds: float) -> None:
        looks.append(len(looks))
        events = [
            lambda: write("validation", step=5, training_seconds=2.5, bpb=1.5, loss=3.0, targets=9, weights="trained"),
            lambda: write("warning", message="the disk is nearly full"),
            lambda: write("stage_done", stage="report", seconds=1.0),
        ]
        events[len(looks) - 1]()

    monkeypatch.setattr(watch_module, "time", type("Clock", (), {"sleep": staticmethod(one_more)}))
    done = run_command("watch", str(folder))
    assert done.returncode == 0 and len(looks) == 3
    for shown in ("train …", "validation 1.5000 bpb after step 5", "warning: the disk is nearly full"):
        assert done.stderr.count(shown) == 1, done.stderr
    assert f"{folder} (toy, seed 0): finished" in done.stdout and "step 5 of 10" in done.stdout


def test_nothing_in_the_folder_changes(run: tuple[Path, Write], tmp_path: Path) -> None:
    folder, _ = run
    before = folder_state(folder)
    done = run_command("watch", str(folder), "--once", "--page", str(tmp_path / "page.html"))
    assert done.returncode == 0 and folder_state(folder) == before
    assert "http-equiv=refresh" in (tmp_path / "page.html").read_text()


def test_the_state_as_json(run: tuple[Path, Write]) -> None:
    found = json.loads(run_command("watch", str(run[0]), "--once", "--json").stdout)
    assert found["status"] == "running" and (found["step"], found["steps"], found["loss"]) == (5, 10, 3.75)
    assert found["tokens_per_second"] == 20.0 and found["seconds_left"] == 2.5


def test_a_page_is_written_again_only_when_it_changes(run: tuple[Path, Write], tmp_path: Path) -> None:
    page, (folder, write) = tmp_path / "page.html", run
    words = ("watch", str(folder), "--once", "--page", str(page))
    run_command(*words)
    before = page.stat()
    run_command(*words)
    assert page.stat() == before
    write("stopped", when="after step 5", reason="too bad")
    run_command(*words)
    assert "too bad" in page.read_text() and "http-equiv=refresh" not in page.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.html"]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"kind": "stopped", "when": "after step 5", "reason": "too bad"}, "stopped: after step 5: too bad"),
        ({"kind": "failed", "message": "the disk is full"}, "failed: the disk is full"),
    ],
)
def test_a_run_that_does_not_finish_is_status_1(run: tuple[Path, Write], event: dict[str, str], said: str) -> None:
    run[1](**event)
    done = run_command("watch", str(run[0]))
    assert done.returncode == 1 and said in done.stdout


def test_a_run_that_has_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_command("watch", str(tmp_path / "later"))
    assert done.returncode == 2 and "no run has begun in this folder" in done.stderr and "--wait" in done.stderr
    once = run_command("watch", str(tmp_path / "later"), "--once")
    assert once.returncode == 0 and once.stdout == f"{tmp_path}/later: not begun\n"

    def begin(seconds: float) -> None:
        write = writer(tmp_path / "later")
        write("run", **BEGUN)
        write("stage_done", stage="report", seconds=1.0)

    monkeypatch.setattr(watch_module, "time", type("Clock", (), {"sleep": staticmethod(begin)}))
    assert run_command("watch", str(tmp_path / "later"), "--wait").returncode == 0
    assert not (tmp_path / "later" / LOCK_FILE).exists()


@pytest.mark.parametrize("every", ["0", "-1", "nan", "inf", "1e9"])
def test_the_seconds_between_looks_have_a_range(tmp_path: Path, every: str) -> None:
    done = run_command("watch", str(tmp_path), "--every", every)
    assert done.returncode == 2 and "must be from 0.1 to 3600 seconds" in done.stderr


def test_on_a_terminal_lines_are_redrawn_until_an_interrupt(run: tuple[Path, Write]) -> None:
    folder, write = run
    command = [sys.executable, "-m", "bitgolf", "watch", str(folder), "--every", "0.1"]
    with TerminalProgram(command, 80, {"LC_ALL": "C.UTF-8"}) as running:
        running.wait_for(lambda output: "step 5 of 10" in output, 100)
        write("step", step=6, loss=1.25, tokens=60, training_seconds=3.0)
        running.wait_for(lambda output: "│" in output.partition("step 6 of 10")[2], 100)
        shown = running.screen.lines
        assert sum("training:" in line for line in shown) == 1, "the lines before are replaced"
        assert any("│" in line for line in shown) and all(len(line) <= 80 for line in shown)
        running.press(b"\x03")
        assert running.finish(60) == 130
        assert running.screen.lines == ["bitgolf: interrupted"]


@pytest.mark.exhaustive
def test_a_run_that_is_killed_is_noticed(tmp_path: Path) -> None:
    """A real run, whose log says nothing of its end."""
    recipe, folder = toy_recipe(steps=10**6).set("train.seconds", 600.0).set("proof", None), tmp_path / "run"
    write_json(tmp_path / "toy.json", recipe.to_json())
    words = ["run", str(tmp_path / "toy.json"), "--shards", str(make_data(tmp_path / "data")), "--out", str(folder)]
    process = ForkedProcess(run_python, ["-m", "bitgolf", *words])
    try:
        deadline, log = time.monotonic() + 120, folder / "log.jsonl"
        while not (log.exists() and '"step"' in log.read_text()):
            assert time.monotonic() < deadline and process.status is None
            time.sleep(0.05)
        assert '"status": "running"' in run_command("watch", str(folder), "--once", "--json").stdout
    finally:
        process.kill()
        process.finish()
    done = run_command("watch", str(folder))
    assert done.returncode == 1 and "does not exist any more" in done.stdout and "train" in done.stdout
