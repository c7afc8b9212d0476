"""`kill -9` at a random time, then --resume: final weights equal those of an uninterrupted run bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from bitgolf.pipeline.training import TrainingJob, train_worker
from bitgolf.runtime import worker
from bitgolf.runtime.job_files import write_job
from bitgolf.training.checkpoint import load_latest
from helpers.forked import fork_server
from helpers.toy import toy_recipe
from helpers.toy_training import same

STEPS = 80
PHASES = ("starting", "training", "writing")


def start(run: Path, data: Path) -> BaseProcess:
    """A worker in a separate process, forked from one that has already imported everything."""
    recipe = toy_recipe(steps=STEPS).set("train.checkpoint_seconds", 0.0)  # saves after each step
    write_job(run, train_worker, TrainingJob(recipe=recipe, data=data, folder=run, resume=True))
    process = fork_server().Process(target=worker.main, args=(run,))
    process.start()
    return process


def make_run(folder: Path) -> Path:
    folder.mkdir()
    return folder


def newest(run: Path) -> int:
    return max((int(p.stem[5:]) for p in run.glob("checkpoint/step-*.safetensors")), default=0)


def parts(run: Path) -> set[Path]:
    return set(run.glob("checkpoint/.*.part"))


def finish(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def wait(process: BaseProcess, run: Path, phase: str, draw: random.Random) -> None:
    """Wait for a random time within a phase: start-up, training after the first few steps, or writing a checkpoint."""
    goal, old = newest(run) + draw.randint(1, 4), parts(run)
    reached = {
        "starting": lambda: True,
        "training": lambda: newest(run) >= goal,
        "writing": lambda: stopped_while_writing(process, run, old),
    }[phase]
    while not reached() and process.is_alive():
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, {"starting": 0.1, "training": 0.04, "writing": 0.0}[phase]))


def stopped_while_writing(process: BaseProcess, run: Path, old: set[Path]) -> bool:
    """Whether a file is partly written. That lasts a few milliseconds, so the process is stopped while checking."""
    if not process.pid or not parts(run) - old:
        return False
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.002)
    if parts(run) - old:
        return True
    os.kill(process.pid, signal.SIGCONT)
    return False


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    log = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [event for event in log if event["event"] == kind]


def losses(run: Path) -> dict[int, float]:
    """Step -> the last loss that the log has of it."""
    return {event["step"]: event["loss"] for event in events(run, "step")}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [9, pytest.param(21, marks=pytest.mark.exhaustive)])
def test_many_kills_change_nothing(kills: int, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the process that is forked
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    whole, killed, draw = make_run(tmp_path / "whole"), make_run(tmp_path / "killed"), random.Random(0)
    undisturbed = start(whole, data)
    torn = 0
    for i in range(kills):
        process = start(killed, data)
        wait(process, killed, PHASES[i % len(PHASES)], draw)
        process.kill()
        assert finish(process) == -signal.SIGKILL, f"kill {i} came too late: make the run longer"
        torn += bool(parts(killed))
    reached = newest(killed)
    assert 0 < reached < STEPS and torn >= kills // len(PHASES)
    assert finish(start(killed, data)) == finish(undisturbed) == 0
    assert events(killed, "resume")[-1]["step"] == reached
    ends = [load_latest(run / "checkpoint") for run in (whole, killed)]
    assert ends[0] and ends[1] and ends[0].step == ends[1].step == STEPS
    assert same(ends[0].tensors, ends[1].tensors)
    assert losses(whole) == losses(killed) and len(losses(whole)) == STEPS
    assert not parts(killed)
