"""The tests marked `gpu`; without pytest the program's own comparison of its kernels with their plain twins."""

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
    if importlib.util.find_spec("pytest"):
        run_tests(job, results)
    else:
        compare_kernels(job, results)


def compare_kernels(job: BenchmarkJob, results: ResultsWriter) -> None:
    """One line: for each kind of part the kernel that was chosen, and what is against the others."""
    from gpu_benchmarks import harness  # here, as importing torch takes seconds that tests need not wait for

    recipe = harness.recipe_for(RECIPE, toy=job.toy)
    with harness.prepared_trainer(recipe, job.data, harness.build_context_of(job.data)) as ready:
        results.add("kernels compared, as pytest is missing", **harness.recipe_fields(recipe), messages=ready.messages)


def run_tests(job: BenchmarkJob, results: ResultsWriter) -> None:
    """One line: outcomes counted as far as the tests came, and the names of those that failed."""
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
    """Outcome by test, of what `pytest -v` printed; a file that could not be collected is an ERROR."""
    found = [match for line in log.splitlines() if (match := OUTCOME.match(line))]
    return {match[1] or match[4]: match[2] or match[3] for match in found}
