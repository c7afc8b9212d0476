"""Speed and bits per byte of every scoring method, on the same targets: `python bench/scoring.py [--text FILE...] [--json]`.

The model is that of `bench/compression.py`, trained first if it is missing, or the averaged weights of `--run FOLDER`; the
text is the held-out part of the shards. `targets_per_token_read` is the number of scored targets per token that the model
reads: 1 means that nothing is computed twice. On a shared machine CPU seconds are more reliable than wall time; compare
figures of one call only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from compression_schemes import compression_recipe
from corpus import add_text_options, corpus_id, shards_folder
from safetensors.torch import load_file
from trained_model import train_once

from bitgolf.config.recipe_file import read_recipe
from bitgolf.config.spec import Spec, part
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import UsageError
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.environment import collect_environment
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.ngram_mixing import NGramMixing
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.stream_sgd import StreamSGD
from bitgolf.score.cached import CachedScoring
from bitgolf.score.execution.batch_size import choose_batch_size
from bitgolf.score.execution.forward import kernel_selector
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, load_validation

MakeMethod = Callable[[int, int, int], ScoringMethod]  # from window, stride and rows
METHODS: dict[str, MakeMethod] = {
    "contiguous": lambda window, stride, rows: ContiguousScoring(window=window),
    "sliding": lambda window, stride, rows: SlidingScoring(window=window, stride=stride),
    "cached": lambda window, stride, rows: CachedScoring(window=window, stride=stride, rows=rows),
    "contiguous isolated": lambda window, stride, rows: ContiguousScoring(window=window, isolated=True),
    "sliding isolated": lambda window, stride, rows: SlidingScoring(window=window, stride=stride, isolated=True),
    "cached isolated": lambda window, stride, rows: CachedScoring(
        window=window, stride=stride, rows=rows, isolated=True
    ),
    "lora": lambda window, stride, rows: lora_settings(window, stride, rows)(),
    "bias": lambda window, stride, rows: lora_settings(window, stride, rows).replace(rank=0, lr=0.01)(),
    "sgd": lambda window, stride, rows: StreamSGD(window=window, stride=stride, chunk=4096),
    "phased": lambda window, stride, rows: PhasedLoRA(
        lora=lora_settings(window, stride, rows),
        boundaries=(10, 20, 30),
        chunk=4096,
        sgd=part(SGDAdaptation, lr=0.01, epochs=1),
    ),
    "mixed": lambda window, stride, rows: NGramMixing(window=window, stride=stride),
}


def lora_settings(window: int, stride: int, rows: int) -> Spec[DocumentLoRA]:
    """Settings that helped a model of 5 M parameters (docs/measurements.md); published ones are for 36 M and windows of 2,048."""
    on = ("head", "q", "k", "v", "mixer", "mlp")
    return part(DocumentLoRA, window=window, stride=stride, rows=rows, target_modules=on, rank=8, lr=0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_text_options(parser)
    parser.add_argument(
        "--run", type=Path, help="folder of a run, trained on the shards of --data (default: a model is trained)"
    )
    parser.add_argument("--steps", type=int, default=640, help="training steps of the model, if none is given")
    parser.add_argument("--seed", type=int, default=0, help="seed of that training")
    parser.add_argument("--targets", type=int, default=8192, help="number of targets to score")
    parser.add_argument(
        "--skip", type=int, default=0, help="leave out the first documents, with at least this many targets"
    )
    parser.add_argument("--window", type=int, default=256, help="tokens of a window")
    parser.add_argument("--stride", type=int, default=16, help="new targets of each sliding window")
    parser.add_argument(
        "--rows", type=int, default=16, help="windows that are scored side by side, where the method has rows"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["contiguous", "sliding", "cached"])
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (0: as many as it takes)")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    data = shards_folder(options)
    run = options.run or Path("runs/compression") / corpus_id(data) / f"seed{options.seed}"
    if not options.run:
        train_once(run, data, options.seed, compression_recipe(options.steps))
    text = skip_targets(load_validation(data), options.skip).head(options.targets)
    for name in options.methods:
        line = measure_method(name, text, options, run, data)
        print(json.dumps(line) if options.json else format_row(line), flush=True)


def skip_targets(text: TokenizedText, targets: int) -> TokenizedText:
    """The documents that begin at or behind this target, with their share of the bytes. Raises `UsageError` if none does."""
    start = next((start for start, _ in text.documents() if start >= targets), None)
    if start is None:
        raise UsageError(
            f"no document begins behind target {targets:,}", where="--skip", hint="leave out fewer targets"
        )
    rest = text.num_targets - start
    return text._replace(tokens=text.tokens[start:], bytes=round(text.bytes * rest / text.num_targets))


def load_trained(run: Path, data: Path) -> tuple[LM, str]:
    """The averaged model of a run, and the hash of its recipe."""
    recipe: Spec[Recipe] = read_recipe(run / "recipe.json")
    manifest = load_manifest(data)
    model = build_on_meta(recipe().model, manifest.vocab, manifest.bos)
    load_weights(model, load_file(run / "averaged.safetensors"))
    return model, recipe_hash(recipe)


def measure_method(
    name: str, text: TokenizedText, options: argparse.Namespace, run: Path, data: Path
) -> dict[str, Any]:
    method, device = METHODS[name](options.window, options.stride, options.rows), select_device()
    model, recipe = load_trained(run, data)
    batch = choose_batch_size(model, method, device, SINGLE_PROCESS).tokens
    vocab, kernels = len(model.embed.weight), kernel_selector(device)
    with closing(method.make_player(model, vocab, device, SINGLE_PROCESS, kernels)) as player:
        started = time.process_time()
        found = score(player, text, method, batch_tokens=batch)
        cpu_seconds = time.process_time() - started
    return {
        "bench": "scoring",
        "corpus": corpus_id(data),
        "method": name,
        "recipe": recipe,
        "window": method.window,
        "stride": method.stride,
        "rows": options.rows,
        "skipped": options.skip,
        "targets": found.targets,
        "tokens_read": found.tokens_read,
        "targets_per_token_read": round(found.targets / found.tokens_read, 4),
        "bpb": round(found.bpb, 5),
        "seconds": round(found.seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "targets_per_second": round(found.targets / found.seconds),
        "targets_per_cpu_second": round(found.targets / cpu_seconds),
        "device": device.description,
        "threads": torch.get_num_threads(),
        "environment": collect_environment(),
    }


def format_row(line: dict[str, Any]) -> str:
    return (
        f"{line['method']:<20} window {line['window']:>5} stride {line['stride']:>5}  {line['bpb']:.4f} bpb"
        f"  {line['targets_per_token_read']:7.1%} targets/token read  {line['targets_per_second']:>8,} targets/s"
        f"  {line['targets_per_cpu_second']:>8,} per CPU second"
    )


if __name__ == "__main__":
    main()
