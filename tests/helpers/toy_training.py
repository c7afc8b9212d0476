"""A small folder of shards and trainers on it, for the tests of training."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import BatchLoader
from bitgolf.data.manifest import load_manifest
from bitgolf.data.prepare import prepare_data
from bitgolf.data.shards import TokenStream, find_shards
from bitgolf.model.objectives import CrossEntropy
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.text.documents import Document
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import SentencePieceBPE
from bitgolf.training import checkpoint
from bitgolf.training.loss_reporter import LogEvent
from bitgolf.training.trainer import Trainer
from helpers.toy import toy_recipe

State = dict[str, Tensor]
STEPS = 8


class NoisyLoss(CrossEntropy):
    """A loss that draws a random number at each step, so that a random state that is not restored changes later steps."""

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        return super().forward(x, targets, logits) * (0.9 + 0.2 * torch.rand(()))


@cache
def _data_files() -> dict[str, bytes]:
    """File name -> contents for `make_data`, computed once per process."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=300)).encode() for _ in range(20)]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        prepare_data(
            documents[2:], documents[:2], tokenizer_from_bytes(SentencePieceBPE(vocab=295).train(texts)), Path(folder)
        )
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def make_data(folder: Path) -> Path:
    """Write shards of about 20,000 tokens and their tokenizer to `folder`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _data_files().items():
        (folder / name).write_bytes(data)
    return folder


def make_trainer(
    data: Path,
    recipe: Spec[Recipe] | None = None,
    *,
    seed: int = 0,
    distributed: DistributedContext = SINGLE_PROCESS,
    noisy: bool = True,
) -> Trainer:
    """A trainer on the CPU. Without `recipe`, it is the toy recipe with 8 steps."""
    recipe = recipe or toy_recipe(steps=STEPS)
    recipe = recipe.set("train.objective", part(NoisyLoss)) if noisy else recipe
    settings = recipe().train()
    stream = TokenStream(find_shards(data, "train"))
    batches = BatchLoader(stream, rows=settings.rows, length=settings.length, order=settings.order(), seed=seed)
    device = Device(torch.device("cpu"), torch.float32, "a test")
    return Trainer(
        recipe().model,
        recipe().train,
        recipe().average,
        BuildContext(vocab=load_manifest(data).vocab),
        batches,
        device,
        distributed,
        seed,
    )


def same(a: State, b: State) -> bool:
    """Whether two states are equal bit for bit."""
    forms = [{k: (t.dtype, t.shape, t.numpy().tobytes()) for k, t in state.items()} for state in (a, b)]
    return forms[0] == forms[1]


# ---- runs of the loop -------------------------------------------------------------------------------------------


def no_report(kind: str, **fields: Any) -> None:
    pass


def short_recipe(*, seconds: float = 0.0, steps: int = STEPS, every: float = 1e9) -> Spec[Recipe]:
    """The toy recipe with limits of training; every: seconds between checkpoints."""
    return toy_recipe(steps=steps).set("train.seconds", seconds).set("train.checkpoint_seconds", every)


def before_step(trainer: Trainer, act: Callable[[int], object]) -> Trainer:
    """The trainer, changed so that it calls `act` with the step number before each step."""
    original = trainer.step

    def acting(step: int, progress: TrainingProgress) -> Tensor:
        act(step)
        return original(step, progress)

    trainer.step = acting
    return trainer


def at(when: int, act: Callable[[], object]) -> Callable[[int], object]:
    return lambda number: act() if number == when else None


def crash() -> None:
    raise RuntimeError("the machine is on fire")


def newest(folder: Path) -> checkpoint.Checkpoint:
    found = checkpoint.load_latest(folder)
    assert found and not found.warnings
    return found


class FakeTime:
    """A clock that advances only by `advance`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def perf_counter(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def logger(losses: list[float]) -> LogEvent:
    return lambda kind, **fields: losses.append(fields["loss"]) if kind == "step" else None
