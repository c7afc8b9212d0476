"""Everything that happens between making a trainer and the first step on the clock: probe, memory, kernels, graphs.

None of it changes what is trained: weights, optimizer state, data order and random state are those of a run without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from bitgolf.data.batches import Rows
from bitgolf.report.log import Journal
from bitgolf.train.kernels import select
from bitgolf.train.micro_batch import fit_memory, forecast_memory
from bitgolf.train.part_usage import touched
from bitgolf.train.trainer import Trainer, compile_task, compiles, warm_up

WARM_UP_STEPS = 2
LOOK_STEPS = 32
"""Steps whose segments are counted before training."""


class Start(NamedTuple):
    """What was chosen and found before training: the graph, the kernels, and a row for all that parts and rules touch."""

    graph: str
    kernels: list[str]
    touched: list[dict[str, Any]]


def prepare(trainer: Trainer, journal: Journal) -> Start:
    """Make a trainer ready for its first step, and log what was chosen. Compiles where the settings or the device ask for it.

    Raises `RecipeError` where a part of the recipe never runs or a kernel that must be fast is not, and `BitgolfError`
    where the device has too little memory.
    """
    world, settings = trainer.world, trainer.settings
    rows = _touched(trainer)
    forecast_memory(trainer, journal.say)
    kernels = _kernels(trainer, journal)
    graph = compile_task(trainer, settings.compile)
    journal.say(f"device: {trainer.device.why}; {world.size} process{'es' * (world.size > 1)}; {graph}")
    for line in kernels:
        journal.say(f"kernels: {line}")
    for group in trainer.optimizer.sharded:
        journal.say(group.why)
    fit_memory(trainer, journal.say)
    if trainer.device.device.type == "cuda" or trainer.run is not trainer.task:
        for moment, seconds in warm_up(trainer, WARM_UP_STEPS).items():
            journal.event("warm_up", phase_start=moment, seconds=round(seconds, 2))
            journal.say(f"the graph from {moment:g} of the run on is compiled and warm after {seconds:.1f} s")
    return Start(graph, kernels, rows)


def _touched(trainer: Trainer) -> list[dict[str, Any]]:
    """A row for every kind of part and every rule of the optimizer; a part that never runs is an error."""
    inputs, targets = (trainer.to_device(rows) for rows in trainer.batches.rows(0, 0, 1))
    with trainer.device.autocast():
        acts = touched(trainer.task, trainer.recipe["model"], inputs, targets)
    table = [{"part": k, **v._asdict()} for k, v in acts.items()]
    return table + [
        {"part": f"{kind} on {where}", "tensors": n, "parameters": p, "calls": 1}
        for where, kind, n, p in trainer.optimizer.touched()
    ]


def _kernels(trainer: Trainer, journal: Journal) -> list[str]:
    """Choose fused kernels on the rows that this process trains on first; a line on each kind."""
    world, settings = trainer.world, trainer.settings
    batch = trainer.batches.batch(0, world.rank, world.size)
    rows = trainer.rows_at_once(len(batch.inputs), settings.length)
    choice = select.choose(
        trainer.task,
        (trainer.to_device(batch.inputs[:rows]), trainer.to_device(batch.targets[:rows])),
        trainer.device,
        mode=settings.kernels,
        compiled=compiles(settings.compile, trainer.device),
        bos=trainer.model.bos,
        world=world,
        look=_first_rows(trainer, rows),
        say=journal.say,
    )
    trainer.slots = choice.slots
    return choice.lines


def _first_rows(trainer: Trainer, rows: int) -> Iterator[Rows]:
    """Ids of the first batches, as many rows at once as the model will read."""
    for step in range(LOOK_STEPS):
        ids = trainer.batches.batch(step, trainer.world.rank, trainer.world.size).inputs
        yield from (ids[i : i + rows] for i in range(0, len(ids), rows))
