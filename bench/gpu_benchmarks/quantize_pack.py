"""Seconds to calibrate, quantize and pack random weights with the shapes of `pr1855`, by codec and coder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
from safetensors.torch import save_file

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.pack.coders import RangeCoder
from bitgolf.pipeline.calibration import calibrate
from bitgolf.pipeline.compression import PackedArtifact, pack, quantize
from bitgolf.pipeline.data import prepare
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training_result import TrainingTime
from bitgolf.quantize.codecs.codec import Float
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from gpu_benchmarks import harness
from gpu_benchmarks.full_run import recipe_of
from gpu_benchmarks.job import BenchmarkJob
from gpu_benchmarks.results import ResultsWriter

BITS, STATES, TOY_STATES = 3.3, 256, 8


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write a line for each stage."""
    published = recipe_of(job).set("calibrate.reserve", 0.0)  # so that the training clock does not end calibration
    run = run_with_random_weights(published, job)
    stage("calibrate", calibrate, run, results)
    stage("quantize, as published", quantize, run, results)
    with_levels = replace(run, recipe=published.set("pack.coder", part(RangeCoder, variance_contexts=True)))
    stage("pack, range coder with levels", pack, with_levels, results)
    stage("pack, as published", pack, run, results)
    rules = trellis_rules(TOY_STATES if job.toy else STATES)
    stage("quantize, trellis", quantize, replace(run, recipe=published.set("quantize", rules)), results)


def trellis_rules(states: int) -> tuple[Spec[Rule], ...]:
    """Trellis quantization of every matrix, with the bits per weight that make the model about 16 MB."""
    return (
        *(part(Rule, where=small, use=part(Float, dtype="float16")) for small in ("scale", "gate")),
        part(Rule, where="*", use=part(TrellisCodec, bits=BITS, states=states)),
    )


def run_with_random_weights(recipe: Spec[Recipe], job: BenchmarkJob) -> Run:
    """A run in the state after training, with random averaged weights."""
    folder = job.folder / "quantize_pack"
    run = Run(recipe, folder, RunLog(folder), shards=job.data)
    prepare(run)
    no_time = TrainingTime(training_seconds=0.0, time_limit_seconds=0.0, calibration_reserve=None)
    run.completed["train"] = msgspec.to_builtins(no_time)
    save_file(harness.random_weights(recipe, harness.build_context_of(job.data)), folder / "averaged.safetensors")
    return run


def stage(name: str, function: Callable[[Run], msgspec.Struct], run: Run, results: ResultsWriter) -> None:
    """Time one stage and write a line. The stage's messages are in the benchmark's log."""
    started = time.perf_counter()
    outcome = function(run)
    took = round(time.perf_counter() - started, 2)
    size = msgspec.to_builtins(outcome.bytes) if isinstance(outcome, PackedArtifact) else None
    results.add(name, **harness.recipe_fields(run.recipe), stage_seconds=took, bytes=size)
