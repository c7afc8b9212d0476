"""Time of looped steps of `pr1855` with one setting or kernel changed, in order of interest, until time runs out."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from bitgolf.config.edits import replace
from bitgolf.data.manifest import open_split
from bitgolf.errors import BitgolfError
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.runtime.compiler import InductorOptions
from gpu_benchmarks import harness
from gpu_benchmarks.job import RECIPE, BenchmarkJob
from gpu_benchmarks.results import ResultsWriter, one_line

PROGRESS = 0.6
ROUNDS, STEPS = 3, 5
TOY_ROUNDS, TOY_STEPS = 1, 1


class Variant(NamedTuple):
    """Differences from a normal run.

    settings: path in the recipe -> value. options: of inductor. without_kernels: parts that get no fused kernel.
    """

    settings: dict[str, Any] = {}
    options: InductorOptions = {}
    without_kernels: tuple[str, ...] = ()


LOSS, MLP, XSA = "softcapped cross-entropy", "MLP", "ExclusiveSelfAttention"
VARIANTS = {
    "as a run": Variant(),
    "stream in float32": Variant({"model.residual_dtype": "float32"}),
    "mix_order_reduction on": Variant(options={"triton.mix_order_reduction": True}),
    "MLP plain": Variant(without_kernels=(MLP,)),
    "cross-entropy plain": Variant(without_kernels=(LOSS,)),
    "XSA plain": Variant(without_kernels=(XSA,)),
    "MLP and cross-entropy plain": Variant(without_kernels=(MLP, LOSS)),
    "cooperative_reductions on": Variant(options={"triton.cooperative_reductions": True}),
}


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write a line for each variant, until less time is left than the slowest one took."""
    longest, waiting = 0.0, dict(VARIANTS)
    for name, variant in VARIANTS.items():
        if job.seconds_left < longest:
            results.add("not measured", variants=list(waiting), reason=f"only {job.seconds_left:.0f} s are left")
            return
        del waiting[name]
        started = time.monotonic()
        time_variant(name, variant, job, results)
        longest = max(longest, time.monotonic() - started)


def time_variant(name: str, variant: Variant, job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write a line with the variant's times, or with the error if it cannot be measured."""
    recipe = harness.recipe_for(RECIPE, toy=job.toy).edit(
        LoopedLayers, replace(since=(0.0, 0.0))
    )  # loops from the start: only one graph to compile
    rounds, steps = (TOY_ROUNDS, TOY_STEPS) if job.toy else (ROUNDS, STEPS)
    try:
        if variant.options and not harness.on_cuda():
            raise BitgolfError(
                f"{list(variant.options)} of inductor change nothing here, since nothing is compiled without CUDA"
            )
        for path, value in variant.settings.items():
            recipe = recipe.set(path, value)
        context, stream = harness.build_context_of(job.data), open_split(job.data, "train")
        with harness.prepared_trainer(
            recipe, stream, context, without_kernels=variant.without_kernels, options=variant.options
        ) as ready:
            timing = harness.time_steps(ready.trainer, PROGRESS, rounds=rounds, steps=steps)
    except (BitgolfError, RuntimeError) as error:  # errors of compilation and out-of-memory errors are RuntimeErrors
        results.add(name, **harness.recipe_fields(recipe), error=one_line(error))
    else:
        results.add(
            name,
            **harness.recipe_fields(recipe),
            **timing.as_fields(),
            startup_seconds=ready.seconds,
            messages=ready.messages,
        )
