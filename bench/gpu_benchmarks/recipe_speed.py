"""Training speed of other published recipes, each with the batch of one of its eight GPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitgolf.config.build_context import BuildContext
from bitgolf.data.shards import TokenStream, write_shard
from gpu_benchmarks import harness
from gpu_benchmarks.job import BenchmarkJob
from gpu_benchmarks.results import ResultsWriter

RECIPES = ("baseline", "pr164", "pr1512")
PROGRESS = 0.6
ROUNDS, STEPS, TOKENS = 3, 4, 4_000_000
TOY_ROUNDS, TOY_STEPS, TOY_TOKENS = 1, 1, 4_000
BOS = 1


def measure(job: BenchmarkJob, results: ResultsWriter) -> None:
    """Write a line for each recipe."""
    rounds, steps, tokens = (TOY_ROUNDS, TOY_STEPS, TOY_TOKENS) if job.toy else (ROUNDS, STEPS, TOKENS)
    for name in RECIPES:
        recipe = harness.recipe_for(name, toy=job.toy)
        context = BuildContext(vocab=recipe().tokens().vocab, bos=BOS)
        with harness.prepared_trainer(recipe, random_shard(job.folder, context, tokens), context) as ready:
            timing = harness.time_steps(ready.trainer, PROGRESS, rounds=rounds, steps=steps)
        rows, length = recipe().train().rows, recipe().train().length
        results.add(
            name,
            **harness.recipe_fields(recipe),
            **timing.as_fields(),
            tokens_per_second=round(1e3 * rows * length / timing.as_fields()["ms"]),
            rows=rows,
            length=length,
            startup_seconds=ready.seconds,
            messages=ready.messages,
        )


def random_shard(folder: Path, context: BuildContext, tokens: int) -> TokenStream:
    """Write a shard of random tokens in documents of 1,000 tokens on average; returns its tokens."""
    path = folder / f"random-{context.vocab}" / "train_000000.bin"
    draw = np.random.default_rng(0)
    ids = draw.integers(4, context.vocab, tokens)
    ids[draw.random(tokens) < 1 / 1000] = context.bos
    ids[0] = context.bos
    write_shard(path, ids)
    return TokenStream([path])
