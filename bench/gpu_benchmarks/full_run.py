"""A run of `pr1855` from shards to score: bits per byte after each stage, seconds of each, and whether the clock was kept.

The artifact is then scored on the GPU and on the CPU, the same first targets: what the device changes.
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
SHARE = 0.4  # of the benchmark's time, at most, is the training clock
CAP = 1 << 24  # bytes: a short run's weights need not fit 16 MB; an artifact that states more cannot be read


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
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
    """The recipe for one GPU and the given clock, scored without adaptation; calibration has one GPU's share, too."""
    recipe = harness.recipe_for(RECIPE, toy=job.toy)
    clock = min(job.training_seconds, max(1.0, SHARE * job.seconds_left))
    recipe = recipe.set("train.seconds", clock).set("train.steps", 0).set("pack.cap", CAP)
    recipe = recipe.set("score", recipe().score[:1]).set("proof", None)
    if job.toy:
        recipe = recipe.edit(TrainingText, replace(batches=2, rows=2, length=64))
        return recipe.edit(ContiguousScoring, replace(window=64))
    return recipe.edit(TrainingText, replace(batches=max(1, recipe["calibrate.source.batches"] // GPUS)))


def stage_seconds(folder: Path) -> dict[str, float]:
    """Seconds of the stages that a run has done."""
    path = folder / "stages.json"
    return {stage: done["seconds"] for stage, done in read_json(path).items()} if path.exists() else {}


def time_lost(log: Path) -> dict[str, Any]:
    """Seconds of the training clock beyond the median speed of each phase: what checkpoints cost, above all."""
    phases: list[list[tuple[int, float]]] = [[]]  # (steps, seconds) of each time that losses were read
    for event in map(json.loads, log.read_text().splitlines()):
        if event["event"] == "phase":
            phases.append([])
        elif event["event"] == "step" and (not phases[-1] or event["training_seconds"] > phases[-1][-1][1]):
            phases[-1].append((event["step"], event["training_seconds"]))
    lost = 0.0
    for marks in phases:
        spans = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(marks)]
        usual = statistics.median([seconds / steps for steps, seconds in spans] or [0.0])
        lost += sum(max(0.0, seconds - steps * usual) for steps, seconds in spans)
    return {"lost_seconds": round(lost, 3)}


def compare_devices(artifact: Path, recipe: Spec[Recipe], job: BenchmarkJob, results: ResultsWriter) -> None:
    """The same artifact, targets and windows on this device and on the CPU."""
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
