"""Loss by size of the model and training tokens, for the rules of the recipe `auto`: `python bench/auto_grid.py --text FILE...`

Each point trains the recipe `auto` at given sizes for a number of tokens, and scores it as trained, in contiguous windows
of 256 tokens. A finished point appends one JSON line to the results file, and points that have a line are not repeated:
the command may be stopped at any time. `--minutes M` begins no point after M minutes. `bench/auto_fit.py` fits the constants
of `recipes/scaling_laws.py` to the lines.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from result_lines import append_line, read_lines

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import BatchLoader
from bitgolf.data.manifest import load_manifest, open_split
from bitgolf.data.prepare import prepare_data
from bitgolf.model.attention.attention import Attention
from bitgolf.model.build import build_on_meta
from bitgolf.model.layer_schedule import UNet
from bitgolf.optim.muon import Muon
from bitgolf.recipes.auto import sized_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.sizes import RecipeSizes
from bitgolf.report.environment import collect_environment
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.score.execution.forward import kernel_selector
from bitgolf.score.methods import ContiguousScoring
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import load_validation
from bitgolf.text.documents import PythonStandardLibrary, read_documents, train_validation_split
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import SentencePieceBPE
from bitgolf.training.trainer import Trainer

LENGTH, HELD_OUT = 256, 0.05


class GridPoint(NamedTuple):
    """A training run: shape, vocabulary, thousands of tokens and tokens of a batch; variant: a changed technique."""

    layers: int
    width: int
    vocab: int
    kilotokens: int
    batch: int = 2048
    variant: str = ""
    matrix_lr: float = 0.03
    table_lr: float = 0.02
    text_kilobytes: int = 0
    seed: int = 0


def without_smear(recipe: Spec[Recipe]) -> Spec[Recipe]:
    return recipe.set("model.post_embed", ())


def without_value_residual(recipe: Spec[Recipe]) -> Spec[Recipe]:
    return recipe.edit(Attention, replace(value=()))


VARIANTS: dict[str, Callable[[Spec[Recipe]], Spec[Recipe]]] = {
    "": lambda recipe: recipe,
    "no smear": without_smear,
    "no value residual": without_value_residual,
    "weight decay 0.02": lambda recipe: recipe.edit(Muon, replace(weight_decay=0.02)),
    "unet": lambda recipe: recipe.set("model.layer_schedule", part(UNet)),
}

POINTS = (
    GridPoint(2, 128, 2048, 250),
    GridPoint(2, 64, 2048, 250),
    GridPoint(3, 192, 2048, 250),
    GridPoint(2, 64, 2048, 1000),
    GridPoint(2, 128, 2048, 250, variant="no smear"),
    GridPoint(2, 128, 2048, 1000),
    GridPoint(2, 128, 1024, 250),
    GridPoint(2, 128, 4096, 250),
    GridPoint(2, 128, 2048, 250, variant="no value residual"),
    GridPoint(2, 128, 2048, 250, text_kilobytes=100),
    GridPoint(2, 96, 1024, 3000),
    GridPoint(2, 128, 2048, 2000),
    GridPoint(2, 128, 2048, 1000, batch=4096),
    GridPoint(2, 128, 2048, 1000, batch=1024),
    GridPoint(2, 128, 2048, 1000, variant="weight decay 0.02"),
    GridPoint(2, 128, 1024, 2000),
    GridPoint(3, 192, 2048, 1000),
    GridPoint(2, 128, 2048, 1000, matrix_lr=0.02),
    GridPoint(2, 128, 2048, 1000, matrix_lr=0.045),
    GridPoint(2, 128, 2048, 1000, table_lr=0.01),
    GridPoint(2, 128, 2048, 1000, table_lr=0.04),
    GridPoint(2, 128, 4096, 2000),
    GridPoint(3, 192, 2048, 2000),
    GridPoint(2, 128, 1024, 1000),
    GridPoint(2, 96, 2048, 1000),
    GridPoint(2, 128, 4096, 1000),
    GridPoint(2, 64, 2048, 4000),
    GridPoint(4, 128, 2048, 1000),
    GridPoint(2, 128, 2048, 4000),
    GridPoint(5, 256, 2048, 1000),
)


def sizes_of(point: GridPoint) -> RecipeSizes:
    return RecipeSizes(
        layers=point.layers,
        width=point.width,
        heads=point.width // 32,
        kv_heads=point.width // 32,
        hidden=3 * point.width,
        vocab=point.vocab,
        rows=point.batch // LENGTH,
        length=LENGTH,
        micro_rows=8,
        steps=max(1, 1000 * point.kilotokens // point.batch),
        matrix_lr=point.matrix_lr,
        table_lr=point.table_lr,
        weight_decay=0.0,
        momentum_steps=300,
        bits=4.0,
        calibration_batches=8,
    )


def measure(point: GridPoint, data: Path, tokens: int) -> dict[str, Any]:
    """Train one point and score it: bits per byte, sizes, and seconds."""
    sizes, manifest, device = sizes_of(point), load_manifest(data), select_device()
    recipe = VARIANTS[point.variant](sized_recipe(sizes, cap=10**6, seconds=0.0))
    settings = recipe().train()
    batches = BatchLoader(open_split(data, "train"), rows=settings.rows, length=LENGTH, order=settings.order(), seed=point.seed)  # fmt: skip
    context = BuildContext(vocab=manifest.vocab, bos=manifest.bos)
    trainer = Trainer(recipe().model, recipe().train, None, context, batches, device, DistributedContext(), point.seed)
    started, busy = time.perf_counter(), time.process_time()
    for step in range(settings.steps):
        trainer.step(step, TrainingProgress(step, settings.steps, 0.0, 0.0))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - busy
    weights = {path: p.detach() for path, p in trainer.params.items() if not path.startswith("objective.")}
    model = build_on_meta(recipe().model, manifest.vocab)
    model.load_state_dict(weights, assign=True)
    player = StaticPlayer(model.eval(), manifest.vocab, device, kernels=kernel_selector(device))
    held_out = load_validation(data)
    result = score(player, held_out.head(tokens), ContiguousScoring(window=LENGTH))
    return {
        "bpb": round(result.bpb, 6),
        "vocab": manifest.vocab,
        "matrix_weights": sizes.matrix_weights,
        "table_weights": manifest.vocab * point.width,
        "tokens": settings.steps * sizes.batch_tokens,
        "text_bytes": manifest.train.encoded_bytes,
        "text_tokens": manifest.train.tokens,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }


def shards(folder: Path, point: GridPoint, options: argparse.Namespace) -> Path:
    """The folder of the shards of a point, made if it is missing: its vocabulary, and the start of the text."""
    place = folder / f"{point.vocab}-{point.text_kilobytes or 'all'}"
    if not (place / "manifest.json").exists():
        print(f"{place}: tokenizing", file=sys.stderr)
        found = read_documents(options.text) if options.text else PythonStandardLibrary().documents()
        training, validation = train_validation_split(list(head(found, 1000 * options.text_kilobytes)), HELD_OUT)
        if point.text_kilobytes:
            training = list(head(iter(training), 1000 * point.text_kilobytes))
        tokenizer = tokenizer_from_bytes(SentencePieceBPE(vocab=point.vocab).train(d.data for d in training))
        prepare_data(training, validation, tokenizer, place)
    return place


def head(documents: Iterator[Any], size: int) -> Iterator[Any]:
    """Yield documents until they have `size` bytes."""
    for document in documents:
        yield document
        size -= len(document.data)
        if size <= 0:
            return


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    ends = time.monotonic() + 60 * options.minutes
    for point in POINTS:
        key = point._asdict()
        if any(line["point"] == key for line in read_lines(options.out)):
            continue
        if time.monotonic() > ends:
            return
        line = {
            "bench": "auto_grid",
            "point": key,
            **measure(point, shards(options.data, point, options), options.tokens),
        }
        append_line(options.out, line | {"environment": collect_environment()})
        print({**key, "bpb": line["bpb"], "seconds": line["seconds"]}, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", type=Path, metavar="FILE", help="text to train and to score on (default: the source of Python's standard library)")  # fmt: skip
    parser.add_argument("--text-kilobytes", type=int, default=30_000, help="of the start of the text that are used")
    parser.add_argument("--data", type=Path, default=Path("runs/auto-grid"), help="folder of the shards")
    parser.add_argument("--out", type=Path, default=Path("runs/auto_grid.jsonl"), help="file of the measured lines")
    parser.add_argument("--tokens", type=int, default=32_768, help="held-out tokens to score")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no point after this time")
    options = parser.parse_args()
    run(options)


if __name__ == "__main__":
    main()
