"""Scoring speed of `pr1855` with random weights, by each way of scoring; no training needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.evaluate import measure as score
from bitgolf.score.methods import Method, Sliding
from bitgolf.score.text import Text, validation
from gpu_parts import program
from gpu_parts.job import RECIPE, Job
from gpu_parts.lines import Lines, one_line

FIRST, SECONDS = 16_384, 4.0  # targets of the first, shorter, measurement; what the second one should take
TOY_FIRST, TOY_SECONDS = 128, 0.0
STRIDE = 64
BOUNDARIES, TOY_BOUNDARIES = (16, 32, 48), (1, 2)  # documents behind which a phase ends


def measure(job: Job, lines: Lines) -> None:
    recipe, text = program.recipe_for(RECIPE, toy=job.toy), validation(job.data)
    first, seconds = (TOY_FIRST, TOY_SECONDS) if job.toy else (FIRST, SECONDS)
    for name, method in methods(recipe, toy=job.toy).items():
        try:
            speed = timed(recipe, job.data, method, whole(text, first))
            if seconds:  # compiled by now: as many targets as that time is good for
                enough = whole(text, max(first, int(seconds * speed["targets_per_second"])))
                speed = timed(recipe, job.data, method, enough)
        except (BitgolfError, RuntimeError) as error:
            speed = {"unable": one_line(error)}
        lines.add(name, **program.identity_of(recipe), **speed)
        program.free_memory()


def whole(text: Text, targets: int) -> Text:
    """The first documents with at least so many targets, uncut: methods that order documents need them whole."""
    return text.head(next((stop for _, stop in text.documents() if stop >= targets), text.targets))


def methods(recipe: Spec[Recipe], *, toy: bool) -> dict[str, Spec[Method]]:
    """The recipe's own and windows that slide; phases are of fewer documents than published, so that all are seen."""
    contiguous, phased = recipe["score"]
    if toy:
        lora = phased["lora"].but(window=128, stride=64, rows=2, rank=2)
        contiguous, phased = contiguous.but(window=128), phased.but(lora=lora, sgd=phased["sgd"].but(length=64))
    return {
        "contiguous": contiguous,
        f"sliding, stride {STRIDE}": part(Sliding, window=contiguous["window"], stride=STRIDE),
        "LoRA for each document": phased["lora"],
        "LoRA and phases": phased.but(boundaries=TOY_BOUNDARIES if toy else BOUNDARIES),
    }


def timed(recipe: Spec[Recipe], data: Path, method: Spec[Method], text: Text) -> dict[str, Any]:
    """Score a text with a model of random weights: targets per second, and what was scored."""
    place, made = program.place_of(data), method()
    made.still = lambda: None  # the same windows without adaptation are no part of what is timed
    row = score(program.random_model(recipe, place), place.vocab, text, made, program.device())
    kept = ("targets", "read", "window", "stride", "compile_seconds", "batch_tokens", "kernels")
    return {"targets_per_second": round(row["targets_per_second"]), **{name: row[name] for name in kept}}
