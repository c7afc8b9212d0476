"""Ordered maps: results in order, items read as fast as results are taken, errors, and workers that die."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bitgolf.config.code_files import load_code
from bitgolf.config.registry import lookup
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.runtime.ordered_map import InProcess, LocalProcesses, OrderedMap, local_map
from bitgolf.runtime.ray_cluster import RayCluster
from helpers.own_code import own_code_removed, write_code

__all__ = ["own_code_removed"]


@pytest.fixture(scope="module")
def processes() -> Iterator[OrderedMap]:
    with LocalProcesses(2) as workers:
        yield workers


def test_results_are_in_order(processes: OrderedMap) -> None:
    wanted = [10 + i for i in range(40)]
    assert list(InProcess().map(partial(operator.add, 10), range(40))) == wanted
    assert list(processes.map(partial(operator.add, 10), range(40))) == wanted


def test_items_are_read_only_as_fast_as_results_are_taken(processes: OrderedMap) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            read.append(i)
            yield i

    results = processes.map(partial(operator.add, 1), items())
    assert next(results) == 1 and len(read) == 6
    assert next(results) == 2 and len(read) == 7


def test_the_error_of_a_worker_is_the_callers(processes: OrderedMap) -> None:
    with pytest.raises(ZeroDivisionError):
        list(processes.map(partial(operator.floordiv, 1), [1, 0, 1]))
    assert list(processes.map(partial(operator.add, 1), [1])) == [2], "the workers go on"


def test_a_worker_that_dies_is_one_clear_error() -> None:
    with LocalProcesses(2) as workers, pytest.raises(BitgolfError, match="worker process ended") as error:
        list(workers.map(os._exit, [3]))
    assert "--processes" in error.value.hint


def test_one_process_is_this_one() -> None:
    assert isinstance(local_map(1), InProcess)


@pytest.mark.cluster
def test_a_ray_cluster_gives_the_same_results() -> None:
    ray = pytest.importorskip("ray", reason="needs the extra `cluster`")
    ray_clusters = pytest.importorskip("ray.cluster_utils", reason="needs the extra `cluster`")
    cluster = ray_clusters.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        with RayCluster(str(cluster.address)) as workers:
            assert workers.workers == 2
            assert list(workers.map(partial(operator.add, 10), range(20))) == [10 + i for i in range(20)]
            with pytest.raises(ZeroDivisionError):
                list(workers.map(partial(operator.floordiv, 1), [1, 0, 1]))
    finally:
        cluster.shutdown()
    assert not ray.is_initialized()


def test_a_cluster_that_is_not_there_is_wrong_use() -> None:
    with pytest.raises(UsageError, match=r"needs the package ray|no Ray cluster can be reached") as error:
        RayCluster("127.0.0.1:1")
    assert error.value.where == "--cluster 127.0.0.1:1" and error.value.hint


def test_the_program_that_uses_workers_is_not_run_by_them(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"` would otherwise run again in each worker."""
    script = tmp_path / "script.py"
    script.write_text(
        "import operator\n"
        "from functools import partial\n"
        "from bitgolf.runtime.ordered_map import LocalProcesses\n"
        "print('the script runs')\n"
        "with LocalProcesses(2) as workers:\n"
        "    print(sum(workers.map(partial(operator.add, 1), range(10))))\n"
    )
    done = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("the script runs\n55\n", 0), done.stderr


def test_worker_processes_have_the_code_files_of_this_process(tmp_path: Path) -> None:
    source = "from bitgolf.config.registry import register\n@register\nclass MyPart:\n    pass\n"
    load_code([write_code(tmp_path, "my_parts.py", source)])
    (tmp_path / "my_parts.py").write_text("raise AssertionError('edited since')")
    with local_map(2) as workers:
        assert list(workers.map(lookup, ["MyPart"] * 3)) == [lookup("MyPart")] * 3
