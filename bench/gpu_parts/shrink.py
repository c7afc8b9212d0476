"""From random weights of the shapes of `pr1855` to an artifact: seconds to calibrate, quantize and pack, by codec and coder."""

from __future__ import annotations

import time
from collections.abc import Callable

from safetensors.torch import save_file

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.pack.coders import Range
from bitgolf.pipeline.calibration import calibrate
from bitgolf.pipeline.execute import Run
from bitgolf.pipeline.stages import pack, quantize
from bitgolf.quantize.codecs.codec import Float
from bitgolf.quantize.codecs.trellis import Trellis
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import Journal
from gpu_parts import program
from gpu_parts.full_run import recipe_of
from gpu_parts.job import Job
from gpu_parts.lines import Lines

BITS, STATES, TOY_STATES = 3.3, 256, 8


def measure(job: Job, lines: Lines) -> None:
    published = recipe_of(job).set("calibrate.reserve", 0.0)  # so that no clock ends it
    run = new_run(published, job)
    stage("calibrate", calibrate, run, lines)
    stage("quantize, as published", quantize, run, lines)
    run.recipe = published.set("pack.coder", part(Range, levels=True))
    stage("pack, range coder with levels", pack, run, lines)
    run.recipe = published
    stage("pack, as published", pack, run, lines)
    run.recipe = published.set("quantize", trellis_rules(TOY_STATES if job.toy else STATES))
    stage("quantize, trellis", quantize, run, lines)


def trellis_rules(states: int) -> tuple[Spec[Rule], ...]:
    """Ours: every matrix by a trellis, at the bits that fill 16 MB."""
    return (
        *(part(Rule, where=small, use=part(Float, dtype="float16")) for small in ("scale", "gate")),
        part(Rule, where="*", use=part(Trellis, bits=BITS, states=states)),
    )


def new_run(recipe: Spec[Recipe], job: Job) -> Run:
    """A run whose training is done: its averaged weights are noise."""
    folder = job.folder / "shrink"
    run = Run(recipe, folder, Journal(folder), shards=job.data)
    run.done["train"] = {"clock": 0.0}
    save_file(program.random_weights(recipe, program.place_of(job.data)), folder / "averaged.safetensors")
    return run


def stage(name: str, function: Callable[[Run], dict[str, object]], run: Run, lines: Lines) -> None:
    """Time one stage; what it says of itself is in the part's log."""
    started = time.perf_counter()
    outcome = function(run)
    took = round(time.perf_counter() - started, 2)
    lines.add(name, **program.identity_of(run.recipe), stage_seconds=took, bytes=outcome.get("bytes"))
