"""The tests marked `gpu`; without pytest the program's own comparison of its kernels with their plain twins."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from gpu_parts.job import RECIPE, Job
from gpu_parts.lines import Lines

TESTS, TOY_TESTS = "tests", "tests/kernels/test_cores.py"
ROOT = Path(__file__).resolve().parents[2]
OUTCOME = re.compile(r"^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b|^(ERROR) (\S+)")
OPTIONS = ("-m", "gpu", "-v", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "--color=no")


def measure(job: Job, lines: Lines) -> None:
    if importlib.util.find_spec("pytest"):
        run_tests(job, lines)
    else:
        compare_kernels(job, lines)


def compare_kernels(job: Job, lines: Lines) -> None:
    """One line: for each kind of part the kernel that was chosen, and what is against the others."""
    from gpu_parts import program  # here, as importing torch takes seconds that tests need not wait for

    recipe = program.recipe_for(RECIPE, toy=job.toy)
    with program.training(recipe, job.data, program.place_of(job.data)) as ready:
        lines.add("kernels compared, as pytest is missing", **program.identity_of(recipe), said=ready.said)


def run_tests(job: Job, lines: Lines) -> None:
    """One line: outcomes counted as far as the tests came, and the names of those that failed."""
    command = [sys.executable, "-m", "pytest", *OPTIONS, "--continue-on-collection-errors"]
    log = job.folder / "pytest.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, TOY_TESTS if job.toy else TESTS], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            complete = process.wait(max(1.0, job.left - 2)) is not None
        except subprocess.TimeoutExpired:
            complete = False
            process.kill()
            process.wait()
    outcomes = parse(log.read_text(errors="replace"))
    counts = Counter(outcomes.values())
    failed = sorted(name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR"))
    lines.add(
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
