"""Speed of training steps and of scoring, for a recipe at its full size.

Usage: `python bench/step.py [RECIPE] [--threads N]`. Prints one JSON line: tokens per second of training (median of
five rounds) and targets per second of contiguous scoring, on random tokens. Compare figures of the same run only, since
shared machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import BatchLoader
from bitgolf.data.shards import TokenStream, write_shard
from bitgolf.recipes import get_recipe
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.environment import collect_environment
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.score.evaluate import ScoringContext, evaluate_method
from bitgolf.score.methods import ContiguousScoring
from bitgolf.score.result import MethodResult
from bitgolf.score.text import TokenizedText
from bitgolf.training.trainer import Trainer

ROUNDS, STEPS = 5, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="quickstart", help="Name of the recipe. Default: quickstart.")
    parser.add_argument("--threads", type=int, default=0, help="Threads of PyTorch. Default: its own choice.")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = get_recipe(options.recipe)
    settings, vocab, device = recipe().train(), recipe().tokens().vocab, select_device()
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "train_000000.bin"
        write_shard(shard, np.random.default_rng(0).integers(4, vocab, 4 * settings.rows * settings.length))
        speeds, scored = measure(recipe, shard, vocab, device)
    result = {
        "bench": "step",
        "recipe": options.recipe,
        "hash": recipe_hash(recipe),
        "device": device.description,
        "train_tokens_per_second": round(statistics.median(speeds)),
        "spread": [round(min(speeds)), round(max(speeds))],
        "score_targets_per_second": round(scored.targets_per_second),
        "environment": collect_environment(),
    }
    print(json.dumps(result))


def measure(recipe: Spec[Recipe], shard: Path, vocab: int, device: Device) -> tuple[list[float], MethodResult]:
    """(training tokens per second of each round, result of scoring the first 65,536 tokens of the shard)."""
    settings, context = recipe().train(), BuildContext(vocab=vocab)
    order, stream = settings.order(), TokenStream([shard])
    batches = BatchLoader(stream, rows=settings.rows, length=settings.length, order=order, seed=0)
    specs = recipe().model, recipe().train, recipe().average
    trainer = Trainer(*specs, context, batches, device, DistributedContext(), 0)
    speeds = [train_round(trainer) for _ in range(ROUNDS + 1)][1:]
    tokens = stream.window(0, min(len(stream), 65_536))
    text = TokenizedText(tokens.astype(np.int64), len(tokens))
    scoring = ScoringContext(trainer.model, vocab, text, device)
    return speeds, evaluate_method(scoring, part(ContiguousScoring, window=settings.length))


def train_round(trainer: Trainer) -> float:
    """Training tokens per second over `STEPS` steps."""
    started = time.perf_counter()
    for step in range(STEPS):
        trainer.step(step, TrainingProgress(step, STEPS, 0.0, 0.0))
    if trainer.device.torch_device.type == "cuda":
        torch.cuda.synchronize()
    return STEPS * trainer.settings.rows * trainer.settings.length / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
