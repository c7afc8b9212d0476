"""One training process: what `bitgolf run` calls itself, or starts N times under torchrun.

`python -m bitgolf.train.worker FOLDER DATA SEED RESUME` trains the recipe in FOLDER/recipe.json on the shards in DATA.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitgolf.data.batches import Batches
from bitgolf.data.prepare import load_manifest
from bitgolf.data.shards import Stream, find_shards
from bitgolf.errors import BitgolfError
from bitgolf.files import read_json, write_json
from bitgolf.journal import Journal
from bitgolf.names import from_json
from bitgolf.recipe import Recipe, as_trained
from bitgolf.spec import Place, Spec
from bitgolf.train import dist, fast, loop
from bitgolf.train.device import choose
from bitgolf.train.fit import fit_memory
from bitgolf.train.settings import Train
from bitgolf.train.touched import touched
from bitgolf.train.trainer import Trainer, compile_task, compiles, warm_up
from bitgolf.world import World

WARM_UP_STEPS = 3


def train_run(
    recipe: Spec[Recipe], data: Path, folder: Path, *, seed: int, resume: bool, journal: Journal
) -> dict[str, Any]:
    """Train in this process's share of the world. Leaves checkpoints and `train.json` in `folder`."""
    world = dist.join()
    try:
        return _train(as_trained(recipe), data, folder, seed, resume, journal, world)
    finally:
        dist.leave(world)


def _train(
    recipe: Spec[Recipe], data: Path, folder: Path, seed: int, resume: bool, journal: Journal, world: World
) -> dict[str, Any]:
    settings: Train = recipe["train"]()
    device = choose(world.local_rank)
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
    acts = touched(trainer.task, recipe["model"], inputs, targets)
    kernels = _kernels(trainer, settings)
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
        warm_up(trainer, WARM_UP_STEPS)
    try:
        result = loop.train(trainer, folder / "checkpoint", _reporter(journal, settings), resume=resume)
    finally:
        trainer.close()
    if late := trainer.phases.never_began:
        message = f"training ended before the phase at {late[0]:g} of it: what is scored was never trained so"
        journal.event("warning", message=message)
    epochs = result.tokens / len(stream)
    if epochs > 1:
        message = f"training read its text {epochs:.1f} times ({len(stream):,} tokens): more text may score better"
        journal.event("warning", message=message)
    summary = {
        **result._asdict(),
        "epochs": epochs,
        "device": device.why,
        "graph": graph,
        "kernels": kernels,
        "processes": world.size,
        "parameters": parameters,
        "touched": table,
    }
    if world.rank == 0:
        write_json(folder / "train.json", summary)
    return summary


def _kernels(trainer: Trainer, settings: Train) -> list[str]:
    """Choose fused kernels on the rows that this process trains on first; a line on each kind."""
    world, device = trainer.world, trainer.device
    batch = trainer.batches.batch(0, world.rank, world.size)
    micro = settings.micro_rows or len(batch.inputs)
    ids, targets = trainer.to_device(batch.inputs[:micro]), trainer.to_device(batch.targets[:micro])
    compiled = compiles(settings.compile, device)
    return fast.choose(trainer.task, ids, targets, device, mode=settings.kernels, compiled=compiled)


def _reporter(journal: Journal, settings: Train) -> loop.Report:
    limits = [f"{settings.seconds:g} s"] * (settings.seconds > 0) + [f"{settings.steps:,} steps"] * (settings.steps > 0)

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
            journal.say(f"resumed after step {fields['step']:,}")

    return report


def main(arguments: Sequence[str]) -> int:
    """One worker; returns its exit status. Every process says what failed in it, an interruption only the first."""
    folder, data, seed, resume = Path(arguments[0]), Path(arguments[1]), int(arguments[2]), arguments[3] == "1"
    rank = dist.environment_rank()
    journal = Journal(None if rank else folder, quiet=rank > 0)
    try:
        train_run(from_json(read_json(folder / "recipe.json")), data, folder, seed=seed, resume=resume, journal=journal)
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
