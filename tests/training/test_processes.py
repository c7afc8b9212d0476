"""Two processes under torchrun equal one process with two micro-batches; a signal stops all processes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from bitgolf.config.spec import Spec
from bitgolf.errors import Interrupted
from bitgolf.files import read_json
from bitgolf.pipeline.training import TrainingJob, train_rank, train_worker
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime.job_files import read_result, write_job
from bitgolf.training.checkpoint import load_latest
from helpers.forked import ForkedProcess
from helpers.forked_programs import run_python
from helpers.toy import toy_recipe

STEPS = 20


def torchrun(run: Path, data: Path, recipe: Spec[Recipe]) -> ForkedProcess:
    """Two processes on the CPU; the job and its result are in the folder `job`."""
    (run / "job").mkdir(parents=True)
    write_job(run / "job", train_worker, TrainingJob(recipe=recipe, data=data, folder=run))
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "bitgolf.runtime.worker",
        str(run / "job"),
    ]
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return ForkedProcess(run_python, words, environment=environment)


def steps(run: Path) -> list[dict[str, Any]]:
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == "step"]


class Stopping(RunLog):
    """Stops the run by a signal when a step is logged."""

    last = STEPS

    def event(self, kind: str, **fields: Any) -> None:
        super().event(kind, **fields)
        if kind == "step" and fields["step"] == self.last:
            signal.raise_signal(signal.SIGINT)


def one_process(run: Path, data: Path, recipe: Spec[Recipe], *, last: int, resume: bool = False) -> list[float]:
    """Losses of the steps up to `last`, in this process."""
    log = Stopping(run, quiet=True)
    log.last = last
    with pytest.raises(Interrupted):
        train_rank(TrainingJob(recipe=recipe, data=data, folder=run, resume=resume), log)
    log.close()
    return [e["loss"] for e in steps(run)]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates(tmp_path: Path, data: Path) -> None:
    recipe, two = toy_recipe(steps=STEPS), tmp_path / "two"
    process = torchrun(two, data, recipe)
    want = one_process(tmp_path / "one", data, recipe.set("train.micro_rows", 2), last=STEPS)
    done = process.finish(120)
    assert done.status == 0, done.output
    assert [(e["step"], e["tokens"]) for e in steps(two)] == [(n, n * 4 * 32) for n in range(1, STEPS + 1)]
    assert [e["loss"] for e in steps(two)] == pytest.approx(want, rel=1e-5)
    assert read_json(two / "train.json")["processes"] == 2
    assert read_result(two / "job", train_worker).processes == 2, "the first process has written it"


@pytest.mark.slow
def test_a_signal_stops_both_processes_and_one_can_go_on(tmp_path: Path, data: Path) -> None:
    recipe, two = toy_recipe(steps=2000), tmp_path / "two"
    process = torchrun(two, data, recipe)
    while len(steps(two)) < 3 and process.status is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    stopped = process.finish(60)
    assert stopped.status != 0 and stopped.output.count("stopped by SIGTERM after step") == 1, stopped.output
    found, done = load_latest(two / "checkpoint"), len(steps(two))
    assert found and 3 <= found.step == done < 2000
    want = one_process(tmp_path / "one", data, recipe, last=done + 5)
    assert one_process(two, data, recipe, last=done + 5, resume=True) == pytest.approx(want, rel=1e-4)
