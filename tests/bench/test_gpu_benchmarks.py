"""Computations and parsers of the benchmarks of `bench/gpu.py`, tested without a GPU."""

from __future__ import annotations

import importlib
import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_benchmarks import flops, full_run, gpu_tests, kernel_ablation, reference, synthetic_text, wheels
from gpu_benchmarks.harness import prepared_trainer, recipe_for, time_steps
from gpu_benchmarks.job import BenchmarkJob
from gpu_benchmarks.recipe_speed import random_shard

from bitgolf.config.build_context import BuildContext
from bitgolf.errors import BitgolfError
from bitgolf.recipes import get_recipe
from bitgolf.training.phases import progress_at

LOG = """warmup_step: 5/5
1/160 train_loss: 9.0 train_time: 0.0m tok/s: 3932160
10/160 train_loss: 8.0 train_time: 0.0m tok/s: 6553600
20/160 train_loss: 7.0 train_time: 0.0m tok/s: 7149382
30/160 train_loss: 6.0 train_time: 0.1m tok/s: 7372800
layer_loop:enabled step:35 frac:0.500 encoder:[0] decoder:[1]
40/160 train_loss: 5.0 train_time: 0.1m tok/s: 6553600
50/160 train_loss: 4.0 train_time: 0.1m tok/s: 6241524
"""


# ---- the reference ---------------------------------------------------------------------------------------------------


def test_the_references_milliseconds_are_those_of_its_log() -> None:
    tokens = 786_432  # these steps were logged at 0.2, 1.2, 2.2, 3.2, 4.8 and 6.3 s
    log = reference.parse_log(LOG, tokens)
    assert list(log.elapsed) == [1, 10, 20, 30, 40, 50] and log.loops == 35
    assert reference.step_ms(log, "loops off") == pytest.approx([100.0, 100.0], abs=1e-3)
    assert reference.step_ms(log, "loops on") == pytest.approx([150.0], abs=1e-3)


def test_a_log_that_ends_early_has_no_steps_of_the_second_phase() -> None:
    log = reference.parse_log(LOG.partition("layer_loop")[0], 786_432)
    assert reference.step_ms(log, "loops on") == []


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(reference.STUB_FOLDER))
    return importlib.import_module("flash_attn_interface")


def test_the_stand_in_is_attention_as_flash_attention_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    standin = stand_in(monkeypatch)
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 16, 4, 8), torch.randn(2, 16, 2, 8), torch.randn(2, 16, 2, 8)
    score = torch.einsum("bihd,bjhd->bhij", q, k.repeat_interleave(2, 2)) / 8**0.5
    score = score.masked_fill(torch.ones(16, 16, dtype=torch.bool).triu(1), float("-inf"))
    plain = torch.einsum("bhij,bjhd->bihd", score.softmax(-1), v.repeat_interleave(2, 2))
    assert torch.allclose(standin.flash_attn_func(q, k, v, causal=True), plain, atol=1e-5)


@pytest.mark.gpu
def test_the_stand_in_keeps_to_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: variable-length attention runs on no other")
    standin = stand_in(monkeypatch)
    q, k, v = (torch.randn(96, heads, 64, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2))
    ends = torch.tensor([0, 32, 96, 96], dtype=torch.int32, device="cuda")
    packed = standin.flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=ends, cu_seqlens_k=ends, max_seqlen_q=64, max_seqlen_k=64, causal=True
    )
    alone = [
        standin.flash_attn_func(*(x[None, a:b] for x in (q, k, v)), causal=True)[0] for a, b in ((0, 32), (32, 96))
    ]
    assert torch.allclose(packed, torch.cat(alone), atol=2e-2)


# ---- operations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "visits"), [(0.2, 11), (0.6, 17)])
def test_operations_of_pr1855_are_those_of_its_matrices(progress: float, visits: int) -> None:
    recipe = get_recipe("pr1855")
    found = flops.count(recipe, BuildContext(vocab=8192), progress_at(progress, 20_000, 600.0))
    block = 2 * (512 * 512 * 2 + 512 * 256 * 2 + 2 * 512 * 2048)  # two operations per weight of q, out, k, v and MLP
    matrices = visits * block + 2 * 512 * 8192
    assert matrices <= found.matmul <= 1.005 * matrices  # the rest is gates
    assert found.attention == visits * 4 * 512


def test_a_step_has_two_products_backward_for_one_forward() -> None:
    assert flops.FlopsPerToken(matmul=10.0, attention=2.0).step(tokens=100, keys=5.0) == 3 * 100 * (10 + 2 * 5)


def test_keys_are_those_of_a_token_s_own_segment() -> None:
    ids = np.array([[5, 5, 1, 5, 5, 5, 5, 5]])  # segments of 2, then 6 cut after 4
    assert flops.mean_keys(ids, 1, 4) == (3 + 10 + 3) / 8
    assert flops.mean_keys(ids, 1, 0) == (3 + 21) / 8


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3: bfloat16 products", 989e12), ("NVIDIA H100 PCIe", 756e12), ("CPU with 2 threads", None)],
)
def test_the_peak_is_looked_up_by_the_device_s_name(name: str, peak: float | None) -> None:
    assert flops.peak_flops(name) == peak


# ---- training --------------------------------------------------------------------------------------------------------


def test_a_part_that_is_kept_plain_is_offered_no_kernel(tmp_path: Path) -> None:
    recipe, context = recipe_for("pr1855", toy=True), BuildContext(vocab=300)
    data = random_shard(tmp_path, context, 2_000)
    with (
        prepared_trainer(recipe, data, context) as all_of_them,
        prepared_trainer(recipe, data, context, without_kernels=(kernel_ablation.MLP,)) as others,
    ):
        hidden = [line for line in all_of_them.messages if line not in others.messages]
    assert hidden == [line for line in all_of_them.messages if line.startswith("MLP")] != []
    with (
        pytest.raises(BitgolfError, match="Nothing"),
        prepared_trainer(recipe, data, context, without_kernels=("Nothing",)),
    ):
        pass


def test_an_option_that_inductor_does_not_know_is_an_error(tmp_path: Path) -> None:
    recipe, context = recipe_for("pr1855", toy=True), BuildContext(vocab=300)
    with (
        pytest.raises(BitgolfError, match="no option 'fusion'"),
        prepared_trainer(recipe, random_shard(tmp_path, context, 2_000), context, options={"fusion": 1}),
    ):
        pass


def test_both_phases_are_timed_by_the_graph_that_trains(tmp_path: Path) -> None:
    recipe, context = recipe_for("pr1855", toy=True), BuildContext(vocab=300)
    visited = list[int]()
    with prepared_trainer(recipe, random_shard(tmp_path, context, 2_000), context) as ready:
        ready.trainer.model.blocks[4].register_forward_hook(lambda *_: visited.append(1))
        timing = time_steps(ready.trainer, 0.2, rounds=2, steps=1)
        once = len(visited)
        time_steps(ready.trainer, 0.6, rounds=2, steps=1)
    assert len(timing.ms) == 2 and min(timing.ms) > 0 and timing.peak_bytes is None
    assert len(visited) == once + 3 * once  # layer 4 is visited three times in a loop


# ---- parsers ---------------------------------------------------------------------------------------------------------


def test_outcomes_of_tests_are_read_from_what_pytest_prints() -> None:
    log = """collecting ... collected 4 items
tests/kernels/test_cores.py::test_a[x y-1] PASSED                        [ 25%]
tests/kernels/test_cores.py::test_b FAILED                               [ 50%]
tests/kernels/test_cores.py::test_c SKIPPED (needs a CUDA device)        [ 75%]
ERROR tests/model/test_broken.py - ImportError
"""
    assert gpu_tests.parse(log) == {
        "tests/kernels/test_cores.py::test_a[x y-1]": "PASSED",
        "tests/kernels/test_cores.py::test_b": "FAILED",
        "tests/kernels/test_cores.py::test_c": "SKIPPED",
        "tests/model/test_broken.py": "ERROR",
    }


def test_interruptions_are_time_beyond_the_usual_speed_of_each_phase(tmp_path: Path) -> None:
    marks = [(50, 5.0), (50, 5.0), (100, 10.0), (150, 24.0), (200, 29.0), (250, 36.5), (300, 44.0), (350, 51.5)]
    events = [{"event": "step", "step": step, "training_seconds": elapsed} for step, elapsed in marks]
    events.insert(5, {"event": "phase", "step": 200})
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(event) + "\n" for event in [{"event": "run"}, *events]))
    assert full_run.time_lost(log) == {"lost_seconds": 9.0}  # a checkpoint took 9 s between steps 100 and 150


def test_the_clock_of_a_run_leaves_time_for_the_stages_behind_it(tmp_path: Path) -> None:
    job = BenchmarkJob(out=str(tmp_path), training_seconds=100.0, toy=True, deadline=time.time() + 50.0)
    assert full_run.recipe_of(job)["train.seconds"] == pytest.approx(20.0, abs=0.5)


def test_random_words_are_the_same_each_time_and_follow_zipf(tmp_path: Path) -> None:
    paths = [
        synthetic_text.write_random_text(tmp_path / str(i), documents=30, words=200, lexicon=100) for i in range(2)
    ]
    assert paths[0].read_text() == paths[1].read_text()
    documents = [json.loads(line)["text"].split() for line in paths[0].read_text().splitlines()]
    counts = sorted(map([w for d in documents for w in d].count, {w for d in documents for w in d}), reverse=True)
    assert len(documents) == 30 and 5500 < sum(counts) < 6500
    assert 1.7 < counts[0] / counts[1] < 2.4


# ---- wheels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pip", ["pip", "no pip"])
def test_wheels_are_installed_without_a_network(tmp_path: Path, pip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "smallest-1.0"
    with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("smallest.py", "VALUE = 7\n")
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: smallest\nVersion: 1.0\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    if pip == "no pip":
        bare = tmp_path / "python"
        bare.write_text("#!/bin/sh\nexit 1\n")
        bare.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(bare))
    how = wheels.install(tmp_path, tmp_path / "site")
    assert how.startswith("pip" if pip == "pip" else "unzipped")
    assert (tmp_path / "site/smallest.py").read_text() == "VALUE = 7\n"


def test_a_folder_without_wheels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no \*\.whl"):
        wheels.install(tmp_path, tmp_path / "site")
