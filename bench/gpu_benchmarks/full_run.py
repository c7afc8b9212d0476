"""A run of `pr1855` from shards to score: bits per byte and seconds by stage, and the time over the training limit.

The artifact is then scored on the GPU and on the CPU, on the same targets, to measure the difference between devices.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from bitgolf.artifact.model import load_model
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec
from bitgolf.files import read_json, write_json
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.device import Device
from bitgolf.score.evaluate import ScoringContext, evaluate_method
from bitgolf.score.methods import ContiguousScoring
from bitgolf.score.text import load_validation
from gpu_benchmarks import harness
from gpu_benchmarks.job import GPUS, RECIPE, BenchmarkJob
from gpu_benchmarks.results import ResultsWriter, tail

TARGETS, TOY_TARGETS = 8_192, 512
SHARE = 0.4  # largest share of the benchmark's time that is used for training
CAP = 1 << 24  # bytes: the weights of a short run can exceed 16 MB; artifacts with a larger cap cannot be read


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Run `bitgolf run` and write its results. Raises `SystemExit` if it fails."""
    recipe, folder = recipe_of(job), job.folder / "run"
    known = harness.recipe_fields(recipe)
    write_json(folder / "recipe.json", recipe.to_json())
    command = [sys.executable, "-m", "bitgolf", "run", str(folder), "--shards", str(job.data), "--from", "prepare"]
    log = job.folder / "bitgolf.log"
    with log.open("wb") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        results.add("stages before the failure", **known, seconds_by_stage=stage_seconds(folder))
        raise SystemExit(f"`bitgolf run` failed with status {status}: {tail(log, 2)}")
    result = read_json(folder / "score.json")
    results.add(
        "run",
        **known,
        bpb=result["bpb"],
        seconds_by_stage=result["seconds"],
        training_clock=result["training_clock"],
        seconds_over_limit=round(result["training_clock"]["total"] - result["training_clock"]["limit"], 2),
        steps=result["steps"],
        tokens=result["tokens"],
        bytes=result["bytes"],
    )
    results.add("interruptions of training", **known, **time_lost(folder / "log.jsonl"))
    compare_devices(folder / "artifact.bg", recipe, job, results)


def recipe_of(job: BenchmarkJob) -> Spec[Recipe]:
    """The recipe for one GPU and the job's training time, scored with its first method only.

    Calibration is reduced to the share of one GPU, too.
    """
    recipe = harness.recipe_for(RECIPE, toy=job.toy)
    clock = min(job.training_seconds, max(1.0, SHARE * job.seconds_left))
    recipe = recipe.set("train.seconds", clock).set("train.steps", 0).set("pack.cap", CAP)
    recipe = recipe.set("score", recipe().score[:1]).set("proof", None)
    if job.toy:
        recipe = recipe.edit(TrainingText, replace(batches=2, rows=2, length=64)).set("pack.counted", "model")
        return recipe.edit(ContiguousScoring, replace(window=64))
    return recipe.edit(TrainingText, replace(batches=max(1, recipe["calibrate.source.batches"] // GPUS)))


def stage_seconds(folder: Path) -> dict[str, float]:
    """Completed stage of a run -> seconds."""
    path = folder / "stages.json"
    return {stage: done["seconds"] for stage, done in read_json(path).items()} if path.exists() else {}


def time_lost(log: Path) -> dict[str, Any]:
    """Training seconds in excess of the median speed of each phase, mostly caused by checkpoints.

    log: the run's `log.jsonl`.
    """
    phases: list[list[tuple[int, float]]] = [[]]  # (step, training seconds) of each step event, by phase
    for event in map(json.loads, log.read_text().splitlines()):
        if event["event"] == "phase":
            phases.append([])
        elif event["event"] == "step" and (not phases[-1] or event["training_seconds"] > phases[-1][-1][1]):
            phases[-1].append((event["step"], event["training_seconds"]))
    lost = 0.0
    for marks in phases:
        spans = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(marks)]
        median = statistics.median([seconds / steps for steps, seconds in spans] or [0.0])
        lost += sum(max(0.0, seconds - steps * median) for steps, seconds in spans)
    return {"lost_seconds": round(lost, 3)}


def compare_devices(artifact: Path, recipe: Spec[Recipe], job: BenchmarkJob, results: ResultsWriter) -> None:
    """Score the artifact on the same targets on this device and on the CPU, and write both."""
    text = load_validation(job.data).head(TOY_TARGETS if job.toy else TARGETS)

    def bpb(device: Device) -> float:
        loaded = load_model(artifact)
        context = ScoringContext(loaded.model, loaded.tokenizer.vocab, text, device)
        return evaluate_method(context, recipe().score[0]).bpb

    here, on_cpu = bpb(harness.device()), bpb(harness.cpu())
    results.add(
        "the artifact on both devices",
        **harness.recipe_fields(recipe),
        targets=text.num_targets,
        bpb=here,
        bpb_on_cpu=on_cpu,
        difference=here - on_cpu,
    )
