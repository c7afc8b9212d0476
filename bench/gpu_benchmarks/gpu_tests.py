"""The tests marked `gpu`; without pytest, the parity checks of kernels that a run makes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from gpu_benchmarks.job import RECIPE, BenchmarkJob
from gpu_benchmarks.results import ResultsWriter

TESTS, TOY_TESTS = "tests", "tests/kernels/test_cores.py"
ROOT = Path(__file__).resolve().parents[2]
OUTCOME = re.compile(r"^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b|^(ERROR) (\S+)")
OPTIONS = ("-m", "gpu", "-v", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "--color=no")


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Run the tests, or the parity checks if pytest is not installed."""
    if importlib.util.find_spec("pytest"):
        run_tests(job, results)
    else:
        compare_kernels(job, results)


def compare_kernels(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write one line: for each kind of part, the kernel that was chosen, and why the others were not."""
    from bitgolf.data.manifest import open_split
    from gpu_benchmarks import harness  # imports torch, which takes seconds and which the tests do not need here

    recipe = harness.recipe_for(RECIPE, toy=job.toy)
    with harness.prepared_trainer(recipe, open_split(job.data, "train"), harness.build_context_of(job.data)) as ready:
        results.add("kernels compared, as pytest is missing", **harness.recipe_fields(recipe), messages=ready.messages)


def run_tests(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write one line: counts of outcomes until the time limit, and names of failed tests."""
    command = [sys.executable, "-m", "pytest", *OPTIONS, "--continue-on-collection-errors"]
    log = job.folder / "pytest.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, TOY_TESTS if job.toy else TESTS], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            complete = process.wait(max(1.0, job.seconds_left - 2)) is not None
        except subprocess.TimeoutExpired:
            complete = False
            process.kill()
            process.wait()
    outcomes = parse(log.read_text(errors="replace"))
    counts = Counter(outcomes.values())
    failed = sorted(name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR"))
    results.add(
        "tests marked gpu",
        complete=complete,
        status=process.returncode,
        passed=counts["PASSED"],
        skipped=counts["SKIPPED"],
        failures=len(failed),
        failed=failed,
    )


def parse(log: str) -> dict[str, str]:
    """Test -> outcome, from the output of `pytest -v`. A file that cannot be collected is an ERROR."""
    found = [match for line in log.splitlines() if (match := OUTCOME.match(line))]
    return {match[1] or match[4]: match[2] or match[3] for match in found}
