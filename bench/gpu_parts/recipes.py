"""Training speed of other published stacks, each with the share of the batch that one of its eight GPUs had."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitgolf.config.build_context import Place
from bitgolf.data.shards import write_shard
from gpu_parts import program
from gpu_parts.job import Job
from gpu_parts.lines import Lines

RECIPES = ("baseline", "pr164", "pr1512")
PROGRESS = 0.6
ROUNDS, STEPS, TOKENS = 3, 4, 4_000_000
TOY_ROUNDS, TOY_STEPS, TOY_TOKENS = 1, 1, 4_000
BOS = 1


def measure(job: Job, lines: Lines) -> None:
    rounds, steps, tokens = (TOY_ROUNDS, TOY_STEPS, TOY_TOKENS) if job.toy else (ROUNDS, STEPS, TOKENS)
    for name in RECIPES:
        recipe = program.recipe_for(name, toy=job.toy)
        place = Place(vocab=recipe["tokens.vocab"], bos=BOS)
        with program.training(recipe, random_shard(job.folder, place, tokens), place) as ready:
            timing = program.time_steps(ready.trainer, PROGRESS, rounds=rounds, steps=steps)
        rows, length = recipe["train.rows"], recipe["train.length"]
        lines.add(
            name,
            **program.identity_of(recipe),
            **timing.fields(),
            tokens_per_second=round(1e3 * rows * length / timing.fields()["ms"]),
            rows=rows,
            length=length,
            start_seconds=ready.seconds,
            said=ready.said,
        )


def random_shard(folder: Path, place: Place, tokens: int) -> Path:
    """A folder with a training shard of random tokens, documents of 1,000 on average."""
    found = folder / f"random-{place.vocab}"
    draw = np.random.default_rng(0)
    ids = draw.integers(4, place.vocab, tokens)
    ids[draw.random(tokens) < 1 / 1000] = place.bos
    ids[0] = place.bos
    write_shard(found / "train_000000.bin", ids)
    return found
