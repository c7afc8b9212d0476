"""Training speed of `pr1855` in both of its phases, one row of 98,304 tokens a step: what one of its eight GPUs had."""

from __future__ import annotations

import statistics
from typing import Any

from bitgolf.model.attention.cores.sdpa import Segments
from bitgolf.train.trainer import Trainer
from gpu_parts import flops, profile, program
from gpu_parts.job import RECIPE, Job
from gpu_parts.lines import Lines

PHASES = {"loops off": 0.2, "loops on": 0.6}  # progress of the run; layers loop from 0.35 on
ROUNDS, STEPS = 5, 8
TOY_ROUNDS, TOY_STEPS = 2, 1


def measure(job: Job, lines: Lines) -> None:
    recipe, place = program.recipe_for(RECIPE, toy=job.toy), program.place_of(job.data)
    known = program.identity_of(recipe)
    rounds, steps = (TOY_ROUNDS, TOY_STEPS) if job.toy else (ROUNDS, STEPS)
    cap = next(node["cap"] for _, node in recipe.walk() if node.cls is Segments)
    with program.training(recipe, job.data, place) as ready:
        parameters = sum(p.numel() for p in ready.trainer.params.values())
        lines.add("start", **known, start_seconds=ready.seconds, parameters=parameters, said=ready.said)
        for phase, progress in PHASES.items():
            timing = program.time_steps(ready.trainer, progress, rounds=rounds, steps=steps)
            now = program.moment(ready.trainer, progress)
            per_token = flops.count(recipe, place, now)
            lines.add(phase, **known, **timing.fields(), **speed(ready.trainer, timing, per_token, cap))
            profiled = profile.costliest(lambda now=now: ready.trainer.step(0, now))
            lines.add(f"{phase}, profile", **known, **profiled)


def speed(trainer: Trainer, timing: program.Timing, per_token: flops.Flops, cap: int) -> dict[str, Any]:
    """Tokens per second, operations of a step, and their share of the device's peak (None where it is not known)."""
    rows, length = trainer.settings.rows, trainer.settings.length
    keys = flops.mean_keys(trainer.batches.rows(0, 0, rows).inputs, trainer.model.bos, cap)
    operations, best = per_token.step(rows * length, keys), flops.peak(trainer.device.why)
    seconds = statistics.median(timing.ms) / 1e3
    return {
        "tokens_per_second": round(rows * length / seconds),
        "tflop": round(operations / 1e12, 3),
        "keys_per_token": round(keys, 1),
        "share_of_peak": round(operations / seconds / best, 4) if best else None,
    }
