"""The program of a script: what the challenge's environment variables do, and two processes under torchrun."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitgolf.errors import UsageError
from bitgolf.export.script import recipe_script
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.script_program import limited, main, read_settings
from bitgolf.tokens.loading import load_tokenizer
from helpers.toy_run import scalable_recipe
from helpers.toy_training import make_data

VARIABLES = ("RUN_ID", "SEED", "DATA_PATH", "TOKENIZER_PATH", "ITERATIONS", "MAX_WALLCLOCK_SECONDS")
STEP = re.compile(r"^step .*?\bstep:(\d+) .*?\bloss:([^ ]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def packed(data: Path) -> str:
    """The script of a recipe with calibration, GPTQ, a trellis and the range coder."""
    return recipe_script(scalable_recipe(), load_tokenizer(data / "tokenizer.model").kind).packed


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a script, which is the working directory, in an environment without settings."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "train_gpt.py").write_bytes(bytes(70_000))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train_gpt.py")])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_program(monkeypatch: pytest.MonkeyPatch, recipe: Any, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    main(recipe)


def losses(log: str) -> list[str]:
    return [loss for _, loss in STEP.findall(log)]


def test_each_variable_acts(here: Path, data: Path, packed: str) -> None:
    (here / "train_gpt.py").write_text(packed)
    (here / "elsewhere").mkdir()
    (data / "tokenizer.model").rename(here / "elsewhere" / "tok.model")
    given = {"DATA_PATH": str(data), "TOKENIZER_PATH": str(here / "elsewhere" / "tok.model"), "ITERATIONS": "2"}
    environment = {**os.environ, **given, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "train_gpt.py"]
    try:
        for settings in ({"RUN_ID": "a"}, {"RUN_ID": "b", "SEED": "5"}):
            done = subprocess.run(command, cwd=here, env=environment | settings, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    finally:
        (here / "elsewhere" / "tok.model").rename(data / "tokenizer.model")
    logs = {name: (here / "runs" / name / "train.log").read_text() for name in "ab"}
    assert [len(losses(logs[name])) for name in "ab"] == [2, 2]
    assert losses(logs["a"])[1] != losses(logs["b"])[1], "another seed"
    assert (here / "runs" / "a" / "artifact.bg").exists() and f"Code size: {len(packed.encode())} bytes" in logs["a"]


def test_limits_of_the_environment_replace_those_of_the_recipe(data: Path) -> None:
    settings = read_settings({"DATA_PATH": str(data), "ITERATIONS": "0", "MAX_WALLCLOCK_SECONDS": "0.5"})
    recipe = limited(scalable_recipe(), settings)
    assert (recipe["train.steps"], recipe["train.seconds"]) == (0, 0.5)


def test_a_clock_without_time_for_training_is_refused(data: Path) -> None:
    recipe, given = scalable_recipe().set("calibrate.reserve", 2.5), {"DATA_PATH": str(data)}
    message = "MAX_WALLCLOCK_SECONDS must be above the 2.5 s that are reserved for calibration"
    with pytest.raises(UsageError, match=message):
        limited(recipe, read_settings(given | {"MAX_WALLCLOCK_SECONDS": "2.5"}))
    assert limited(recipe, read_settings(given | {"MAX_WALLCLOCK_SECONDS": "2.6"}))["train.seconds"] == 2.6
    assert limited(recipe, read_settings(given | {"MAX_WALLCLOCK_SECONDS": "0"}))["train.seconds"] == 0, "no limit"


REFUSED = {
    "SEED=x": "SEED must be a whole number of at least 0, got 'x'",
    "SEED=-1": "SEED must be a whole number of at least 0, got '-1'",
    "SEED=1.5": "SEED must be a whole number of at least 0, got '1.5'",
    f"SEED={2**64}": f"SEED must be a whole number of at least 0, got '{2**64}'",
    "ITERATIONS=1e3": "ITERATIONS must be a whole number of at least 0, got '1e3'",
    "ITERATIONS=": "ITERATIONS must be a whole number of at least 0, got ''",
    "MAX_WALLCLOCK_SECONDS=nan": "MAX_WALLCLOCK_SECONDS must be a number of at least 0, got 'nan'",
    "MAX_WALLCLOCK_SECONDS=inf": "MAX_WALLCLOCK_SECONDS must be a number of at least 0, got 'inf'",
    "MAX_WALLCLOCK_SECONDS=ten": "MAX_WALLCLOCK_SECONDS must be a number of at least 0, got 'ten'",
    "ITERATIONS=0": "ITERATIONS and MAX_WALLCLOCK_SECONDS are both 0 or not set, so nothing ends training",
    "RUN_ID=": "RUN_ID must be the name of a folder below runs/, got ''",
    "RUN_ID=..": "RUN_ID must be the name of a folder below runs/, got '..'",
    "RUN_ID=a/b": "RUN_ID must be the name of a folder below runs/, got 'a/b'",
    "DATA_PATH=nowhere": "DATA_PATH must be a folder with train shards (*train*.bin), got 'nowhere'",
    "TOKENIZER_PATH=nowhere": "TOKENIZER_PATH must be the file of the shards' tokenizer, got 'nowhere'",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_a_value_that_cannot_be_used_is_one_line_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, here: Path, data: Path, setting: str
) -> None:
    name, _, value = setting.partition("=")
    with pytest.raises(SystemExit) as ended:
        run_program(monkeypatch, scalable_recipe().to_json(), {"DATA_PATH": str(data), name: value})
    assert ended.value.code == f"train_gpt.py: {REFUSED[setting]}"
    assert not (here / "runs").exists()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as other:
        main(scalable_recipe().to_json())
    assert other.value.code == 1, "the other processes say nothing"


@pytest.mark.exhaustive
def test_a_script_under_torchrun_computes_what_two_processes_do(here: Path, data: Path, packed: str) -> None:
    """Training, calibration and scoring in two processes: the same losses, artifact and bits as `run --devices 2`."""
    (here / "train_gpt.py").write_text(packed)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    settings = {"DATA_PATH": str(data), "RUN_ID": "two", "SEED": "3", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train_gpt.py"]
    done = subprocess.run(
        command, cwd=here, env={**environment, **settings}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail("\n".join(line[:200] for line in (done.stdout + done.stderr).splitlines()))
    options = ExecutionOptions(processes=2, device="cpu")
    result = run_recipe(scalable_recipe(), GivenInputs(shards=data, seed=3), options, out=here / "run")
    log, events = (here / "runs" / "two" / "train.log").read_text(), (here / "run" / "log.jsonl").read_text()
    steps = [event for event in map(json.loads, events.splitlines()) if event["event"] == "step"]
    assert losses(log) == [str(step["loss"]) for step in steps] and len(steps) == 8
    assert (here / "runs" / "two" / "artifact.bg").read_bytes() == (here / "run" / "artifact.bg").read_bytes()
    for method in result.methods:
        assert f"bits:{method.bits!r} " in log


@pytest.mark.exhaustive
def test_an_error_of_a_script_is_one_line(here: Path, data: Path, packed: str) -> None:
    (here / "train_gpt.py").write_text(packed)
    environment = {**os.environ, "DATA_PATH": str(data), "SEED": "x", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "train_gpt.py"]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr == f"train_gpt.py: {REFUSED['SEED=x']}\n"
