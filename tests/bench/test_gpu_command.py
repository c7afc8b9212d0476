"""`bench/gpu.py` with all benchmarks, at toy size on the CPU."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gpu
import pytest
from gpu_benchmarks import runner
from gpu_benchmarks.job import BenchmarkJob

from helpers.forked import ForkedProcess
from helpers.forked_programs import run_python

execute = runner.run_benchmark
KEYS = {"benchmark", "measurement", "device", "versions", "commit", "recipe", "hash", "seconds", "toy"}
SPEED = {"ms", "range", "peak_gb", "loss", "tokens_per_second"}
SCRIPT = """
import importlib.util, os, time
assert importlib.util.find_spec("flash_attn_interface")
steps, every, batch = (int(os.environ[name]) for name in ("ITERATIONS", "TRAIN_LOG_EVERY", "TRAIN_BATCH_TOKENS"))
assert os.environ["WORLD_SIZE"] == "8" and "RANK" not in os.environ and batch == 8 * 64
assert os.path.getsize(os.environ["DATA_PATH"] + "/fineweb_train_000000.bin") > 1024
assert open(os.environ["TOKENIZER_PATH"], "rb").read(1)
elapsed = 0.0
for step in range(1, steps + 1):
    if step == steps // 2 + 1:
        print(f"layer_loop:enabled step:{step - 1} frac:0.500 encoder:[0] decoder:[1]")
    elapsed += 0.1 if step <= steps // 2 else 0.15
    if step <= 5 or step % every == 0:
        print(f"{step}/{steps} train_loss: 3.0 train_time: {elapsed / 60:.1f}m tok/s: {step * batch / elapsed:.0f}")
time.sleep(60)  # validation, which the benchmark must not wait for
"""


Results = dict[str, dict[str, dict[str, Any]]]  # benchmark -> measurement -> line
pytestmark = pytest.mark.slow


def run_benchmark(
    command: Sequence[str], limit: float, job: BenchmarkJob, name: str, environment: Mapping[str, str]
) -> str:
    """`runner.run_benchmark` with a process that is forked, except for the one benchmark that imports no torch."""
    if name == "gpu_tests":
        return execute(command, limit, job, name, environment)
    assert command[0] == sys.executable
    done = ForkedProcess(run_python, command[1:], environment=environment).finish(limit)
    (job.folder / f"{name}.log").write_text(done.output)
    return done.output if done.status else ""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of one run of all benchmarks."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "train_gpt.py").write_text(SCRIPT)
    options = ["--toy", "--seconds", "400", "--training-seconds", "2", "--reference", str(folder / "train_gpt.py")]
    progress = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(progress):
        patch.setattr(sys, "argv", ["gpu.py", *options, "--out", str(folder / "out")])
        patch.setattr(runner, "run_benchmark", run_benchmark)
        assert gpu.main() == 0, progress.getvalue()
    assert "train_step: at most" in progress.getvalue()
    lines = [json.loads(line) for line in (folder / "out/gpu.jsonl").read_text().splitlines()]
    found: Results = {}
    for line in lines:
        assert line.keys() >= KEYS and line["device"] and line["toy"]
        found.setdefault(line["benchmark"], {})[line["measurement"]] = line
    return found


def test_every_part_leaves_lines_and_none_fails(results: Results) -> None:
    assert list(results) == ["prepare", *(benchmark.name for benchmark in gpu.BENCHMARKS), "all"]
    assert results["all"]["finished"]["failed"] == {}
    versions = results["train_step"]["start"]["versions"]
    assert versions.keys() == {"python", "torch", "cuda", "triton"} and versions["torch"]


def test_both_phases_have_speed_and_the_costliest_kernels(results: Results) -> None:
    step = results["train_step"]
    for phase in ("loops off", "loops on"):
        line, kernels = step[phase], step[f"{phase}, profile"]["kernels"]
        assert line.keys() >= SPEED | {"mfu", "tflop_per_step"} and line["recipe"] == "pr1855" and line["hash"]
        assert len(kernels) == 30 and kernels == sorted(kernels, key=lambda kernel: -kernel["ms"])
        assert all(kernel["launches"] > 0 for kernel in kernels)
    off, on = (step[f"{phase}, profile"]["launches"] for phase in ("loops off", "loops on"))
    assert 1.2 * off < on  # the second phase visits more layers


def test_the_reference_is_run_on_the_same_batch_and_compared(results: Results) -> None:
    reference, ours = results["reference"], results["train_step"]
    for phase, ms in (("loops off", 100.0), ("loops on", 150.0)):
        assert reference[phase]["ms"] == pytest.approx(ms, rel=0.02)
        ratio = reference[f"{phase}, reference ms / our ms"]["ratio"]
        assert ratio == pytest.approx(reference[phase]["ms"] / ours[phase]["ms"], rel=1e-3)
    assert reference["loops on"]["seconds"] < 30  # validation was skipped


def test_the_run_has_bits_seconds_and_clock_of_every_stage(results: Results) -> None:
    line = results["full_run"]["run"]
    assert all(line["bpb"][stage] > 0 for stage in ("trained", "averaged", "packed"))
    stages = {"prepare", "train", "average", "calibrate", "quantize", "pack", "score"}
    assert line["seconds_by_stage"].keys() >= stages and line["training_clock"]["limit"] == 2
    assert math.isclose(line["seconds_over_limit"], line["training_clock"]["total"] - 2, abs_tol=0.01)
    both = results["full_run"]["the artifact on both devices"]
    assert both["difference"] == both["bpb"] - both["bpb_on_cpu"] and both["targets"] == 512


def test_variants_recipes_scoring_and_shrinking_have_a_line_each(results: Results) -> None:
    kernel_ablation = results["kernel_ablation"]
    assert kernel_ablation["as a run"]["ms"] > 0 and kernel_ablation["MLP plain"]["ms"] > 0
    assert (
        "change nothing" in kernel_ablation["mix_order_reduction on"]["error"]
    )  # on a CPU, an error instead of a time
    assert all(results["recipe_speed"][name].keys() >= SPEED for name in ("baseline", "pr164", "pr1512"))
    speeds = {what: line["targets_per_second"] for what, line in results["scoring"].items()}
    assert len(speeds) == 4 and min(speeds.values()) > 0
    quantized = {"quantize, as published", "quantize, trellis", "pack, as published"}
    assert results["quantize_pack"].keys() >= quantized and results["gpu_tests"]["tests marked gpu"]["complete"]


def selected(monkeypatch: pytest.MonkeyPatch, *options: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", "nowhere", *options])
    return [benchmark.name for benchmark in gpu.selected_benchmarks(gpu.parse())]


def test_only_and_skip_choose_parts_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert selected(monkeypatch, "--only", "full_run,train_step") == ["prepare", "train_step", "full_run"]
    assert selected(monkeypatch, "--only", "full_run,train_step", "--skip", "full_run") == ["prepare", "train_step"]
    assert "reference" not in selected(monkeypatch) and "reference" in selected(monkeypatch, "--reference", __file__)


def test_an_unknown_part_is_named_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        selected(monkeypatch, "--skip", "train")
    assert "no benchmark 'train'; benchmarks: train_step, reference" in capsys.readouterr().err


def test_a_file_that_is_missing_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        selected(monkeypatch, "--reference", "nowhere/train_gpt.py")
    assert "--reference: there is no file or folder nowhere/train_gpt.py" in capsys.readouterr().err


def test_without_a_gpu_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "has_cuda", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out")])
    assert gpu.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "bench/gpu.py: no CUDA device found; --toy runs all benchmarks at toy size on the CPU"
    ]
    assert not (tmp_path / "out").exists()
