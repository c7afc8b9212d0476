"""What is in doubt: looped steps of `pr1855` with one thing changed, the most telling first, as long as time is left."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from bitgolf.config.edits import but
from bitgolf.errors import BitgolfError
from bitgolf.model.layer_orders import Loop
from bitgolf.runtime.compiler import Options
from gpu_parts import program
from gpu_parts.job import RECIPE, Job
from gpu_parts.lines import Lines, one_line

PROGRESS = 0.6
ROUNDS, STEPS = 3, 5
TOY_ROUNDS, TOY_STEPS = 1, 1


class Variant(NamedTuple):
    """What differs from the run: recipe settings (path -> value), options of inductor, parts that stay plain."""

    sets: dict[str, Any] = {}
    options: Options = {}
    plain: tuple[str, ...] = ()


LOSS, MLP, XSA = "softcapped cross-entropy", "MLP", "ExclusiveSelf"
VARIANTS = {
    "as a run": Variant(),
    "stream in float32": Variant({"model.stream": "float32"}),
    "mix_order_reduction on": Variant(options={"triton.mix_order_reduction": True}),
    "MLP plain": Variant(plain=(MLP,)),
    "cross-entropy plain": Variant(plain=(LOSS,)),
    "XSA plain": Variant(plain=(XSA,)),
    "MLP and cross-entropy plain": Variant(plain=(MLP, LOSS)),
    "cooperative_reductions on": Variant(options={"triton.cooperative_reductions": True}),
}


def measure(job: Job, lines: Lines) -> None:
    longest, waiting = 0.0, dict(VARIANTS)
    for name, variant in VARIANTS.items():
        if job.left < longest:
            lines.add("not measured", variants=list(waiting), reason="the time that is left is too short")
            return
        del waiting[name]
        started = time.monotonic()
        timed(name, variant, job, lines)
        longest = max(longest, time.monotonic() - started)


def timed(name: str, variant: Variant, job: Job, lines: Lines) -> None:
    """A line with the variant's times, or with the reason that it has none."""
    recipe = program.recipe_for(RECIPE, toy=job.toy).edit(Loop, but(since=(0.0, 0.0)))  # one graph to compile, not two
    rounds, steps = (TOY_ROUNDS, TOY_STEPS) if job.toy else (ROUNDS, STEPS)
    try:
        if variant.options and not program.on_cuda():
            raise BitgolfError("nothing is compiled here, so that inductor's options change nothing")
        for path, value in variant.sets.items():
            recipe = recipe.set(path, value)
        place = program.place_of(job.data)
        with program.training(recipe, job.data, place, plain=variant.plain, options=variant.options) as ready:
            timing = program.time_steps(ready.trainer, PROGRESS, rounds=rounds, steps=steps)
    except (BitgolfError, RuntimeError) as error:  # of compiling and of memory are RuntimeErrors
        lines.add(name, **program.identity_of(recipe), unable=one_line(error))
    else:
        lines.add(name, **program.identity_of(recipe), **timing.fields(), start_seconds=ready.seconds, said=ready.said)
