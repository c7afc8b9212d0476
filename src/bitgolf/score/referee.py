"""The referee: owns the text, the order of reveal, the normalisation and the byte counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.score.player import Player
from bitgolf.score.windows import Method, Window

Progress = Callable[[int, int, float], None]  # targets done, targets in all, bits so far


class Score(NamedTuple):
    """Bits are summed in float64, bytes are those of the raw text: two sums, one division."""

    method: str
    bits: float
    bytes: int
    targets: int
    seconds: float

    @property
    def bpb(self) -> float:
        return self.bits / self.bytes


def score(
    player: Player,
    stream: np.ndarray,
    raw_bytes: int,
    method: Method,
    *,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> Score:
    """Score every token of `stream` but the first, exactly once.

    stream: token ids, document after document, each opened by BOS; a last BOS makes the last document's end a target.
    raw_bytes: UTF-8 bytes of the same text.  Raises where a player's logits are not a distribution's.
    """
    if len(stream) < 2 or raw_bytes < 1:
        raise BitgolfError("there is nothing to score: the text is empty", place="score")
    started, targets = time.perf_counter(), len(stream) - 1
    tokens = torch.from_numpy(np.asarray(stream, dtype=np.int64))
    if int(tokens.max()) >= player.vocab:
        raise BitgolfError(f"the text holds token {int(tokens.max())}, the model knows {player.vocab}", place="score")
    bits, done = 0.0, 0
    for batch in _batches(method.windows(targets), batch_tokens):
        bits += _batch_bits(player, tokens, batch)
        done += sum(w.stop - w.first for w in batch)
        if progress:
            progress(done, targets, bits)
    if done != targets:
        raise BitgolfError(f"{method.name} scored {done} targets of {targets}", place="score")
    return Score(method.name, bits, raw_bytes, targets, time.perf_counter() - started)


def _batches(windows: Iterable[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Neighbouring windows of one shape, as many as fit `batch_tokens`."""
    batch: list[Window] = []
    shape = (0, 0)
    for window in windows:
        this = (window.stop - window.start, window.stop - window.first)
        if batch and (this != shape or (len(batch) + 1) * this[0] > batch_tokens):
            yield batch
            batch = []
        batch.append(window)
        shape = this
    if batch:
        yield batch


def _batch_bits(player: Player, tokens: Tensor, batch: list[Window]) -> float:
    """Bits of the targets that these windows score; the player observes them only afterwards."""
    inputs = torch.stack([tokens[w.start : w.stop] for w in batch])
    targets = torch.stack([tokens[w.first + 1 : w.stop + 1] for w in batch])
    logits = player.predict(inputs, targets.shape[1])
    wanted = (*targets.shape, player.vocab)
    if tuple(logits.shape) != wanted:
        raise BitgolfError(f"the player returned logits of shape {tuple(logits.shape)}, not {wanted}", place="score")
    bits = token_bits(logits, targets.to(logits.device))
    if not math.isfinite(total := float(bits.sum())):
        raise BitgolfError("the player returned logits that are not finite", place=f"targets from {batch[0].first}")
    player.observe(targets.flatten())
    player.adapt()
    return total


def token_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """-log2 p of each target under softmax(logits), normalised here over the whole vocabulary; float64."""
    logits = logits.double()
    chosen = logits.gather(-1, targets[..., None])[..., 0]
    return (torch.logsumexp(logits, -1) - chosen) / math.log(2)


def with_last_end(stream: np.ndarray, bos: int) -> np.ndarray:
    """The stream closed by a BOS, so that the end of the last document is charged like that of every other."""
    return np.append(np.asarray(stream, dtype=np.int64), bos)
