"""Data order by coprime strides: each batch mixes windows of many shards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from bitgolf.config.ranges import Count
from bitgolf.config.registry import register
from bitgolf.data.orders import DataOrder, ShardSpan, VariableEpochs, WindowFunction, WindowSource
from bitgolf.data.shards import Positions
from bitgolf.errors import RecipeError


@register
class CoprimeStride(DataOrder):
    """Visit the windows of each shard with a stride coprime to their number, and mix shards in each batch.

    A cycle over a shard has a random phase, first window and stride, and visits each window once. A batch takes at
    least one window from each of `min_shards` shards at first, and of `max_shards` after `growth_steps` batches. Shards
    are drawn with probability proportional to (windows left in the cycle) ** p, where p falls from 0.9 to 0.5 over
    `growth_steps` batches; the other rows are distributed over them in the same proportion.
    Source: Parameter Golf #1060. There, with W ranks, the settings are max(8, W), max(32, 8 W) and 1800, and the seed
    is derived from the file names; here it is the run's seed.
    """

    def __init__(self, *, min_shards: Count = 8, max_shards: Count = 64, growth_steps: Count = 1800) -> None:
        if not 1 <= min_shards <= max_shards or growth_steps < 1:
            got = f"min_shards {min_shards}, max_shards {max_shards}, growth_steps {growth_steps}"
            cause = f"min_shards must be 1 to max_shards, and growth_steps at least 1, got {got}"
            raise RecipeError(cause, where="CoprimeStride")
        self.min_shards, self.max_shards, self.growth_steps = min_shards, max_shards, growth_steps

    def windows(self, source: WindowSource) -> WindowFunction:
        plan = _SamplingPlan(self, source)

        def window(number: int) -> Positions:
            step, row = divmod(number, source.rows)
            return source.window(int(plan.starts(step)[row]))

        return window


class _ShardWindows:
    """The windows of one shard, in consecutive cycles."""

    def __init__(self, source: WindowSource, file: ShardSpan, number: int) -> None:
        self.source, self.file, self.number = source, file, number
        self.cycle = lru_cache(maxsize=2)(self._cycle)
        self.cycles = VariableEpochs(lambda cycle: len(self.cycle(cycle)))

    def _cycle(self, cycle: int) -> Positions:
        """Return the stream positions of the windows of a cycle, int64 (windows,), in the order of their visits."""
        random = self.source.generator(1, self.number, cycle)
        starts = self.source.window_starts(self.file, random)
        first, stride = int(random.integers(len(starts))), coprime(len(starts), random)
        return starts[(first + stride * np.arange(len(starts))) % len(starts)]

    def left(self, taken: int) -> int:
        """Return the number of windows left in the current cycle after `taken` windows in all.

        It is at least 1: after the last window of a cycle the next cycle begins.
        """
        cycle, index = self.cycles(taken)
        return len(self.cycle(cycle)) - index

    def start(self, taken: int) -> int:
        """Return the stream position of the next window after `taken` windows."""
        cycle, index = self.cycles(taken)
        return int(self.cycle(cycle)[index])


def coprime(n: int, random: np.random.Generator) -> int:
    """Return a random stride below n that is coprime to n; 1 if n is 1."""
    stride = n if n > 1 else 1
    while math.gcd(stride, n) > 1:
        stride = int(random.integers(1, n))
    return stride


class _SamplingPlan:
    """The number of windows that each step takes from each shard.

    The numbers of a step depend on those of all earlier steps, so they are computed from step 0 on, and kept: 8 bytes
    per step and shard.
    """

    def __init__(self, order: CoprimeStride, source: WindowSource) -> None:
        self.order, self.source = order, source
        self.shards: Sequence[_ShardWindows] = [
            _ShardWindows(source, f, i) for i, f in enumerate(source.shard_spans(source.length))
        ]
        # taken[i]: windows taken from each shard before step i, int64 (shards,)
        self.taken: list[Positions] = [np.zeros(len(self.shards), np.int64)]
        self.starts = lru_cache(maxsize=2)(self._starts)

    def _starts(self, step: int) -> Positions:
        """Return the stream positions of a step's windows, int64 (rows,).

        They are in random order, so that each rank gets an unbiased sample of them.
        """
        while len(self.taken) <= step + 1:
            self.taken.append(self.taken[-1] + self._shares(len(self.taken) - 1))
        before, after = self.taken[step].tolist(), self.taken[step + 1].tolist()
        found = [shard.start(k) for shard, a, b in zip(self.shards, before, after, strict=True) for k in range(a, b)]
        return self.source.generator(2, step, 0).permutation(np.array(found))

    def _shares(self, step: int) -> Positions:
        """Return the number of windows that a step takes from each shard, int64 (shards,)."""
        random, rows, grown = (
            self.source.generator(3, step, 0),
            self.source.rows,
            min(1.0, step / self.order.growth_steps),
        )
        fewest, most = (min(n, len(self.shards), rows) for n in (self.order.min_shards, self.order.max_shards))
        left = [shard.left(taken) for shard, taken in zip(self.shards, self.taken[step].tolist(), strict=True)]
        weight = np.array(left, np.float64) ** (0.9 - 0.4 * grown)
        mix = round(fewest + grown * (most - fewest))
        chosen = random.choice(len(left), mix, replace=False, p=weight / weight.sum())
        shares = np.zeros(len(left), np.int64)
        shares[chosen] = 1 + random.multinomial(rows - mix, weight[chosen] / weight[chosen].sum())
        return shares
