"""Tests of the place of a process under torchrun, and of the variables of its workers."""

from __future__ import annotations

import os

import pytest

from bitgolf.cli.on_hosts import group_size, option_value
from bitgolf.errors import UsageError
from bitgolf.runtime.hosts.place import Place, place_in, take_place
from bitgolf.runtime.hosts.workers import worker_variables

TORCHRUN = {
    "RANK": "9",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "head",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


def test_torchrun_comes_before_slurm() -> None:
    """srun may have started torchrun, once on each host."""
    slurm = {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}
    place = place_in({**slurm, **TORCHRUN})
    assert place and place[:5] == (9, 16, 1, 1, "head")


def test_hosts_without_numbers_are_those_of_their_first_ranks() -> None:
    place = place_in({name: value for name, value in TORCHRUN.items() if name != "GROUP_RANK"})
    assert place and place.host == 8


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}, TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}])
def test_a_single_process_has_no_place(environment: dict[str, str]) -> None:
    assert place_in(environment) is None


@pytest.mark.parametrize("missing", ["WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_missing_variable_is_named(missing: str) -> None:
    with pytest.raises(UsageError, match=f"RANK is set, but {missing} is not"):
        place_in({name: value for name, value in TORCHRUN.items() if name != missing})
    with pytest.raises(UsageError, match="WORLD_SIZE is set, but RANK is not"):
        place_in({"WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": "16"}, "contradict each other: RANK=16, WORLD_SIZE=16"),
        ({"RANK": "0"}, "contradict each other"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK must be a number, got '-1'"),
    ],
)
def test_contradictions_are_errors(change: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        place_in(TORCHRUN | change)


def test_a_place_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So what this process starts is no member of the group."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert take_place() == place_in(TORCHRUN)
    assert not TORCHRUN.keys() & os.environ.keys() and take_place() is None


def test_a_worker_has_the_place_of_its_process() -> None:
    place = place_in(TORCHRUN)
    assert place
    variables = worker_variables(place, 4321, {})
    assert variables["MASTER_PORT"] == "4321"
    assert {name: variables[name] for name in TORCHRUN if name in variables} == {
        name: value for name, value in TORCHRUN.items() if name != "LOCAL_WORLD_SIZE"
    } | {"MASTER_PORT": "4321"}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({"SLURM_PROCID": "9", "CUDA_VISIBLE_DEVICES": "3"}, "0"),
        ({"SLURM_PROCID": "9", "CUDA_VISIBLE_DEVICES": "0,1"}, "1"),
        ({"SLURM_PROCID": "9"}, "1"),
        ({"CUDA_VISIBLE_DEVICES": "3"}, "1"),
    ],
)
def test_a_task_that_sees_one_gpu_uses_it(environment: dict[str, str], rank: str) -> None:
    place = Place(9, 16, 1, 1, "head", TORCHRUN)
    assert worker_variables(place, 1, environment)["LOCAL_RANK"] == rank


def test_the_value_of_an_option() -> None:
    words = ["run", "pr1855", "--shards", "a", "--out=b", "--shards=c d"]
    assert option_value(words, "--shards") == "c d" and option_value(words[:4], "--shards") == "a"
    assert (
        option_value(words, "--out") == "b"
        and option_value(words, "--text") == option_value(["--text"], "--text") == ""
    )


def test_without_a_group_the_option_counts() -> None:
    assert group_size(3, "--devices") == 3
