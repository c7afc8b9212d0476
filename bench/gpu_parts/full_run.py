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

from bitgolf.artifact.model import load
from bitgolf.config.edits import but
from bitgolf.config.spec import Spec
from bitgolf.files import read_json, write_json
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.device import Device
from bitgolf.score.evaluate import measure as score
from bitgolf.score.methods import Contiguous
from bitgolf.score.text import validation
from gpu_parts import program
from gpu_parts.job import GPUS, RECIPE, Job
from gpu_parts.lines import Lines, last_lines

TARGETS, TOY_TARGETS = 8_192, 512
SHARE = 0.4  # of the part's time, at most, is the training clock
CAP = 1 << 24  # bytes: a short run's weights need not fit 16 MB; an artifact that states more cannot be read


def measure(job: Job, lines: Lines) -> None:
    recipe, folder = recipe_of(job), job.folder / "run"
    known = program.identity_of(recipe)
    write_json(folder / "recipe.json", recipe.to_json())
    command = [sys.executable, "-m", "bitgolf", "run", str(folder), "--shards", str(job.data), "--from", "prepare"]
    log = job.folder / "bitgolf.log"
    with log.open("wb") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        lines.add("stages before the failure", **known, seconds_by_stage=stage_seconds(folder))
        raise SystemExit(f"`bitgolf run` failed with status {status}: {last_lines(log, 2)}")
    result = read_json(folder / "score.json")
    lines.add(
        "run",
        **known,
        bpb=result["bpb"],
        seconds_by_stage=result["seconds"],
        clock=result["clock"],
        over_limit=round(result["clock"]["total"] - result["clock"]["limit"], 2),
        steps=result["steps"],
        tokens=result["tokens"],
        bytes=result["bytes"],
    )
    lines.add("interruptions of training", **known, **interruptions(folder / "log.jsonl"))
    devices(folder / "artifact.bg", recipe, job, lines)


def recipe_of(job: Job) -> Spec[Recipe]:
    """The recipe for one GPU and the given clock, scored without adaptation; calibration has one GPU's share, too."""
    recipe = program.recipe_for(RECIPE, toy=job.toy)
    clock = min(job.clock, max(1.0, SHARE * job.left))
    recipe = recipe.set("train.seconds", clock).set("train.steps", 0).set("pack.cap", CAP)
    recipe = recipe.set("score", recipe["score"][:1]).set("proof", None)
    if job.toy:
        recipe = recipe.edit(TrainingText, but(batches=2, rows=2, length=64))
        return recipe.edit(Contiguous, but(window=64))
    return recipe.edit(TrainingText, but(batches=max(1, recipe["calibrate.source.batches"] // GPUS)))


def stage_seconds(folder: Path) -> dict[str, float]:
    """Seconds of the stages that a run has done."""
    path = folder / "stages.json"
    return {stage: done["seconds"] for stage, done in read_json(path).items()} if path.exists() else {}


def interruptions(log: Path) -> dict[str, Any]:
    """Seconds of the training clock beyond the median speed of each phase: what checkpoints cost, above all."""
    phases: list[list[tuple[int, float]]] = [[]]  # (steps, seconds) of each time that losses were read
    for event in map(json.loads, log.read_text().splitlines()):
        if event["event"] == "phase":
            phases.append([])
        elif event["event"] == "step" and (not phases[-1] or event["elapsed"] > phases[-1][-1][1]):
            phases[-1].append((event["step"], event["elapsed"]))
    lost = 0.0
    for marks in phases:
        spans = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(marks)]
        usual = statistics.median([seconds / steps for steps, seconds in spans] or [0.0])
        lost += sum(max(0.0, seconds - steps * usual) for steps, seconds in spans)
    return {"lost_seconds": round(lost, 3)}


def devices(artifact: Path, recipe: Spec[Recipe], job: Job, lines: Lines) -> None:
    """The same artifact, targets and windows on this device and on the CPU."""
    text = validation(job.data).head(TOY_TARGETS if job.toy else TARGETS)

    def bpb(device: Device) -> float:
        loaded = load(artifact)
        return score(loaded.model, loaded.tokenizer.vocab, text, recipe["score"][0](), device)["bpb"]

    here, on_cpu = bpb(program.device()), bpb(program.cpu())
    lines.add(
        "the artifact on both devices",
        **program.identity_of(recipe),
        targets=text.targets,
        bpb=here,
        bpb_on_cpu=on_cpu,
        difference=here - on_cpu,
    )
