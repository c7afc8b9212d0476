"""Use of the rows of lookup tables in the training text, and the prior that it gives their sensitivities.

Calibration text is a small sample: it never looks up many rows of a large table, such as a hashed bigram table, or of
the rare tokens of a vocabulary. Held-out text does look them up, so their sensitivity is not zero. The frequency of a row
is therefore counted in the training text itself, which needs the index function of the table and no forward pass. The
squared gradient for one use of a row is that of the calibration, shrunk towards the mean of the table.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bitgolf.data.shards import TokenStream
from bitgolf.model.linear import HeadLinear
from bitgolf.model.lm import LM
from bitgolf.model.part import Part
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext, all_reduce_sum

BLOCK_TOKENS = 1 << 19
"""Tokens whose rows are counted at a time."""
PRIOR_USES = 8.0
"""Weight of the table's mean in the squared gradient of a row, in uses of the row."""
UNSEEN_USES = 0.5
"""Added to the count of each row, so that none has the frequency zero (Krichevsky and Trofimov, 1981)."""


def count_row_usage(
    model: LM, text: TokenStream, tokens: int, distributed: DistributedContext = SINGLE_PROCESS
) -> dict[str, Tensor]:
    """Path -> number of uses of each row, int64 (R,) on the CPU, of every lookup table and of an untied head.

    tokens: number of tokens of `text` to read, in blocks that are spread evenly over it; all if it has no more.
    The blocks are divided among the processes. Counts are the same for any number of processes, and on each of them.
    """
    paths: dict[Tensor, str] = {p: path for path, p in model.named_parameters()}
    device = next(model.parameters()).device
    unused = _rows_by_weight(model, torch.zeros(1, 1, dtype=torch.long, device=device))
    counts = {paths[weight]: torch.zeros(len(weight), dtype=torch.long, device=device) for weight, _ in unused}
    for start, length in _blocks(len(text), tokens, distributed):
        ids = torch.from_numpy(text.window(start, length)).to(device)[None]
        for weight, rows in _rows_by_weight(model, ids):
            counts[paths[weight]] += torch.bincount(rows.flatten(), minlength=len(weight))
    return {path: all_reduce_sum(found, distributed).cpu() for path, found in sorted(counts.items())}


def _rows_by_weight(model: LM, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(weight, rows) of every lookup of ids (1, T), and of an untied head, which has each token as a target once."""
    context = model.forward_context(ids)
    for module in model.modules():
        if isinstance(module, Part):
            yield from ((table.weight, rows) for table, rows in module.lookups(context))
        if isinstance(module, HeadLinear):
            yield module.weight, ids


def _blocks(available: int, tokens: int, distributed: DistributedContext) -> Iterator[tuple[int, int]]:
    """(first token, length) of the blocks of this process; those of all processes do not overlap."""
    read = min(available, tokens)
    blocks = range(0, read, BLOCK_TOKENS)
    for number in range(distributed.rank, len(blocks), distributed.world_size):
        skipped = number * (available - read) // max(len(blocks) - 1, 1)
        yield blocks[number] + skipped, min(BLOCK_TOKENS, read - blocks[number])


def row_frequencies(usage: Tensor) -> Tensor:
    """(R,) float64, the frequency of each row among the uses; positive for every row, and summing to 1."""
    smoothed = usage.double() + UNSEEN_USES
    return smoothed / smoothed.sum()


def lookup_sensitivity(usage: Tensor, calibrated: Tensor, squares: Tensor) -> Tensor:
    """(R,) float32, relative sensitivity of the rows of a table: frequency times squared gradient per use over its mean.

    usage: uses in the training text.  calibrated: uses in the calibration text.  squares: sums of the squared gradients
    at the latter. All are (R,). Without any gradient, the result is the frequency.
    """
    mean = squares.double().sum() / calibrated.double().sum().clamp_min(1)
    if mean <= 0:
        return row_frequencies(usage).float()
    per_use = (squares.double() + PRIOR_USES * mean) / (calibrated.double() + PRIOR_USES)
    return (row_frequencies(usage) * per_use / mean).float()


def row_fisher(usage: Tensor, fisher: Tensor, tokens: int) -> Tensor:
    """(R,) float32, squared gradient per token of the rows of an output head, shrunk towards their frequencies.

    usage: occurrences of each token in the training text.  fisher: mean squared gradient of each output over `tokens`
    calibration tokens. Targets are sampled, so the estimate for a token is uncertain if it is rarely drawn. It counts
    with the number of its expected draws, and a squared gradient proportional to the frequency with `PRIOR_USES`.
    """
    frequency, mean = row_frequencies(usage), fisher.double().sum()
    return (frequency * (tokens * fisher.double() + PRIOR_USES * mean) / (tokens * frequency + PRIOR_USES)).float()
