"""Training speed of `pr1855` in both of its phases, with the batch of one of eight GPUs: one row of 98,304 tokens."""

from __future__ import annotations

import statistics
from typing import Any

from bitgolf.data.manifest import open_split
from bitgolf.model.attention.cores.sdpa import SegmentMask
from bitgolf.training.trainer import Trainer
from gpu_benchmarks import flops, harness, profile
from gpu_benchmarks.job import RECIPE, BenchmarkJob
from gpu_benchmarks.results import ResultsWriter

PHASES = {"loops off": 0.2, "loops on": 0.6}  # fraction of the run; layers loop from 0.35 on
ROUNDS, STEPS = 5, 8
TOY_ROUNDS, TOY_STEPS = 2, 1


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write lines for the start of training, and for the speed and the profile of both phases."""
    recipe, context = harness.recipe_for(RECIPE, toy=job.toy), harness.build_context_of(job.data)
    known = harness.recipe_fields(recipe)
    rounds, steps = (TOY_ROUNDS, TOY_STEPS) if job.toy else (ROUNDS, STEPS)
    cap = next(node["max_length"] for _, node in recipe.walk() if node.cls is SegmentMask)
    with harness.prepared_trainer(recipe, open_split(job.data, "train"), context) as ready:
        parameters = sum(p.numel() for p in ready.trainer.params.values())
        results.add("start", **known, startup_seconds=ready.seconds, parameters=parameters, messages=ready.messages)
        for phase, progress in PHASES.items():
            timing = harness.time_steps(ready.trainer, progress, rounds=rounds, steps=steps)
            now = harness.progress_at(ready.trainer, progress)
            per_token = flops.count(recipe, context, now)
            results.add(phase, **known, **timing.as_fields(), **speed(ready.trainer, timing, per_token, cap))
            with ready.trainer.phases.rehearsal():  # this step is not part of a run
                profiled = profile.slowest_kernels(lambda now=now: ready.trainer.step(0, now))
            results.add(f"{phase}, profile", **known, **profiled)


def speed(trainer: Trainer, timing: harness.StepTiming, per_token: flops.FlopsPerToken, cap: int) -> dict[str, Any]:
    """Tokens per second, operations of a step in TFLOP, mean keys per token, and model FLOPs utilization (MFU).

    mfu is None if the peak of the device is not known.
    """
    rows, length = trainer.settings.rows, trainer.settings.length
    keys = flops.mean_keys(trainer.batches.load_rows(0, 0, rows).inputs, trainer.model.bos, cap)
    operations, best = per_token.step(rows * length, keys), flops.peak_flops(trainer.device.description)
    seconds = statistics.median(timing.ms) / 1e3
    return {
        "tokens_per_second": round(rows * length / seconds),
        "tflop_per_step": round(operations / 1e12, 3),
        "keys_per_token": round(keys, 1),
        "mfu": round(operations / seconds / best, 4) if best else None,
    }
