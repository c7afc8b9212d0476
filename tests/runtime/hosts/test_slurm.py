"""Tests of host lists of SLURM and of the variables of its tasks."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.errors import UsageError
from bitgolf.runtime.hosts.place import place_in
from bitgolf.runtime.hosts.slurm import FIRST_PORT, PORTS, host_names

TASK = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NODELIST": "gpu[07-10],login",
}
NAMES = st.text("abc-.", min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ["node1"]),
        ("node1,other", ["node1", "other"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[08-11,3]x,z", ["node08x", "node09x", "node10x", "node11x", "node3x", "z"]),
        ("r[1-2]n[0,5]", ["r1n0", "r1n5", "r2n0", "r2n5"]),
        ("[1-2]", ["1", "2"]),
    ],
)
def test_host_lists(text: str, names: list[str]) -> None:
    assert list(host_names(text)) == names


@given(
    names=st.lists(
        st.tuples(NAMES, st.lists(st.integers(0, 500), min_size=1, max_size=4), st.integers(1, 4)), min_size=1
    )
)
def test_a_compressed_list_has_its_names_in_order(names: list[tuple[str, list[int], int]]) -> None:
    """Numbers and ranges in brackets, with leading zeros."""
    written, wanted = list[str](), list[str]()
    for name, starts, width in names:
        ranges = [f"{start:0{width}d}-{start + 2:0{width}d}" for start in starts]
        written.append(f"{name}[{','.join(ranges)}]")
        wanted += [f"{name}{n:0{width}d}" for start in starts for n in range(start, start + 3)]
    assert list(host_names(",".join(written))) == wanted


@given(text=st.text("ab[]-,01 ", max_size=12))
def test_any_text_gives_names_or_one_error(text: str) -> None:
    try:
        names = list(islice(host_names(text), 1000))
    except UsageError as error:
        assert "not a list of hosts of SLURM" in error.message
    else:
        assert names and all(names) and not any(char in name for name in names for char in "[], ")


@pytest.mark.parametrize("text", ["", ",", "a,", "a[", "a[]", "a[1-]", "a[2-1]", "a[x]", "a]", "a[1", "a[0-999999999]"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a list of hosts"):
        list(host_names(text))


def test_a_task_finds_the_first_process() -> None:
    """The same port in all tasks of a step, below those of outgoing connections, and another one in the next step."""
    place = place_in(TASK)
    assert place and place[:5] == (5, 8, 1, 2, "gpu07")
    port = int(place.variables["MASTER_PORT"])
    assert FIRST_PORT <= port < FIRST_PORT + PORTS <= 32_768
    other = place_in(TASK | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"})
    assert other and other.variables["MASTER_PORT"] == str(port)
    following = place_in(TASK | {"SLURM_STEP_ID": "1"})
    assert following and following.variables["MASTER_PORT"] != str(port)


def test_the_step_counts_and_an_address_that_is_given() -> None:
    """A step may have fewer tasks and hosts than the job."""
    step = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NODELIST": "gpu[09-10]"}
    place = place_in(TASK | step)
    assert place and (place.size, place.address) == (6, "gpu09")
    place = place_in(TASK | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "1234"})
    assert place and (place.address, place.variables["MASTER_PORT"]) == ("10.0.0.7", "1234")


def test_one_task_and_the_batch_script_are_single_processes() -> None:
    """The batch script has a rank and the number of tasks that srun would start, and no step."""
    assert place_in({name: value for name, value in TASK.items() if name != "SLURM_STEP_ID"}) is None
    assert place_in(TASK | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) is None


@pytest.mark.parametrize(
    "missing", ["SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID", "SLURM_JOB_NODELIST"]
)
def test_a_missing_variable_is_named(missing: str) -> None:
    with pytest.raises(UsageError, match=f"SLURM_PROCID is set, but {missing} is not"):
        place_in({name: value for name, value in TASK.items() if name != missing})


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID"])
def test_a_variable_that_is_no_number_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="must be a number, got 'x'"):
        place_in(TASK | {name: "x"})
