"""The runner of benchmarks: limits, failures, signals. Small programs take the place of benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpu_benchmarks.job import BenchmarkJob
from gpu_benchmarks.results import ResultsWriter, read_results
from gpu_benchmarks.runner import Benchmark, run_benchmarks

BENCH = str(Path(__file__).resolve().parents[2] / "bench")
KEYS = {"benchmark", "measurement", "device", "versions", "commit", "recipe", "hash", "seconds"}
GOOD = """
import sys, pathlib
from gpu_benchmarks import job, results
results.ResultsWriter(job.load(pathlib.Path(sys.argv[1])), "good").add("a", ms=1.5)
"""
PROGRAMS = {
    "good": GOOD,
    "bad": "raise MemoryError('CUDA out of memory')",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "endless": "import subprocess; print('at work', flush=True); subprocess.run(['sleep', '61.25'])",
}


def job_in(folder: Path) -> BenchmarkJob:
    job = BenchmarkJob(out=str(folder), training_seconds=1.0, commit="abc")
    job.save(folder / "job.json")
    return job


def play(folder: Path, names: list[str], *, seconds: float = 60.0) -> list[dict[str, Any]]:
    """Run programs as benchmarks; returns their lines. `endless` has a ninth of the weight of the others."""
    job = job_in(folder)
    environment = {**os.environ, "PYTHONPATH": BENCH}

    def command(benchmark: Benchmark, limit: float) -> list[str]:
        return [sys.executable, "-c", PROGRAMS[benchmark.name], str(folder / "job.json")]

    benchmarks = [Benchmark(name, 1.0 if name == "endless" else 9.0) for name in names]
    run_benchmarks(benchmarks, command, job, seconds, environment)
    return read_results(job.results)


def test_a_failure_is_a_line_and_loses_no_other_part(tmp_path: Path) -> None:
    lines = play(tmp_path, ["bad", "killed", "good"])
    assert [(line["benchmark"], line["measurement"]) for line in lines] == [
        ("bad", "failed"),
        ("killed", "failed"),
        ("good", "a"),
    ]
    assert lines[0]["reason"] == "MemoryError: CUDA out of memory"
    assert lines[1]["reason"].startswith("ended by signal 9")
    assert lines[2]["ms"] == 1.5
    assert all(line.keys() >= KEYS and line["commit"] == "abc" for line in lines)


def test_a_part_ends_at_its_limit_with_all_that_it_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = play(tmp_path, ["endless", "good"], seconds=20.0)
    assert [line["benchmark"] for line in lines] == ["endless", "good"]
    assert lines[0]["reason"] == "time limit of 2.0 s reached; at work"
    assert 2.0 <= lines[0]["seconds"] < 10.0
    assert int(capsys.readouterr().err.partition("good: at most ")[2].partition(" s")[0]) <= 18  # the remaining seconds
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 61.25" not in listed.splitlines()


def test_time_that_a_part_leaves_goes_to_those_after_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(tmp_path, ["bad", "good"], seconds=100.0)
    printed = capsys.readouterr().err
    assert "bad: at most 50 s of 100 s left" in printed
    assert int(printed.partition("good: at most ")[2].partition(" s")[0]) > 80
    assert "good, a: seconds" in printed  # new results are printed


def test_sigterm_ends_the_running_part_and_leaves_a_line(tmp_path: Path) -> None:
    job_in(tmp_path)
    program = (
        f"import pathlib, test_gpu_runner; test_gpu_runner.play(pathlib.Path({str(tmp_path)!r}), ['good', 'endless'])"
    )
    found = {**os.environ, "PYTHONPATH": os.pathsep.join([BENCH, str(Path(__file__).parent)])}
    with subprocess.Popen([sys.executable, "-c", program], env=found, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while "endless" not in process.stderr.readline():
            pass
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert "BenchmarkInterrupted: stopped by SIGTERM" in process.stderr.read()
    lines = read_results(tmp_path / "gpu.jsonl")
    assert [(line["benchmark"], line["measurement"]) for line in lines] == [("good", "a"), ("endless", "failed")]
    assert lines[1]["reason"] == "stopped by SIGTERM"


def test_a_line_is_on_the_disk_before_the_next_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = list[int]()
    monkeypatch.setattr(os, "fsync", synced.append)
    job = job_in(tmp_path)
    job.machine.write_text(json.dumps({"device": "a GPU", "versions": {"torch": "2.11.0"}}))
    ResultsWriter(job, "train_step").add("loops off", recipe="pr1855", digest="0123", ms=2.0)
    assert len(synced) == 1
    (line,) = read_results(job.results)
    assert line | {"seconds": 0} == {
        "benchmark": "train_step", "measurement": "loops off", "recipe": "pr1855", "hash": "0123", "seconds": 0, "ms": 2.0,
        "device": "a GPU", "versions": {"torch": "2.11.0"}, "commit": "abc", "toy": False,
    }  # fmt: skip
