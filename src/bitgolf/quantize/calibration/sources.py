"""Sources of calibration text: training shards, or text sampled from the model.

Validation text is never used: quantized weights that depend on it would invalidate the score.
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

from bitgolf.config.ranges import BatchRows, Count, Seed, Temperature, TokenCountOrZero
from bitgolf.config.registry import register
from bitgolf.data.batches import BatchLoader, ShuffledWindows
from bitgolf.data.manifest import open_split
from bitgolf.errors import RecipeError
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.lm import LM

DEFAULT_MAX_LENGTH = 2048
"""Row limit in tokens for `length=0`, as in published runs. Training rows have up to 98,304 tokens."""
MAX_LENGTH = 8192
"""Row limit in tokens. A row is one forward pass, and the reference attention core needs a mask of (T, T)."""


class CalibrationContext(NamedTuple):
    """The model to calibrate, and its training data.

    data: folder of the manifest of the shards.  train_length: tokens per training row.  bos: id of the BOS token.
    autocast: factory of the context manager for forward passes.
    """

    model: LM
    data: Path
    train_length: int
    bos: int
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext

    def row_length(self, length: int) -> int:
        """Tokens per calibration row: `length`, or for 0 the training length limited to `DEFAULT_MAX_LENGTH`."""
        return length or min(self.train_length, DEFAULT_MAX_LENGTH)


class CalibrationSource(ABC):
    """`batches` batches of token ids, each a pure function of its number, so that processes can share them."""

    batches: int

    @abstractmethod
    def open(self, subject: CalibrationContext) -> Callable[[int], Tensor]:
        """A function from batch number to ids (B, T), int64. Raises `BitgolfError` if there is too little text."""


@register
class TrainingText(CalibrationSource):
    """Windows of the training shards in random order, independent of the order of training.

    batches: number of batches.  rows: windows per batch.  length: tokens per window; 0 is the training length, at most
    2,048.  seed: of the order.
    Published runs take 16 to 256 batches of rows of 2,048 tokens (openai/parameter-golf, pull requests 1060 to 1855).
    """

    def __init__(
        self, *, batches: Count = 16, rows: BatchRows = 8, length: TokenCountOrZero = 0, seed: Seed = 42
    ) -> None:
        _require_positive(TrainingText, batches=batches, rows=rows)
        _check_length(TrainingText, length)
        self.batches, self.rows, self.length, self.seed = batches, rows, length, seed

    def open(self, subject: CalibrationContext) -> Callable[[int], Tensor]:
        batches = BatchLoader(
            open_split(subject.data, "train"),
            rows=self.rows,
            length=subject.row_length(self.length),
            order=ShuffledWindows(),
            seed=self.seed,
            bos=subject.bos,
        )
        return lambda number: torch.from_numpy(batches.load_batch(number).inputs.copy())


@register
class SelfGenerated(CalibrationSource):
    """Sequences sampled from the model, after a BOS token and a uniformly random first token.

    sequences: their number.  rows: sequences per batch.  length: tokens per sequence; 0 is the training length, at most
    2,048.  temperature: sampling temperatures, used in turn from sequence to sequence.
    Source: openai/parameter-golf, pull requests 1019 (one temperature) and 1913 (several).
    """

    def __init__(
        self,
        *,
        sequences: Count = 64,
        length: TokenCountOrZero = 2048,
        temperature: tuple[Temperature, ...] = (0.8,),
        seed: Seed = 42,
        rows: BatchRows = 8,
    ) -> None:
        _require_positive(SelfGenerated, sequences=sequences, rows=rows)
        _check_length(SelfGenerated, length)
        if not temperature or not all(0 < t <= 100 for t in temperature):
            message = f"temperatures must be above 0 and at most 100, at least one of them, got {temperature}"
            raise RecipeError(message, where="SelfGenerated.temperature")
        self.sequences, self.length, self.temperature = sequences, length, temperature
        self.seed, self.rows = seed, rows
        self.batches = -(-sequences // rows)

    def open(self, subject: CalibrationContext) -> Callable[[int], Tensor]:
        return lambda number: self._generate(subject, number)

    @torch.no_grad()
    def _generate(self, subject: CalibrationContext, number: int) -> Tensor:
        """Batch `number`, (B, T); the last batch may have fewer rows."""
        first = number * self.rows
        rows, length = min(self.rows, self.sequences - first), subject.row_length(self.length)
        decoder = IncrementalDecoder(subject.model, rows, window=length, stride=length)
        device, vocab = decoder.logits.device, decoder.logits.shape[1]
        generator = torch.Generator(device).manual_seed(_derive_seed(self.seed, number))
        by_row = [self.temperature[(first + row) % len(self.temperature)] for row in range(rows)]
        temperature = torch.tensor(by_row, device=device)[:, None]
        ids = torch.full((rows, length), subject.bos, device=device)
        ids[:, 1] = torch.randint(vocab, (rows,), generator=generator, device=device)
        for i in range(2, length):
            decoder.step(ids[:, i - 1])
            p = (decoder.logits / temperature).softmax(1)
            ids[:, i] = torch.multinomial(p, 1, generator=generator).squeeze(1)
        return ids


def _derive_seed(*key: int) -> int:
    """One seed from several numbers, such that adjacent keys give independent seeds."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _require_positive(cls: type, **settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            raise RecipeError(f"{name} must be at least 1, got {value}", where=f"{cls.__name__}.{name}")


def _check_length(cls: type, length: int) -> None:
    if length < 0 or length == 1 or length > MAX_LENGTH:
        raise RecipeError(
            f"length must be 2 to {MAX_LENGTH:,} tokens, or 0 for the training length, got {length:,}",
            where=f"{cls.__name__}.length",
        )
