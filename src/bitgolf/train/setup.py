"""Everything that happens between making a trainer and the first step on the clock: probe, memory, kernels, graphs.

None of it changes what is trained: weights, optimizer state, data order and random state are those of a run without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from bitgolf.data.batches import TokenRows
from bitgolf.report.log import RunLog
from bitgolf.train.execution_plan import ExecutionPlan
from bitgolf.train.graphs import compile_loss, should_compile, warm_up_graphs
from bitgolf.train.kernels import select
from bitgolf.train.micro_batch import estimate_micro_batch, find_micro_batch
from bitgolf.train.part_usage import measure_part_usage
from bitgolf.train.trainer import Trainer

WARM_UP_STEPS = 2
SEGMENT_SAMPLE_STEPS = 32
"""Steps whose segments are counted before training."""


class TrainSetup(NamedTuple):
    """What was chosen and found before training: the graph, the kernels, and a row for all that parts and rules touch."""

    graph: str
    kernels: list[str]
    part_usage: list[dict[str, Any]]


def setup_trainer(trainer: Trainer, log: RunLog) -> TrainSetup:
    """Make a trainer ready for its first step, and log what was chosen. Compiles where the settings or the device ask for it.

    Raises `RecipeError` where a part of the recipe never runs or a kernel that must be fast is not, and `BitgolfError`
    where the device has too little memory.
    """
    distributed, settings = trainer.distributed, trainer.settings
    rows = _usage_rows(trainer)
    plan = trainer.plan._replace(max_micro_tokens=estimate_micro_batch(trainer, log.info))
    choice = _select_kernels(trainer, plan, log)
    compute_loss, graph = compile_loss(trainer, settings.compile)
    log.info(
        f"device: {trainer.device.description}; {distributed.world_size} process{'es' * (distributed.world_size > 1)}; {graph}"
    )
    for line in choice.summary:
        log.info(f"kernels: {line}")
    for group in trainer.optimizer.sharded:
        log.info(group.sharding_summary)
    plan = plan._replace(compute_loss=compute_loss, segment_buffers=choice.segment_capacity)
    trainer.plan = find_micro_batch(trainer, plan, log.info)
    if trainer.device.torch_device.type == "cuda" or trainer.plan.compute_loss is not trainer.loss_module:
        for moment, seconds in warm_up_graphs(trainer, WARM_UP_STEPS).items():
            log.event("warm_up", phase_start=moment, seconds=round(seconds, 2))
            log.info(f"the graph from {moment:g} of the run on is compiled and warm after {seconds:.1f} s")
    return TrainSetup(graph, choice.summary, rows)


def _usage_rows(trainer: Trainer) -> list[dict[str, Any]]:
    """A row for every kind of part and every rule of the optimizer; a part that never runs is an error."""
    inputs, targets = (trainer.to_device(rows) for rows in trainer.batches.load_rows(0, 0, 1))
    with trainer.device.autocast():
        acts = measure_part_usage(trainer.loss_module, trainer.model_spec, inputs, targets)
    table = [{"part": k, **v._asdict()} for k, v in acts.items()]
    return table + [
        {"part": f"{kind} on {where}", "tensors": n, "parameters": p, "calls": 1}
        for where, kind, n, p in trainer.optimizer.rule_usage()
    ]


def _select_kernels(trainer: Trainer, plan: ExecutionPlan, log: RunLog) -> select.KernelSelection:
    """Choose fused kernels on the rows that this process trains on first."""
    distributed, settings = trainer.distributed, trainer.settings
    batch = trainer.batches.load_batch(0, distributed.rank, distributed.world_size)
    rows = plan.micro_batch_rows(len(batch.inputs), settings.length)
    return select.select_kernels(
        trainer.loss_module,
        (trainer.to_device(batch.inputs[:rows]), trainer.to_device(batch.targets[:rows])),
        trainer.device,
        mode=settings.kernels,
        compiled=should_compile(settings.compile, trainer.device),
        bos=trainer.model.bos,
        distributed=distributed,
        sample_batches=_first_rows(trainer, rows),
        log=log.info,
    )


def _first_rows(trainer: Trainer, rows: int) -> Iterator[TokenRows]:
    """Ids of the first batches, as many rows at once as the model will read."""
    for step in range(SEGMENT_SAMPLE_STEPS):
        ids = trainer.batches.load_batch(step, trainer.distributed.rank, trainer.distributed.world_size).inputs
        yield from (ids[i : i + rows] for i in range(0, len(ids), rows))
