"""Speed of one training step and of scoring, for a recipe at its own size: `python bench/step.py [RECIPE] [--threads N]`.

Prints one JSON line: tokens per second of training (median of five rounds) and of contiguous scoring, on random tokens.
Compare figures of one run only: machines are shared and noisy.
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

from bitgolf.config.build_context import Place
from bitgolf.config.spec import part
from bitgolf.data.batches import Batches
from bitgolf.data.shards import Stream, write_shard
from bitgolf.recipes import get
from bitgolf.recipes.identity import identity
from bitgolf.report.environment import environment
from bitgolf.runtime.device import choose
from bitgolf.runtime.process_group import World
from bitgolf.runtime.progress import Now
from bitgolf.score.evaluate import ScoringContext, evaluate_method
from bitgolf.score.methods import Contiguous
from bitgolf.score.text import Text
from bitgolf.train.trainer import Trainer

ROUNDS, STEPS = 5, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = get(options.recipe)
    settings, vocab, device = recipe["train"](), recipe["tokens.vocab"], choose()
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "train_000000.bin"
        write_shard(shard, np.random.default_rng(0).integers(4, vocab, 4 * settings.rows * settings.length))
        batches = Batches(Stream([shard]), rows=settings.rows, length=settings.length, order=settings.order(), seed=0)
        trainer = Trainer(
            recipe["model"], recipe["train"], recipe["average"], Place(vocab=vocab), batches, device, World(), 0
        )
        speeds = [train_round(trainer) for _ in range(ROUNDS + 1)][1:]
        stream = batches.stream.window(0, min(len(batches.stream), 65_536))
        text = Text(stream.astype(np.int64), len(stream))
        context = ScoringContext(trainer.model, vocab, text, device)
        scored = evaluate_method(context, part(Contiguous, window=settings.length))
    result = {
        "bench": "step",
        "recipe": options.recipe,
        "hash": identity(recipe),
        "device": device.why,
        "train_tokens_per_second": round(statistics.median(speeds)),
        "spread": [round(min(speeds)), round(max(speeds))],
        "score_targets_per_second": round(scored.targets_per_second),
        "environment": environment(),
    }
    print(json.dumps(result))


def train_round(trainer: Trainer) -> float:
    """Tokens per second over a few steps."""
    started = time.perf_counter()
    for step in range(STEPS):
        trainer.step(step, Now(step, STEPS, 0.0, 0.0))
    if trainer.device.device.type == "cuda":
        torch.cuda.synchronize()
    return STEPS * trainer.settings.rows * trainer.settings.length / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
