"""What is chosen for a run of `auto`: the size of its text, the speed of the machine, and what a folder remembers."""

from __future__ import annotations

import gzip
from contextlib import closing
from pathlib import Path

import pytest
import torch

from bitgolf.errors import UsageError
from bitgolf.pipeline import auto_choice, machine_speed
from bitgolf.pipeline.auto_choice import (
    COMPRESSION_RATIO,
    UNKNOWN_TEXT_BYTES,
    AutoRequest,
    auto_request,
    choose_for_run,
    text_size,
)
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.state import Run
from bitgolf.recipes import scaling_laws
from bitgolf.recipes.auto import chosen_recipe
from bitgolf.recipes.choose import REFERENCE_BUDGET
from bitgolf.report.log import RunLog
from bitgolf.text.documents import PythonStandardLibrary, python_library
from helpers.toy_training import make_data


def given_text(folder: Path, size: int) -> GivenInputs:
    (folder / "a.txt").write_text("x" * size)
    return GivenInputs([folder / "a.txt"])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Calls of the measurement, which finds another speed each time."""
    calls = list[tuple[str, int]]()

    def measure(device: str, processes: int) -> float:
        calls.append((device, processes))
        return 1e10 * len(calls)

    monkeypatch.setattr(auto_choice, "measure_speed", measure)
    return calls


def test_the_size_of_a_text_is_that_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("x" * 3_000)
    packed = gzip.compress(bytes(range(256)) * 10)
    (folder / "b.txt.gz").write_bytes(packed)
    assert text_size(GivenInputs([folder])) == (3_000 + COMPRESSION_RATIO * len(packed), 0)
    assert text_size(GivenInputs([Path("-")])) == (UNKNOWN_TEXT_BYTES, 0)


def test_without_a_text_it_is_the_library_of_python() -> None:
    size, vocab = text_size(GivenInputs())
    assert vocab == 0 and size == PythonStandardLibrary().size() == sum(len(d.data) for d in python_library())


def test_shards_bring_their_vocabulary(tmp_path: Path) -> None:
    manifest = make_data(tmp_path / "data")
    size, vocab = text_size(GivenInputs(shards=manifest))
    assert vocab > 256 and size > 0


def test_the_speed_is_measured_once_for_a_folder(tmp_path: Path, measured: list[tuple[str, int]]) -> None:
    request, given, folder = AutoRequest(100_000, 60.0), given_text(tmp_path, 50_000), tmp_path / "run"
    first = choose_for_run(request, given, folder, "cpu", 2)
    assert measured == [("cpu", 2)] and first.budget.speed == 1e10
    with closing(RunLog(folder, quiet=True)) as log:
        Run(chosen_recipe(first), folder, log, auto=first).start_writing({})
    assert choose_for_run(request, given, folder) == first and len(measured) == 1
    assert choose_for_run(request._replace(speed=1e10), given, folder) == first
    assert choose_for_run(request._replace(speed=3e10), given, folder).budget.speed == 3e10 and len(measured) == 1
    assert choose_for_run(request._replace(cap=200_000), given, folder).budget.speed == 2e10
    assert choose_for_run(request, given_text(tmp_path, 60_000), folder).budget.speed == 3e10


def test_a_wrong_number_is_refused_before_anything_is_measured(tmp_path: Path, measured: list[tuple[str, int]]) -> None:
    with pytest.raises(UsageError, match="must be from 30,000"):
        choose_for_run(AutoRequest(10, 60.0), given_text(tmp_path, 50_000), None)
    assert not measured


def test_cap_and_clock_are_those_of_quickstart_unless_given() -> None:
    assert auto_request(None, None, None) == AutoRequest(REFERENCE_BUDGET.cap, REFERENCE_BUDGET.seconds)
    assert auto_request(5, 6.0, 7.0) == AutoRequest(5, 6.0, 7.0)


def test_the_speed_is_that_of_the_median_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are counted as `scaling` counts them, and the random state of the program stays."""
    monkeypatch.setattr(machine_speed, "CPU_PROBE", machine_speed.Probe(32, 512, 2, 32))
    monkeypatch.setattr(machine_speed, "step_seconds", lambda *_: [0.5, 0.25, 9.0, 0.5])
    state = torch.random.get_rng_state()
    probe = machine_speed.CPU_PROBE
    cost = scaling_laws.token_cost(probe.sizes, 32, 64)
    assert machine_speed.measure_speed("cpu", 4) == pytest.approx(64 * cost / 0.5)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_small_probe_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_speed, "CPU_PROBE", machine_speed.Probe(32, 512, 2, 32))
    monkeypatch.setattr(machine_speed, "SECONDS", 0.0)
    assert 1e6 < machine_speed.measure_speed("cpu") < 1e14
