"""What a model is watched on while it is calibrated: the text it was trained on, or samples of its own.

Neither needs the validation text: weights that were rounded with its help would know it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.data.batches import BatchLoader, ShuffledWindows
from bitgolf.data.shards import TokenStream, find_shards
from bitgolf.errors import RecipeError
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.lm import LM

DEFAULT_MAX_LENGTH = 2048
"""Tokens of a row at most where a source says 0, as in published runs: rows of up to 98,304 are trained on."""
MAX_LENGTH = 8192
"""Tokens of a row at most: each is read in one piece, and the plain attention core needs a mask of their square."""


class CalibrationContext(NamedTuple):
    """The model that is calibrated, and what a source may know of its training.

    length: tokens of a row in training.  autocast: the context that its forward runs under.
    """

    model: LM
    data: Path
    train_length: int
    bos: int
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext

    def row_length(self, length: int) -> int:
        """Tokens of a row where a source says `train_length`: 0 is as in training, at most `DEFAULT_MAX_LENGTH`."""
        return length or min(self.train_length, DEFAULT_MAX_LENGTH)


class CalibrationSource(ABC):
    """So many `batches` of ids, each a pure function of its number: any number of processes can share them out."""

    batches: int

    @abstractmethod
    def open(self, subject: CalibrationContext) -> Callable[[int], Tensor]:
        """Number of a batch -> its ids (B, T), int64. Raises `BitgolfError` where there is too little text."""


@register
class TrainingText(CalibrationSource):
    """Windows of the training shards, `rows` of them in a batch, in an order of their own.

    Published runs take 16 to 256 batches (openai/parameter-golf, pull requests 1060 to 1855), with rows of 2,048 tokens.
    `length` 0: as trained, and at most 2,048 tokens.
    """

    def __init__(self, *, batches: int = 16, rows: int = 8, length: int = 0, seed: int = 42) -> None:
        _require_positive(TrainingText, batches=batches, rows=rows)
        _check_length(TrainingText, length)
        self.batches, self.rows, self.length, self.seed = batches, rows, length, seed

    def open(self, subject: CalibrationContext) -> Callable[[int], Tensor]:
        batches = BatchLoader(
            TokenStream(find_shards(subject.data, "train")),
            rows=self.rows,
            length=subject.row_length(self.length),
            order=ShuffledWindows(),
            seed=self.seed,
            bos=subject.bos,
        )
        return lambda number: torch.from_numpy(batches.load_batch(number).inputs.copy())


@register
class SelfGenerated(CalibrationSource):
    """Sequences that the model writes itself: a BOS, a token at random, then what it predicts, `rows` at a time.

    The temperatures take turns from sequence to sequence. `length` 0: as trained, and at most 2,048 tokens.
    As in openai/parameter-golf, pull requests 1019 (one temperature) and 1913 (several).
    """

    def __init__(
        self,
        *,
        sequences: int = 64,
        length: int = 2048,
        temperature: tuple[float, ...] = (0.8,),
        seed: int = 42,
        rows: int = 8,
    ) -> None:
        _require_positive(SelfGenerated, sequences=sequences, rows=rows)
        _check_length(SelfGenerated, length)
        if not temperature or not all(0 < t <= 100 for t in temperature):
            raise RecipeError(f"temperatures are above 0, not {temperature}", where="SelfGenerated.temperature")
        self.sequences, self.length, self.temperature = sequences, length, temperature
        self.seed, self.rows = seed, rows
        self.batches = -(-sequences // rows)

    def open(self, subject: CalibrationContext) -> Callable[[int], Tensor]:
        return lambda number: self._written(subject, number)

    @torch.no_grad()
    def _written(self, subject: CalibrationContext, number: int) -> Tensor:
        first = number * self.rows
        rows, length = min(self.rows, self.sequences - first), subject.row_length(self.length)
        reader = IncrementalDecoder(subject.model, rows, window=length, stride=length)
        device, vocab = reader.logits.device, reader.logits.shape[1]
        generator = torch.Generator(device).manual_seed(_derive_seed(self.seed, number))
        turns = [self.temperature[(first + row) % len(self.temperature)] for row in range(rows)]
        heat = torch.tensor(turns, device=device)[:, None]
        ids = torch.full((rows, length), subject.bos, device=device)
        ids[:, 1] = torch.randint(vocab, (rows,), generator=generator, device=device)
        for i in range(2, length):
            reader.step(ids[:, i - 1])
            ids[:, i] = torch.multinomial((reader.logits / heat).softmax(1), 1, generator=generator).squeeze(1)
        return ids


def _derive_seed(*key: int) -> int:
    """One seed of a few numbers, such that neighbours share nothing."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _require_positive(cls: type, **settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            raise RecipeError(f"{name} start at 1, not {value}", where=f"{cls.__name__}.{name}")


def _check_length(cls: type, length: int) -> None:
    if length < 0 or length == 1 or length > MAX_LENGTH:
        raise RecipeError(
            f"a row has at least 2 tokens and at most {MAX_LENGTH:,}, or 0 for as many as trained; not {length:,}",
            where=f"{cls.__name__}.length",
        )
