"""Scoring speed of `pr1855` with random weights, for each scoring method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.evaluate import ScoringContext, evaluate_method
from bitgolf.score.methods import ScoringMethod, SlidingScoring
from bitgolf.score.text import TokenizedText, load_validation
from gpu_benchmarks import harness
from gpu_benchmarks.job import RECIPE, BenchmarkJob
from gpu_benchmarks.results import ResultsWriter, one_line

FIRST, SECONDS = 16_384, 4.0  # targets of the first measurement; duration of the second one
TOY_FIRST, TOY_SECONDS = 128, 0.0
STRIDE = 64
BOUNDARIES, TOY_BOUNDARIES = (16, 32, 48), (1, 2)  # numbers of documents after which a phase ends


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write a line for each method: its speed, or the error."""
    recipe, text = harness.recipe_for(RECIPE, toy=job.toy), load_validation(job.data)
    first, seconds = (TOY_FIRST, TOY_SECONDS) if job.toy else (FIRST, SECONDS)
    for name, method in methods(recipe, toy=job.toy).items():
        try:
            speed = time_method(recipe, job.data, method, whole_documents(text, first))
            if seconds:  # everything is compiled now: measure again on more targets
                enough = whole_documents(text, max(first, int(seconds * speed["targets_per_second"])))
                speed = time_method(recipe, job.data, method, enough)
        except (BitgolfError, RuntimeError) as error:
            speed = {"error": one_line(error)}
        results.add(name, **harness.recipe_fields(recipe), **speed)
        harness.free_memory()


def whole_documents(text: TokenizedText, targets: int) -> TokenizedText:
    """The first documents that have at least `targets` targets together.

    They are not cut, since methods that order documents need whole ones.
    """
    return text.head(next((stop for _, stop in text.documents() if stop >= targets), text.num_targets))


def methods(recipe: Spec[Recipe], *, toy: bool) -> dict[str, Spec[ScoringMethod]]:
    """The methods of the recipe, and sliding windows.

    Phases end after fewer documents than published, so that the short text has all of them.
    """
    contiguous, phased = recipe().score
    if toy:
        lora = phased["lora"].replace(window=128, stride=64, rows=2, rank=2)
        contiguous, phased = (
            contiguous.replace(window=128),
            phased.replace(lora=lora, sgd=phased["sgd"].replace(sequence_length=64)),
        )
    return {
        "contiguous": contiguous,
        f"sliding, stride {STRIDE}": part(SlidingScoring, window=contiguous["window"], stride=STRIDE),
        "LoRA for each document": phased["lora"],
        "LoRA and phases": phased.replace(boundaries=TOY_BOUNDARIES if toy else BOUNDARIES),
    }


def time_method(recipe: Spec[Recipe], data: Path, method: Spec[ScoringMethod], text: TokenizedText) -> dict[str, Any]:
    """Score a text with random weights; returns targets per second and details of the scoring."""
    build = harness.build_context_of(data)
    context = ScoringContext(harness.random_model(recipe, build), build.vocab, text, harness.device())
    result = evaluate_method(context, method, baseline=False)
    kept = ("targets", "tokens_read", "window", "stride", "compile_seconds", "batch_tokens", "kernels")
    return {
        "targets_per_second": round(result.targets_per_second),
        **{name: getattr(result, name) for name in kept},
    }
