"""What more GPUs would bring: a calculation of the time of a step on 1 to 512 H100, for any recipe.

Usage: `python bench/scaling.py [RECIPE ...] [--gpus 8 64 512] [--code script|bitgolf] [--json]`. Counts are
those of the recipe's model and optimizer on the meta device. `--check` compares the calculation with measured steps.
Nothing is measured here; `step_time.CONSTANTS` says where each constant is from.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from step_time import (
    BITGOLF_FIRST,
    CODES,
    CONSTANTS,
    SCRIPT_FA2,
    SCRIPT_FA3,
    Code,
    Phase,
    Product,
    Stack,
    Workload,
    critical_batch,
    run_steps,
    step_time,
    useful_tokens,
)
from torch import nn

from bitgolf.config.build_context import BuildContext
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.sdpa import SegmentMask
from bitgolf.model.build import build_on_meta, model_size
from bitgolf.model.linear import Linear
from bitgolf.optim.optimizer import Optimizer
from bitgolf.optim.stacked_group import StackedParameterGroup
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.text_table import text_table
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.loss_module import LossModule
from bitgolf.training.phases import Phases

RECIPES = ("pr1855", "bitgolf16")
GPUS = (8, 64, 512)
LOSS = 2.35
"""Nats per token late in pr1855's training, for the critical batch."""
PROBE_TOKENS = 64


# ---- counts of a recipe --------------------------------------------------------------------------------------------


def workload(recipe: Recipe, name: str) -> Workload:
    """Count a recipe's products, attention and optimizer state, with a forward pass on the meta device per phase."""
    vocab, train, dim = recipe.tokens().vocab, recipe.train(), model_size(recipe.model).dim
    with torch.device("meta"):
        task = LossModule(build_on_meta(recipe.model, vocab), train.objective(BuildContext(vocab=vocab, dim=dim)))
        optimizer = Optimizer(task.parameters_by_path(), task.roles(), train.optim)
    phases = Phases(task)
    starts = [0.0, *(start for start in phases.starts if 0 < start < 1)]
    shares = [end - start for start, end in zip(starts, [*starts[1:], 1.0], strict=True)]
    counted = []
    for start, share in zip(starts, shares, strict=True):
        for scheduled in phases.parts:
            scheduled.update(TrainingProgress(round(1000 * start), 1000, 0.0, 0.0, lr_scale=1.0))
        counted.append(_count_phase(task, share, Product(vocab, dim, 1.0), train.length))
    stacks, replicated = _optimizer_counts(optimizer)
    return Workload(name, dim, tuple(counted), stacks, replicated, train.rows * train.length, train.seconds)


def _count_phase(task: LossModule, share: float, head: Product, length: int) -> Phase:
    """Count the calls of `Linear` and `Attention` in a forward pass. head: the output projection, which is neither."""
    products, attention, visits = Counter[tuple[int, ...]](), 0.0, 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal attention, visits
        if isinstance(module, Attention):
            visits += 1
            attention += module.out.weight.shape[1] * attended_keys(module, length)
        elif isinstance(module, Linear):
            products[tuple(module.weight.shape)] += inputs[0].shape[:-1].numel()

    hooks = [module.register_forward_hook(count) for module in task.modules()]
    ids = torch.zeros(1, PROBE_TOKENS, dtype=torch.long, device="meta")
    task(ids, ids)
    for hook in hooks:
        hook.remove()
    counted = [Product(rows, columns, calls / PROBE_TOKENS) for (rows, columns), calls in products.items()]
    return Phase(share, (*counted, head), visits, attention)


def attended_keys(attention: Attention, length: int) -> float:
    """Mean number of keys of a query, if segments are as long as they may be: half a segment, or a window."""
    found = [(mask, getattr(mask, "span", None)) for mask in attention.core.modules()]
    spans = [
        span / 2 if isinstance(mask, SegmentMask) else span for mask, span in found if isinstance(span, int) and span
    ]
    return float(min([length / 2, *spans]))


def _optimizer_counts(optimizer: Optimizer) -> tuple[tuple[Stack, ...], int]:
    """(stacks of the groups that are sharded if there are several GPUs, number of all other parameters)."""
    stacks, replicated, several = list[Stack](), 0, DistributedContext(world_size=2)
    for group in optimizer.groups:
        if isinstance(group, StackedParameterGroup) and group.algorithm.is_sharded(several):
            size = group.algorithm.reduce_dtype.itemsize
            for stack in group.stacks:
                rows, columns = stack.weights.shape[-2:]
                stacks.append(Stack(sum(stack.counts), rows, columns, size, stack.weights.itemsize))
        else:
            replicated += sum(p.numel() for p in group.params.values())
    return tuple(stacks), replicated


# ---- tables --------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A recipe on a number of GPUs. tokens: of a run; useful: the same in batches far below the critical one.

    ms: of a step, mean over the run; the others of its last phase.
    """

    recipe: str
    batch: str
    gpus: int
    rows_per_gpu: float
    batch_tokens: float
    ms: float
    compute_ms: float
    optimizer_ms: float
    collectives_ms: float
    steps: float
    tokens: float
    useful: float


def rows_of(work: Workload, rows: int, gpus: Iterable[int], code: Code) -> list[Row]:
    """The recipe with its batch divided among all GPUs, and with as many rows per GPU as on the first number of GPUs."""
    numbers = list(gpus)
    cases = [("constant batch", n, 1.0) for n in numbers] + [("constant rows", n, n / numbers[0]) for n in numbers[1:]]
    found = []
    for batch, n, growth in cases:
        scaled = work._replace(batch_tokens=round(work.batch_tokens * growth))
        last, steps = step_time(scaled, scaled.phases[-1], n, code), run_steps(scaled, n, code)
        useful = useful_tokens(steps, scaled.batch_tokens, critical_batch(LOSS))
        found.append(
            Row(
                work.name,
                batch,
                n,
                rows * growth / n,
                scaled.batch_tokens,
                1000 * work.seconds / steps,
                1000 * last.compute,
                1000 * last.optimizer,
                1000 * last.collectives,
                steps,
                steps * scaled.batch_tokens,
                useful,
            )
        )
    return found


HEADINGS = ("recipe, batch", "GPUs", "rows/GPU", "ms", "passes", "optim", "coll", "steps", "Gtok", "useful")


def table(rows: list[Row], width: int = 100) -> str:
    """The rows as text. Gtok: 1e9 tokens of a run; useful: relative to the first row of the recipe."""
    first = {row.recipe: row.useful for row in reversed(rows)}
    cells = [
        (
            f"{row.recipe}, {row.batch}",
            str(row.gpus),
            f"{row.rows_per_gpu:.3g}",
            f"{row.ms:.1f}",
            f"{row.compute_ms:.1f}",
            f"{row.optimizer_ms:.2f}",
            f"{row.collectives_ms:.2f}",
            f"{row.steps:,.0f}",
            f"{row.tokens / 1e9:.2f}",
            f"{row.useful / first[row.recipe]:.2f}",
        )
        for row in rows
    ]
    return "\n".join(text_table(HEADINGS, cells, width=width))


class StepComparison(NamedTuple):
    """A measured step of pr1855 beside the calculation, in milliseconds."""

    what: str
    measured: float
    calculated: float
    fitted: bool

    @property
    def error(self) -> float:
        """Of the calculation, relative to the measurement."""
        return self.calculated / self.measured - 1


def comparisons(work: Workload) -> list[StepComparison]:
    """Steps of pr1855. One H100: one row, docs/measurements.md. Eight: the published logs of #1855."""
    one = work._replace(batch_tokens=work.batch_tokens // 8)
    plain, looped = work.phases
    mean = 1000 * work.seconds / run_steps(work, 8, SCRIPT_FA3)

    def ms(counts: Workload, phase: Phase, gpus: int, code: Code) -> float:
        return 1000 * step_time(counts, phase, gpus, code).total

    return [
        StepComparison("first Bitgolf, 1 GPU, loops on", 315.6, ms(one, looped, 1, BITGOLF_FIRST), False),
        StepComparison("first Bitgolf, 1 GPU, loops off", 238.4, ms(one, plain, 1, BITGOLF_FIRST), False),
        StepComparison("script, 1 GPU, loops on", 157.7, ms(one, looped, 1, SCRIPT_FA2), True),
        StepComparison("script, 1 GPU, loops off", 105.0, ms(one, plain, 1, SCRIPT_FA2), False),
        StepComparison("script, 8 GPUs, loops on", 141.0, ms(work, looped, 8, SCRIPT_FA3), True),
        StepComparison("script, 8 GPUs, loops off", 96.0, ms(work, plain, 8, SCRIPT_FA3), False),
        StepComparison("script, 8 GPUs, mean of the run", 121.7, mean, False),
    ]


def check_table(work: Workload) -> str:
    """Measured and calculated steps, and the constants."""
    rows = [
        (c.what, f"{c.measured:.1f}", f"{c.calculated:.1f}", f"{c.error:+.1%}", "fitted" if c.fitted else "predicted")
        for c in comparisons(work)
    ]
    lines = text_table(("step of pr1855", "measured ms", "calculated", "error", ""), rows, width=80)
    return "\n".join([*lines, "", *text_table(("constant", "value", "origin"), CONSTANTS, text_columns=3, width=100)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=RECIPES, help=f"Names of recipes. Default: {' '.join(RECIPES)}.")
    parser.add_argument("--gpus", nargs="+", type=int, default=GPUS, help="Numbers of GPUs. Default: 8 64 512.")
    parser.add_argument("--code", choices=CODES, default="script", help="Implementation whose constants are used.")
    parser.add_argument("--check", action="store_true", help="Compare with measured steps of pr1855 instead.")
    parser.add_argument("--json", action="store_true", help="Print one JSON line for each row.")
    options = parser.parse_args()
    if options.check:
        print(check_table(workload(get_recipe("pr1855")(), "pr1855")))
        return
    found = list[Row]()
    for name in options.recipes:
        recipe = get_recipe(name)()
        found += rows_of(workload(recipe, name), recipe.train().rows, options.gpus, CODES[options.code])
    print("\n".join(json.dumps(row._asdict()) for row in found) if options.json else table(found))


if __name__ == "__main__":
    main()
