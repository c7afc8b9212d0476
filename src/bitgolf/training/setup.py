"""Preparation of a trainer before the training clock starts: usage probe, memory, kernels, compiled graphs.

It does not affect training: weights, optimizer state, data order and random state are the same as without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from bitgolf.data.batches import TokenRows
from bitgolf.report.log import RunLog
from bitgolf.training.execution_plan import ExecutionPlan
from bitgolf.training.graphs import compile_loss, should_compile, warm_up_graphs
from bitgolf.training.kernels import select
from bitgolf.training.micro_batch import estimate_micro_batch, find_micro_batch
from bitgolf.training.part_usage import measure_part_usage
from bitgolf.training.shape_check import shapes_checked
from bitgolf.training.trainer import Trainer

WARM_UP_STEPS = 2
SEGMENT_SAMPLE_STEPS = 32
"""Number of first training steps whose document segments determine the initial capacity of attention kernels."""


class TrainSetup(NamedTuple):
    """Descriptions of the graph and of the chosen kernels, and the usage table of parts and optimizer rules."""

    graph: str
    kernels: list[str]
    part_usage: list[dict[str, Any]]


def setup_trainer(trainer: Trainer, log: RunLog) -> TrainSetup:
    """Set the execution plan of a trainer, compile and warm up its graphs, and log the decisions.

    Raises `RecipeError` if a part of the recipe never runs, or if `train.kernels` is `fast` and a fused kernel cannot
    be used, and `BitgolfError` if the device has too little memory.
    """
    distributed, settings = trainer.distributed, trainer.settings
    rows = _usage_rows(trainer)
    plan = trainer.plan._replace(max_micro_tokens=estimate_micro_batch(trainer, log.info))
    selection = _select_kernels(trainer, plan, log)
    compute_loss, graph = compile_loss(trainer, settings.compile)
    processes = f"{distributed.world_size} process{'es' * (distributed.world_size > 1)}"
    log.info(f"device: {trainer.device.description}; {processes}; {graph}")
    for line in selection.summary:
        log.detail(f"kernels: {line}")
    for group in trainer.optimizer.sharded:
        log.info(group.sharding_summary)
    plan = plan._replace(compute_loss=compute_loss, segment_buffers=selection.segment_capacity)
    trainer.plan = find_micro_batch(trainer, plan, log.info)
    if trainer.device.torch_device.type == "cuda" or trainer.plan.compute_loss is not trainer.loss_module:
        for start, seconds in warm_up_graphs(trainer, WARM_UP_STEPS).items():
            log.event("warm_up", phase_start=start, seconds=round(seconds, 2))
            log.info(f"compiled and warmed up the graph that starts at {start:g} of the run, in {seconds:.1f} s")
    return TrainSetup(graph, selection.summary, rows)


def _usage_rows(trainer: Trainer) -> list[dict[str, Any]]:
    """The usage table: one row per class of part and per optimizer rule. Raises `RecipeError` for an unused part.

    A part that fails or returns a wrong shape is an error, too.
    """
    inputs, targets = (trainer.to_device(rows) for rows in trainer.batches.load_rows(0, 0, 1))
    checked = shapes_checked(trainer.loss_module, trainer.model_spec, trainer.model.embed.weight.shape[0])
    with trainer.device.autocast(), checked:
        usage = measure_part_usage(trainer.loss_module, trainer.model_spec, inputs, targets)
    table = [{"part": k, **v._asdict()} for k, v in usage.items()]
    return table + [
        {"part": f"{kind} on {where}", "tensors": n, "parameters": p, "calls": 1}
        for where, kind, n, p in trainer.optimizer.rule_usage()
    ]


def _select_kernels(trainer: Trainer, plan: ExecutionPlan, log: RunLog) -> select.KernelSelection:
    """Select fused kernels, on the first micro-batch of this process."""
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
    """Ids of the micro-batches of the first `SEGMENT_SAMPLE_STEPS` steps of this process, each of `rows` rows."""
    for step in range(SEGMENT_SAMPLE_STEPS):
        ids = trainer.batches.load_batch(step, trainer.distributed.rank, trainer.distributed.world_size).inputs
        yield from (ids[i : i + rows] for i in range(0, len(ids), rows))
