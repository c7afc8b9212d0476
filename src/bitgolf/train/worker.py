"""One training process: what `bitgolf run` calls itself, or starts N times under torchrun.

`python -m bitgolf.train.worker FOLDER DATA SEED RESUME DEVICE` trains the recipe in FOLDER/recipe.json on the shards in
DATA, on a kind of device (`auto`, `cuda`, `mps`, `cpu`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bitgolf.clock import Reserve
from bitgolf.data.batches import Batches, Rows
from bitgolf.data.prepare import load_manifest
from bitgolf.data.shards import Stream, find_shards
from bitgolf.errors import BitgolfError
from bitgolf.files import read_json, write_json
from bitgolf.journal import Journal
from bitgolf.names import from_json
from bitgolf.recipe import Recipe, limit_of, reserve_of
from bitgolf.spec import Place, Spec
from bitgolf.train import dist, fast, loop
from bitgolf.train.device import Device, choose
from bitgolf.train.fit import fit_memory
from bitgolf.train.settings import Train
from bitgolf.train.touched import touched
from bitgolf.train.trainer import Trainer, compile_task, compiles, warm_up
from bitgolf.world import World

WARM_UP_STEPS = 2
LOOK_STEPS = 32
"""Steps whose segments are counted before training."""

MeasureReserve = Callable[[Spec[Recipe], Path, World, Device], Reserve]
"""Measures how long calibration of a recipe, with shards from a folder, takes in this world on this device."""


def train_run(
    recipe: Spec[Recipe],
    data: Path,
    folder: Path,
    *,
    seed: int,
    resume: bool,
    journal: Journal,
    wanted: str = "auto",
    measure: MeasureReserve | None = None,
) -> dict[str, Any]:
    """Train in this process's share of the world. Leaves checkpoints and `train.json` in `folder`.

    wanted: the kind of device, as `device.choose` takes it.  measure: asked where a recipe leaves the reserve of
    calibration to be measured; `BitgolfError` where it is None.
    """
    world = dist.join(wanted)
    try:
        device = choose(world.local_rank, wanted)
        limit, reserve = _limit(recipe, data, journal, world, device, measure)
        summary = _train(recipe, data, folder, seed, resume, journal, world, device, limit)
        summary["reserve"] = reserve._asdict() if reserve else None
        if world.rank == 0:
            write_json(folder / "train.json", summary)
        return summary
    finally:
        dist.leave(world)


def _limit(
    recipe: Spec[Recipe], data: Path, journal: Journal, world: World, device: Device, measure: MeasureReserve | None
) -> tuple[float, Reserve | None]:
    """Seconds after which training ends (0: no limit), and what calibration needs of the clock, where it is measured."""
    given = reserve_of(recipe)
    if given is not None:
        return limit_of(recipe, given), None
    if measure is None:
        cause = "the time of calibration is to be measured, which a worker alone cannot"
        raise BitgolfError(cause, place="calibrate.reserve", mend="train with `bitgolf run`, or set calibrate.reserve")
    reserve = measure(recipe, data, world, device)
    limit = limit_of(recipe, reserve.seconds)
    journal.event("reserve", seconds=reserve.seconds, limit=limit, **reserve._asdict())
    journal.say(
        f"calibration takes about {reserve.seconds:.1f} s ({reserve.rounds} x {reserve.round_seconds:.3f} s"
        f" + {reserve.fixed_seconds:.3f} s, and a tenth): training ends after {limit:.1f} s"
    )
    return limit, reserve


def _train(
    recipe: Spec[Recipe],
    data: Path,
    folder: Path,
    seed: int,
    resume: bool,
    journal: Journal,
    world: World,
    device: Device,
    limit: float,
) -> dict[str, Any]:
    settings: Train = recipe["train"]()
    manifest = load_manifest(data)
    if manifest.vocab != recipe["tokens.vocab"]:
        journal.event(
            "warning",
            message=f"the recipe's vocabulary is {recipe['tokens.vocab']:,}, that of the shards {manifest.vocab:,}, which counts",
        )
    stream = Stream(find_shards(data, "train"))
    batches = Batches(
        stream, rows=settings.rows, length=settings.length, order=settings.order(), seed=seed, bos=manifest.bos
    )
    trainer = Trainer(recipe, Place(vocab=manifest.vocab, bos=manifest.bos), batches, device, world, seed)
    inputs, targets = (trainer.to_device(rows) for rows in batches.rows(0, 0, 1))
    with device.autocast():
        acts = touched(trainer.task, recipe["model"], inputs, targets)
    kernels = _kernels(trainer, settings, journal)
    graph = compile_task(trainer, settings.compile)
    parameters = sum(p.numel() for p in trainer.params.values())
    journal.say(f"device: {device.why}; {world.size} process{'es' * (world.size > 1)}; {graph}")
    for line in kernels:
        journal.say(f"kernels: {line}")
    for group in trainer.optimizer.sharded:
        journal.say(group.why)
    journal.say(
        f"{parameters:,} parameters; {len(stream):,} training tokens; batches of {settings.rows} x {settings.length}"
    )
    table = [{"part": k, **v._asdict()} for k, v in acts.items()]
    table += [
        {"part": f"{kind} on {where}", "tensors": n, "parameters": p, "calls": 1}
        for where, kind, n, p in trainer.optimizer.touched()
    ]
    fit_memory(trainer, journal.say)
    if device.device.type == "cuda" or trainer.run is not trainer.task:
        for moment, seconds in warm_up(trainer, WARM_UP_STEPS).items():
            journal.event("warm_up", moment=moment, seconds=round(seconds, 2))
            journal.say(f"the graph from {moment:g} of the run on was compiled and warmed up in {seconds:.1f} s")
    report = _reporter(journal, settings, limit)
    try:
        result = loop.train(trainer, folder / "checkpoint", report, resume=resume, limit=limit)
    finally:
        trainer.close()
    if late := trainer.phases.never_began:
        message = f"training ended before the phase at {late[0]:g} of it: what is scored was never trained so"
        journal.event("warning", message=message)
    epochs = result.tokens / len(stream)
    if epochs > 1:
        message = f"training read its text {epochs:.1f} times ({len(stream):,} tokens): more text may score better"
        journal.event("warning", message=message)
    return {
        **result._asdict(),
        "epochs": epochs,
        "device": device.why,
        "graph": graph,
        "kernels": kernels,
        "processes": world.size,
        "parameters": parameters,
        "touched": table,
    }


def _kernels(trainer: Trainer, settings: Train, journal: Journal) -> list[str]:
    """Choose fused kernels on the rows that this process trains on first; a line on each kind."""
    world, device = trainer.world, trainer.device
    batch = trainer.batches.batch(0, world.rank, world.size)
    micro = settings.micro_rows or len(batch.inputs)
    choice = fast.choose(
        trainer.task,
        (trainer.to_device(batch.inputs[:micro]), trainer.to_device(batch.targets[:micro])),
        device,
        mode=settings.kernels,
        compiled=compiles(settings.compile, device),
        bos=trainer.model.bos,
        world=world,
        look=_first_rows(trainer, micro),
        say=journal.say,
    )
    trainer.slots = choice.slots
    return choice.lines


def _first_rows(trainer: Trainer, micro: int) -> Iterator[Rows]:
    """Ids of the first batches, as many rows at once as the model will read."""
    for step in range(LOOK_STEPS):
        ids = trainer.batches.batch(step, trainer.world.rank, trainer.world.size).inputs
        yield from (ids[i : i + micro] for i in range(0, len(ids), micro))


def _reporter(journal: Journal, settings: Train, limit: float) -> loop.Report:
    limits = [f"{limit:.4g} s"] * (limit > 0) + [f"{settings.steps:,} steps"] * (settings.steps > 0)

    def report(kind: str, **fields: Any) -> None:
        journal.event(kind, **fields)
        if kind == "step":
            speed = fields["tokens"] / max(fields["elapsed"], 1e-9)
            journal.progress(
                f"train: step {fields['step']:,}, loss {fields['loss']:.3f} nats per token, {speed:,.0f} tokens/s, {fields['elapsed']:.0f} s of {' or '.join(limits)}"
            )
        if kind == "phase":
            journal.say(
                f"from {fields['moment']:g} of the run on the graph is another: loss {fields['before']:.4f} before, {fields['after']:.4f} after"
            )
        if kind == "resume":
            until = f", to end after {fields['limit']:.4g} s" if fields["limit"] else ""
            journal.say(f"resumed after step {fields['step']:,}{until}")

    return report


def main(arguments: Sequence[str], measure: MeasureReserve | None = None) -> int:
    """One worker; `measure` as for `train_run`. Returns its exit status. Every process says what failed in it, an interruption only the first."""
    folder, data, seed, resume = Path(arguments[0]), Path(arguments[1]), int(arguments[2]), arguments[3] == "1"
    wanted = arguments[4]
    rank = dist.environment_rank()
    journal = Journal(None if rank else folder, quiet=rank > 0)
    try:
        recipe = from_json(read_json(folder / "recipe.json"))
        train_run(recipe, data, folder, seed=seed, resume=resume, journal=journal, wanted=wanted, measure=measure)
    except BitgolfError as error:
        if rank == 0:
            print(error, file=sys.stderr)
        elif not isinstance(error, loop.Interrupted):
            print(f"process {rank}: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        journal.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
