"""A small folder of data, made once, and trainers on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from toy import toy_recipe
from torch import Tensor

from bitgolf.data.batches import Batches
from bitgolf.data.prepare import load_manifest, prepare
from bitgolf.data.shards import Stream, find_shards
from bitgolf.model.head import CrossEntropy
from bitgolf.recipe import Recipe
from bitgolf.spec import Spec, part
from bitgolf.text.documents import Document
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.train import SentencePieceBPE
from bitgolf.train.device import Device
from bitgolf.train.dist import World
from bitgolf.train.trainer import Trainer

MakeTrainer: TypeAlias = Callable[..., Trainer]


class NoisyLoss(CrossEntropy):
    """Draws a random number at each step: a random state that is not restored shows in all that follows."""

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        return super().forward(x, targets, logits) * (0.9 + 0.2 * torch.rand(()))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of about 20,000 tokens with a tokenizer of less than 300, from sentences of few words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=300)).encode() for _ in range(20)]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    folder = tmp_path_factory.mktemp("data")
    prepare(documents[2:], documents[:2], Tokenizer(SentencePieceBPE(vocab=295).train(texts)), folder)
    return folder


@pytest.fixture
def make(data: Path) -> MakeTrainer:
    """`make(recipe, seed=0, rank=0)`: a trainer on the CPU whose loss is a noisy one."""

    def trainer(recipe: Spec[Recipe] | None = None, *, seed: int = 0, rank: int = 0) -> Trainer:
        recipe = (recipe or toy_recipe(steps=8)).set("train.objective", part(NoisyLoss))
        settings, manifest = recipe["train"](), load_manifest(data)
        stream = Stream(find_shards(data, "train"))
        batches = Batches(stream, rows=settings.rows, length=settings.length, order=settings.order(), seed=seed)
        device = Device(torch.device("cpu"), torch.float32, "a test")
        return Trainer(recipe, manifest.vocab, batches, device, World(rank=rank), seed)

    return trainer


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].numpy().tobytes() == b[k].numpy().tobytes()
        for k in a
    )
