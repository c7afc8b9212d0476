"""Tests of the calculated time of a step on many GPUs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import scaling
from hypothesis import given
from hypothesis import strategies as st
from step_time import (
    BITGOLF_FA3,
    CLUSTER,
    H100,
    SCRIPT_FA2,
    SCRIPT_FA3,
    Phase,
    Product,
    Stack,
    Workload,
    collectives_time,
    critical_batch,
    one_way_time,
    optimizer_time,
    product_time,
    run_steps,
    step_time,
    useful_tokens,
    utilization,
)

from bitgolf.recipes import get_recipe

GPUS = st.sampled_from([1, 2, 3, 4, 8, 16, 64, 512])
CODES = st.sampled_from([SCRIPT_FA2, SCRIPT_FA3, BITGOLF_FA3])
STACKS = st.lists(
    st.builds(Stack, st.integers(1, 64), st.integers(8, 4096), st.integers(8, 4096), st.just(2), st.just(4)), max_size=4
)
PRODUCTS = st.lists(st.builds(Product, st.integers(8, 4096), st.integers(8, 4096), st.integers(1, 40)), max_size=4)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    products, visits = tuple(draw(PRODUCTS)), draw(st.integers(0, 40))
    phase = Phase(1.0, products, visits, draw(st.floats(0, 1e7)))
    batch = draw(st.integers(1, 1 << 24))
    return Workload("any", 512, (phase,), tuple(draw(STACKS)), draw(st.integers(0, 10**8)), batch, 600.0)


@pytest.fixture(scope="module")
def pr1855() -> Workload:
    return scaling.workload(get_recipe("pr1855")(), "pr1855")


def test_counts_are_those_of_the_recipe(pr1855: Workload) -> None:
    """31.4 TFLOP of products and at most 12.3 of attention in a looped step of 98,304 tokens, as counted on a GPU."""
    plain, looped = pr1855.phases
    flops = [6 * 98_304 * sum(p.rows * p.columns * p.visits for p in phase.products) for phase in pr1855.phases]
    assert flops == pytest.approx([21.18e12, 31.39e12], rel=1e-3)
    assert 98_304 * looped.attention * 14 == pytest.approx(12.26e12, rel=1e-3)
    assert (plain.visits, looped.visits, plain.share) == (11, 17, 0.35)
    matrices = sum(stack.matrices * stack.rows * stack.columns for stack in pr1855.stacks)
    assert matrices + pr1855.replicated == sum(
        p.numel() for p in scaling.build_on_meta(get_recipe("pr1855")().model, 8192).parameters()
    )
    assert pr1855.batch_tokens == 786_432


def test_measured_steps_are_met(pr1855: Workload) -> None:
    found = scaling.comparisons(pr1855)
    assert sum(c.fitted for c in found) == 2 and len(found) == 7
    assert all(abs(c.error) < (0.005 if c.fitted else 0.02) for c in found if "script" in c.what), found
    assert all(abs(c.error) < 0.1 for c in found), found


@given(work=workloads())
def test_one_gpu_has_no_collectives(work: Workload) -> None:
    assert collectives_time(work, 1) == 0.0


@given(work=workloads(), gpus=GPUS, code=CODES)
def test_a_step_takes_at_least_as_long_as_each_of_its_terms(work: Workload, gpus: int, code: scaling.Code) -> None:
    found = step_time(work, work.phases[0], gpus, code)
    assert found.total >= max(found) > 0


@given(work=workloads(), gpus=GPUS, code=CODES)
def test_more_tokens_take_no_less_time(work: Workload, gpus: int, code: scaling.Code) -> None:
    """Up to the waves of tiles: a product of more rows may fill its last wave better."""
    larger = work._replace(batch_tokens=2 * work.batch_tokens)
    one, two = (step_time(w, w.phases[0], gpus, code) for w in (work, larger))
    assert two.attention >= one.attention and two.memory >= one.memory
    assert two.products >= one.products * (1 - 1e-9)
    assert (two.optimizer, two.collectives) == (one.optimizer, one.collectives)


@given(size=st.floats(1, 1e10), larger=st.floats(1, 1e10))
def test_collectives_grow_with_bytes_and_with_hosts(size: float, larger: float) -> None:
    assert one_way_time(size + larger, 8) > one_way_time(size, 8)
    assert one_way_time(size, 2) < one_way_time(size, 8) < one_way_time(size, 16) < one_way_time(size, 512)


@given(work=workloads(), gpus=GPUS)
def test_more_gpus_update_no_more_slowly(work: Workload, gpus: int) -> None:
    """Each has fewer matrices; one matrix is never divided."""
    assert optimizer_time(work, 2 * gpus) <= optimizer_time(work, gpus) * (1 + 1e-9)


@given(tokens=st.integers(1, 1 << 20), rows=st.integers(8, 8192), columns=st.integers(8, 8192))
def test_no_product_is_faster_than_the_efficiency_allows(tokens: int, rows: int, columns: int) -> None:
    least = 6 * tokens * rows * columns / (H100.peak_flops * H100.product_efficiency)
    assert product_time(Product(rows, columns, 1), tokens) >= least * (1 - 1e-9)
    assert 0 < utilization(tokens, rows, 1) <= 1


def test_a_whole_wave_uses_the_gpu_and_one_tile_more_does_not() -> None:
    """132 multiprocessors: 66 x 2 tiles are one wave, 67 x 2 are two."""
    assert utilization(66 * 128, 512, 1) == 1.0
    assert utilization(67 * 128, 512, 1) == pytest.approx(134 / 264)


def test_a_stack_is_padded_to_the_gpus() -> None:
    work = Workload("one", 512, (), (Stack(11, 512, 2048, 2),), 0, 1, 1.0)
    padded = work._replace(stacks=(Stack(16, 512, 2048, 2),))
    assert collectives_time(work, 8) == collectives_time(padded, 8) > 0
    assert collectives_time(work, 8, CLUSTER._replace(nvlink_bytes=1e9)) > collectives_time(work, 8)


def test_batches_above_the_critical_one_bring_little() -> None:
    """At the critical batch, half of the tokens count; the limit of large batches is the number of steps."""
    critical = critical_batch(2.35)
    assert critical == pytest.approx(3.5e6, rel=0.05)
    assert useful_tokens(100, critical, critical) == pytest.approx(50 * critical)
    assert useful_tokens(100, 1e15, critical) == pytest.approx(100 * critical, rel=1e-6)


def test_steps_of_a_run_are_those_of_its_phases(pr1855: Workload) -> None:
    steps = run_steps(pr1855, 8, SCRIPT_FA3)
    seconds = [step_time(pr1855, phase, 8, SCRIPT_FA3).total for phase in pr1855.phases]
    assert steps == pytest.approx(210 / seconds[0] + 390 / seconds[1])


def test_the_command_prints_a_table_or_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling.py", "pr1855", "--gpus", "8", "64", "--json"])
    scaling.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["batch"], line["gpus"], line["rows_per_gpu"]) for line in lines] == [
        ("constant batch", 8, 1.0),
        ("constant batch", 64, 0.125),
        ("constant rows", 64, 1.0),
    ]
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--check"])
    scaling.main()
    printed = capsys.readouterr().out
    assert "predicted" in printed and "data sheet" in printed


def test_the_documented_tables_are_those_of_the_command(pr1855: Workload) -> None:
    """Of pr1855; the other recipe takes as long again to build."""
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    rows = scaling.rows_of(pr1855, get_recipe("pr1855")().train().rows, scaling.GPUS, SCRIPT_FA3)
    for line in (*scaling.check_table(pr1855).splitlines(), *scaling.table(rows).splitlines()):
        assert " ".join(line.split()) in " ".join(text.split()), line
