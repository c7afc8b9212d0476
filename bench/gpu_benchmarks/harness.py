"""All calls of the benchmarks into training and models, in one file that follows changes of the package."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec
from bitgolf.data.batches import BatchLoader
from bitgolf.data.manifest import load_manifest
from bitgolf.data.shards import TokenStream
from bitgolf.errors import BitgolfError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.values import ValueEmbedding
from bitgolf.model.build import build_on_meta
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP
from bitgolf.model.parameters import load_weights
from bitgolf.model.residual_topology import ParallelTwoLaneResidual
from bitgolf.recipes import get_recipe
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime import compiler
from bitgolf.runtime.compiler import InductorOptions
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training import setup
from bitgolf.training.kernels import select
from bitgolf.training.phases import progress_at as within
from bitgolf.training.trainer import Trainer
from gpu_benchmarks.job import GPUS, RECIPE

WARM_STEPS = 3
NOISE = 0.02  # standard deviation of random weights


class PreparedTrainer(NamedTuple):
    """A trainer before its first step. messages: chosen kernels and graph; seconds: duration of the preparation."""

    trainer: Trainer
    messages: list[str]
    seconds: float


class StepTiming(NamedTuple):
    """Timing of steps in one phase. ms: milliseconds per step, by round; peak_bytes: None without CUDA."""

    ms: list[float]
    loss: float
    peak_bytes: int | None

    def as_fields(self) -> dict[str, Any]:
        """Fields of a line of results: median and range in milliseconds, memory in GB, loss."""
        return {
            "ms": round(statistics.median(self.ms), 2),
            "range": [round(min(self.ms), 2), round(max(self.ms), 2)],
            "peak_gb": self.peak_bytes and round(self.peak_bytes / 1e9, 2),
            "loss": round(self.loss, 4),
        }


def device() -> Device:
    """The device that a run would choose."""
    return select_device()


def cpu() -> Device:
    """The CPU in float32."""
    return Device(torch.device("cpu"), torch.float32, f"CPU with {torch.get_num_threads()} threads, float32")


def on_cuda() -> bool:
    return device().torch_device.type == "cuda"


def recipe_for(name: str, *, toy: bool) -> Spec[Recipe]:
    """A recipe with the batch of one of its eight GPUs; with `toy`, at toy size for a CPU."""
    recipe = get_recipe(name)
    return toy_sized(recipe) if toy else recipe.set("train.rows", max(1, recipe().train().rows // GPUS))


def toy_sized(recipe: Spec[Recipe]) -> Spec[Recipe]:
    """The recipe with the same parts, but of width 64, and `pr1855` with five layers."""
    recipe = recipe.set("model.dim", 64).edit(Attention, replace(heads=2, kv_heads=1)).edit(MLP, replace(hidden=64))
    if any(node.cls is ValueEmbedding for _, node in recipe.walk()):
        recipe = recipe.edit(ValueEmbedding, replace(value_dim=32))
    if recipe().name == RECIPE:
        recipe = recipe.set("model.layers", 5).edit(LoopedLayers, replace(first_layer=1, last_layer=2))
        recipe = recipe.edit(ParallelTwoLaneResidual, replace(start_layer=3))
    return recipe.set("train", recipe().train.replace(rows=1, micro_rows=1, length=64, seconds=0.0, steps=6))


@contextmanager
def prepared_trainer(
    recipe: Spec[Recipe],
    stream: TokenStream,
    context: BuildContext,
    *,
    without_kernels: Sequence[str] = (),
    options: InductorOptions | None = None,
) -> Iterator[PreparedTrainer]:
    """A trainer in the state before its first step: kernels are chosen, graphs are compiled and warmed up.

    without_kernels: prefixes of the names of parts that get no fused kernel. options: of inductor, added to the
    package's own or replacing them. Raises `BitgolfError` for an unknown option or prefix.
    """
    check_options(options or {})
    settings, where, started = recipe().train(), device(), time.perf_counter()
    batches = BatchLoader(
        stream, rows=settings.rows, length=settings.length, order=settings.order(), seed=0, bos=context.bos
    )
    trainer = Trainer(
        recipe().model, recipe().train, recipe().average, context, batches, where, DistributedContext(), 0
    )
    try:
        with hide_kernels(without_kernels), mock.patch.dict(compiler.CUDA_OPTIONS, options or {}):
            begun = setup.setup_trainer(trainer, RunLog())
        yield PreparedTrainer(trainer, [*begun.kernels, begun.graph], round(time.perf_counter() - started, 2))
    finally:
        trainer.close()
        if on_cuda():
            torch.compiler.reset()  # compiled graphs keep their model alive
        free_memory()


def check_options(options: InductorOptions) -> None:
    """Raises `BitgolfError` for an option that this torch's inductor does not know."""
    if not options:
        return
    import torch._inductor  # as long to import as torch itself

    if unknown := sorted(options.keys() - set(torch._inductor.list_options())):
        raise BitgolfError(f"this torch's inductor has no option {unknown[0]!r}")


@contextmanager
def hide_kernels(names: Sequence[str]) -> Iterator[None]:
    """Context in which parts whose names begin so are left out of kernel selection.

    Raises `BitgolfError` if there are fewer such parts than names.
    """
    all_candidates, hidden = select.kernel_candidates, set[str]()

    def others(*arguments: Any, **settings: Any) -> Iterator[select.KernelCandidate]:
        for candidate in all_candidates(*arguments, **settings):
            if candidate.label.startswith(tuple(names)):
                hidden.add(candidate.label)
            else:
                yield candidate

    with mock.patch.object(select, "kernel_candidates", others):
        yield
    if len(hidden) < len(names):
        raise BitgolfError(f"parts with kernels to hide: {', '.join(names)}; the model has only {sorted(hidden)}")


def build_context_of(data: Path) -> BuildContext:
    """The build context with vocabulary and BOS of a folder of shards."""
    manifest = load_manifest(data)
    return BuildContext(vocab=manifest.vocab, bos=manifest.bos)


def time_steps(trainer: Trainer, progress: float, *, rounds: int, steps: int) -> StepTiming:
    """Time `rounds` rounds of `steps` steps at a progress of the run (0 to 1), after a few that are not timed (one on a CPU)."""
    now, cuda = progress_at(trainer, progress), trainer.device.torch_device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    number = count()  # step numbers: batches are prefetched in their order
    with trainer.phases.rehearsal():  # these steps are not part of a run
        _rounds(trainer, now, number, 1, WARM_STEPS if cuda else 1)
        seconds = _rounds(trainer, now, number, rounds, steps)
        loss = trainer.step(next(number), now).item()
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return StepTiming([1e3 * each / steps for each in seconds], loss, peak)


def progress_at(trainer: Trainer, progress: float) -> TrainingProgress:
    """The training progress at a fraction of the run."""
    return within(progress, trainer.settings.steps, trainer.settings.seconds)


def _rounds(
    trainer: Trainer, progress: TrainingProgress, number: Iterator[int], rounds: int, steps: int
) -> list[float]:
    """Seconds of each round, measured after synchronizing the device."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(steps):
            trainer.step(next(number), progress)
        synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


def synchronize() -> None:
    """Wait for the CUDA device, if there is one."""
    if on_cuda():
        torch.cuda.synchronize()


def recipe_fields(recipe: Spec[Recipe]) -> dict[str, Any]:
    """The fields `recipe` and `digest` of a line of results."""
    return {"recipe": recipe().name, "digest": recipe_hash(recipe)}


def free_memory() -> None:
    """Free unreferenced memory before the next measurement."""
    gc.collect()
    if on_cuda():
        torch.cuda.empty_cache()


def random_weights(recipe: Spec[Recipe], context: BuildContext) -> dict[str, Tensor]:
    """Random float32 weights by path, of about the size of trained ones."""
    draw = torch.Generator().manual_seed(0)
    shapes = build_on_meta(recipe().model, context.vocab, context.bos).named_parameters()
    return {path: NOISE * torch.randn(p.shape, generator=draw) for path, p in shapes}


def random_model(recipe: Spec[Recipe], context: BuildContext) -> LM:
    """A model for inference with `random_weights`."""
    model = build_on_meta(recipe().model, context.vocab, context.bos)
    load_weights(model, random_weights(recipe, context))
    return model.requires_grad_(False)
