"""Where runs are executed: processes of this host with GPUs of their own, or a Ray cluster; the table is the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitgolf.config.spec import part
from bitgolf.errors import UsageError
from bitgolf.files import file_digest
from bitgolf.pipeline.execute import ExecutionOptions
from bitgolf.runtime.ordered_map import InProcess, LocalProcesses, OrderedMap
from bitgolf.runtime.ray_cluster import RayCluster
from bitgolf.sweeps.driver import run_sweep
from bitgolf.sweeps.factors import BASE, FactorLevel, SweepVariant
from bitgolf.sweeps.folder import RunUnit
from bitgolf.sweeps.gates import BehindBest, OverCap
from bitgolf.sweeps.summary import SweepSummary
from bitgolf.sweeps.waves import waves
from bitgolf.sweeps.workers import gpu_groups, run_workers
from helpers.toy_sweeps import BITS, OPTIMIZER, comparable, executed_stages, plain, toy_inputs, toy_sweep


def units(*names: str, seeds: tuple[int, ...] = (0, 1)) -> list[RunUnit]:
    """Runs of the base and of variants: those in capitals train as the base does."""
    found = list[RunUnit]()
    for name in names:
        variant = BASE if name == "base" else SweepVariant((("f", name),))
        recipe = toy_sweep()["recipe"]
        recipe = recipe.set(BITS, 3.0) if name.isupper() else recipe.set("train.steps", len(name))
        found += [RunUnit(variant, seed, recipe) for seed in seeds]
    return found


def order(*names: str, gates: tuple[object, ...] = ()) -> list[list[str]]:
    groups = waves(units(*names), gates)  # type: ignore[arg-type]
    return [[f"{unit.variant.name}{unit.seed}" for unit in group] for group in groups]


def test_runs_that_share_a_training_wait_for_the_first() -> None:
    assert order("base", "xx", "A", "B") == [["base0", "base1", "xx0", "xx1", "A0", "A1"], ["B0", "B1"]]


def test_with_a_gate_one_seed_follows_the_other() -> None:
    assert order("base", "xx", gates=(part(OverCap),)) == [["base0", "xx0"], ["base1", "xx1"]]
    compared = order("base", "xx", "yyy", gates=(part(BehindBest),))
    assert compared == [["base0", "base1"], ["xx0", "yyy0"], ["xx1", "yyy1"]]


def test_each_worker_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,GPU-7")
    assert gpu_groups(4, 1) == ["4", "5", "6", "GPU-7"] and gpu_groups(2, 2) == ["4,5", "6,GPU-7"]
    with pytest.raises(UsageError, match="3 runs at a time with 2 GPUs each need 6 GPUs, but there are 4"):
        gpu_groups(3, 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert gpu_groups(2, 1) == ["0", "1"]


def test_what_executes_the_runs() -> None:
    assert isinstance(run_workers(1, "", ExecutionOptions()), InProcess)
    with pytest.raises(UsageError, match="--workers is for this host"):
        run_workers(2, "auto", ExecutionOptions())


@pytest.mark.slow
def test_a_worker_sees_its_gpu_alone() -> None:
    with LocalProcesses(2, ("3", "5")) as workers:
        seen = list(workers.map(os.getenv, ["CUDA_VISIBLE_DEVICES"] * 8))
    assert set(seen) <= {"3", "5"}


def two_workers(folder: Path, workers: OrderedMap) -> SweepSummary:
    """Three variants, two of which share a training. Nothing is scored, which would start a process for each run."""
    level = part(FactorLevel, name="3.5 bits", edits=(f"{BITS}=3.5",))
    inputs = toy_inputs()
    inputs = inputs._replace(given=inputs.given._replace(score_tokens=0))
    with workers:
        return run_sweep(toy_sweep(OPTIMIZER, level, seeds=(0,)), inputs, folder, workers)


def check_equal(summary: SweepSummary, folder: Path, expected: tuple[Path, SweepSummary]) -> None:
    """The tables and the artifacts are the same, and nothing was done twice."""
    assert comparable(plain(summary)) == comparable(plain(expected[1]))
    artifacts = [{p.parent.name: file_digest(p) for p in f.glob("*/artifact.bg")} for f in (folder, expected[0])]
    assert artifacts[0] == artifacts[1] and len(artifacts[0]) == 3
    stages = executed_stages(folder)
    assert (stages["prepare"], stages["train"], stages["quantize"]) == (1, 2, 3)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepSummary]:
    """The result in this process: (its folder, its table)."""
    folder = tmp_path_factory.mktemp("one") / "sweep"
    return folder, two_workers(folder, InProcess())


@pytest.mark.slow
def test_two_processes_give_the_same_table(expected: tuple[Path, SweepSummary], tmp_path: Path) -> None:
    summary = two_workers(tmp_path / "sweep", LocalProcesses(2))
    check_equal(summary, tmp_path / "sweep", expected)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_ray_cluster_gives_the_same_table(
    expected: tuple[Path, SweepSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = pytest.importorskip("ray.cluster_utils", reason="needs the extra `cluster`")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "src"), str(root / "tests")]))
    cluster = clusters.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        summary = two_workers(tmp_path / "sweep", RayCluster(str(cluster.address)))
    finally:
        cluster.shutdown()
    check_equal(summary, tmp_path / "sweep", expected)
