"""The order by coprime strides: blocks of many shards in every batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from bitgolf.config.registry import register
from bitgolf.data.orders import DataOrder, ShardSpan, VariableEpochs, WindowFunction, WindowSource
from bitgolf.data.shards import Positions
from bitgolf.errors import RecipeError


@register
class CoprimeStride(DataOrder):
    """Each shard's blocks by a stride coprime to their number, and a mix of shards in each batch (Parameter Golf #1060).

    A shard's cycle has a random phase, first block and stride, and visits each of its blocks once. A batch takes at
    least one window from each of `min_shards` shards at first, of `max_shards` after `growth_steps` batches, chosen with probability
    in proportion to (windows left in the cycle) ** (0.9, falling to 0.5); the other rows fall to them in like proportion.
    Published for W ranks: max(8, W), max(32, 8 W) and 1800, seeded by the names of the files; here by the run's seed.
    """

    def __init__(self, *, min_shards: int = 8, max_shards: int = 64, growth_steps: int = 1800) -> None:
        if not 1 <= min_shards <= max_shards or growth_steps < 1:
            cause = f"a mix of {min_shards} shards that grows to {max_shards} over {growth_steps} batches is not one"
            raise RecipeError(cause, where="CoprimeStride")
        self.min_shards, self.max_shards, self.growth_steps = min_shards, max_shards, growth_steps

    def windows(self, source: WindowSource) -> WindowFunction:
        plan = _SamplingPlan(self, source)

        def window(number: int) -> Positions:
            step, row = divmod(number, source.rows)
            return source.window(int(plan.starts(step)[row]))

        return window


class _ShardWindows:
    """The windows of one shard, one cycle after the other."""

    def __init__(self, source: WindowSource, file: ShardSpan, number: int) -> None:
        self.source, self.file, self.number = source, file, number
        self.cycle = lru_cache(maxsize=2)(self._cycle)
        self.cycles = VariableEpochs(lambda cycle: len(self.cycle(cycle)))

    def _cycle(self, cycle: int) -> Positions:
        """Where the windows of a cycle start, in the order of their visits."""
        random = self.source.generator(1, self.number, cycle)
        starts = self.source.window_starts(self.file, random)
        first, stride = int(random.integers(len(starts))), coprime(len(starts), random)
        return starts[(first + stride * np.arange(len(starts))) % len(starts)]

    def left(self, taken: int) -> int:
        """Windows left in the cycle, once so many were taken; at least 1, as a cycle that is over is followed by the next."""
        cycle, index = self.cycles(taken)
        return len(self.cycle(cycle)) - index

    def start(self, taken: int) -> int:
        """Where the next window starts, once so many were taken."""
        cycle, index = self.cycles(taken)
        return int(self.cycle(cycle)[index])


def coprime(n: int, random: np.random.Generator) -> int:
    """A random stride below n (1 where n is 1) that shares no factor with it."""
    stride = n if n > 1 else 1
    while math.gcd(stride, n) > 1:
        stride = int(random.integers(1, n))
    return stride


class _SamplingPlan:
    """How many windows each step takes from each shard. What was taken before a step follows from the steps before it,
    so the plan is drawn from its start on and kept: 8 bytes for each step and shard."""

    def __init__(self, order: CoprimeStride, source: WindowSource) -> None:
        self.order, self.source = order, source
        self.shards: Sequence[_ShardWindows] = [
            _ShardWindows(source, f, i) for i, f in enumerate(source.shard_spans(source.length))
        ]
        self.taken: list[Positions] = [np.zeros(len(self.shards), np.int64)]  # before step 0, 1, …
        self.starts = lru_cache(maxsize=2)(self._starts)

    def _starts(self, step: int) -> Positions:
        """Where the windows of a step start, int64 [rows], in random order: every share of the rows is a fair one."""
        while len(self.taken) <= step + 1:
            self.taken.append(self.taken[-1] + self._shares(len(self.taken) - 1))
        before, after = self.taken[step].tolist(), self.taken[step + 1].tolist()
        found = [shard.start(k) for shard, a, b in zip(self.shards, before, after, strict=True) for k in range(a, b)]
        return self.source.generator(2, step, 0).permutation(np.array(found))

    def _shares(self, step: int) -> Positions:
        """How many windows a step takes from each shard, int64 [shards]."""
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
