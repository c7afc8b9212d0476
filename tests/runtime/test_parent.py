"""Workers end with the process that started them, and with one another; each failure is one clear error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.pipeline.training import TrainingJob, train_worker
from bitgolf.runtime.job_files import write_job
from bitgolf.runtime.parent import launcher_lock
from bitgolf.training.checkpoint import newest_file
from helpers.forked import ForkedProcess
from helpers.forked_programs import run_python
from helpers.live_processes import children_of, is_alive, wait_until
from helpers.toy import toy_recipe
from helpers.toy_training import make_data

CPU = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LAUNCH = """
import sys
from pathlib import Path
from bitgolf.errors import BitgolfError
from bitgolf.runtime.job_files import read_job
from bitgolf.runtime.launch import run_worker
function, job = read_job(Path(sys.argv[1]))
try:
    run_worker(function, job, task="training", where=job.folder, processes=int(sys.argv[2]), resume_option="--resume")
except BitgolfError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def processes_of(run: Path) -> dict[int, str]:
    """Process id -> command line of the processes that have the folder of a run open, or a job of it."""
    found = dict[int, str]()
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if entry.name.isdigit() and str(run).encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = words
        except OSError:
            continue
    return {pid: words for pid, words in found.items() if pid != os.getpid()}


def write_long_training(run: Path) -> None:
    recipe = toy_recipe(steps=100_000).set("train.checkpoint_seconds", 0.0)
    (run / "given").mkdir()
    job = TrainingJob(recipe=recipe, data=make_data(run / "data"), folder=run)
    write_job(run / "given", train_worker, job)


def start(run: Path, processes: int) -> subprocess.Popen[bytes]:
    """A launcher with `processes` workers that train for long. Its environment names the folder, to find them all."""
    write_long_training(run)
    environment = os.environ | CPU | {"TOY_RUN": str(run)}
    with (run / "errors.txt").open("wb") as errors:
        command = [sys.executable, "-c", LAUNCH, str(run / "given"), str(processes)]
        return subprocess.Popen(command, env=environment, stderr=errors)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc")
    folder = tmp_path / "run"
    folder.mkdir()
    yield folder
    for pid in processes_of(folder):
        os.kill(pid, signal.SIGKILL)


def steps(run: Path) -> int:
    newest = newest_file(run / "checkpoint")
    return int(newest.stem.removeprefix("step-")) if newest else 0


def train_until_saved(run: Path, processes: int) -> subprocess.Popen[bytes]:
    launcher = start(run, processes)
    assert wait_until(lambda: steps(run) > 1 or launcher.poll() is not None, 90) and launcher.poll() is None, (
        run / "errors.txt"
    ).read_text()
    return launcher


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "processes"),
    [
        ("launcher", 2),
        pytest.param("launcher", 1, marks=pytest.mark.exhaustive),
        pytest.param("torchrun", 2, marks=pytest.mark.exhaustive),
    ],
)
def test_workers_end_with_the_process_that_is_killed(run: Path, victim: str, processes: int) -> None:
    launcher = train_until_saved(run, processes)
    alive = processes_of(run)
    assert len(alive) == (2 if processes == 1 else 4)
    named = [pid for pid, words in alive.items() if "bitgolf.runtime.torchrun" in words]
    os.kill(launcher.pid if victim == "launcher" else named[0], signal.SIGKILL)
    launcher.wait(20)
    assert wait_until(lambda: not processes_of(run), 20), processes_of(run)
    reached = steps(run)
    time.sleep(0.5)
    assert steps(run) == reached, "no checkpoint is written any more"


@pytest.mark.slow
def test_the_death_of_one_worker_is_one_clear_error(run: Path) -> None:
    write_long_training(run)
    launcher = ForkedProcess(run_python, ["-c", LAUNCH, str(run / "given"), "2"], environment=CPU)
    assert wait_until(lambda: steps(run) > 1 or launcher.status is not None, 90) and launcher.status is None
    (torchrun,) = children_of(launcher.pid)
    workers = children_of(torchrun)
    assert len(workers) == 2
    os.kill(max(workers), signal.SIGKILL)
    ended = launcher.finish(60)
    assert ended.status == 1
    assert wait_until(lambda: not any(map(is_alive, (torchrun, *workers))), 20)
    assert "of 2 (counted from 0) was ended by SIGKILL" in ended.output and "continue with --resume" in ended.output
    assert "Traceback" not in ended.output and "torch.distributed" not in ended.output and "elastic" not in ended.output


@pytest.mark.slow
def test_the_error_of_a_worker_is_its_own(tmp_path: Path) -> None:
    """Not a traceback of torchrun. The exit status is that of the error."""
    write_job(tmp_path, train_worker, TrainingJob(recipe=toy_recipe(), data=tmp_path / "none", folder=tmp_path))
    done = ForkedProcess(run_python, ["-c", LAUNCH, str(tmp_path), "2"], environment=CPU).finish()
    assert done.status == BitgolfError.exit_code != UsageError.exit_code
    message, hint = done.output.splitlines()
    assert message.startswith(f"{tmp_path / 'none' / 'manifest.json'}: ") and "there is no manifest" in message
    assert hint.startswith("  hint: ")


WAIT = """
import sys, time
from pathlib import Path
from bitgolf.runtime.parent import end_with_launcher
sys.platform = "another system"
end_with_launcher(Path(sys.argv[1]))
print("waiting", flush=True)
time.sleep(60)
"""


def test_the_lock_of_the_launcher_alone_ends_a_worker(tmp_path: Path) -> None:
    """Where the system sends no signal at the death of the parent, the lock that it held does."""
    with launcher_lock(tmp_path):
        worker = subprocess.Popen([sys.executable, "-c", WAIT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert worker.stdout and worker.stdout.readline() == "waiting\n" and worker.poll() is None
    assert worker.wait(30) == 1
    worker.stdout.close()
