"""One training process: what `bitgolf run` calls itself, or starts N times under torchrun.

`python -m bitgolf.pipeline.training FOLDER DATA SEED RESUME DEVICE` trains the recipe in FOLDER/recipe.json on the shards in
DATA, on a kind of device (`auto`, `cuda`, `mps`, `cpu`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bitgolf.config.build_context import Place
from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.data.batches import Batches
from bitgolf.data.manifest import load_manifest
from bitgolf.data.shards import Stream, find_shards
from bitgolf.errors import BitgolfError, Interrupted
from bitgolf.files import read_json, write_json
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import limit_of, reserve_of
from bitgolf.report.log import Journal
from bitgolf.runtime import process_group
from bitgolf.runtime.device import Device, choose
from bitgolf.runtime.distributed import World
from bitgolf.runtime.progress import Reserve
from bitgolf.train import loop, setup
from bitgolf.train.settings import Train
from bitgolf.train.trainer import Trainer

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
    world = process_group.join(wanted)
    try:
        device = choose(world.local_rank, wanted)
        limit, reserve = _limit(recipe, data, journal, world, device, measure)
        summary = _train(recipe, data, folder, seed, resume, journal, world, device, limit)
        summary["reserve"] = reserve._asdict() if reserve else None
        if world.rank == 0:
            write_json(folder / "train.json", summary)
        return summary
    finally:
        process_group.leave(world)


def _limit(
    recipe: Spec[Recipe], data: Path, journal: Journal, world: World, device: Device, measure: MeasureReserve | None
) -> tuple[float, Reserve | None]:
    """Seconds after which training ends (0: no limit), and what calibration needs of the clock, where it is measured."""
    given = reserve_of(recipe)
    if given is not None:
        limit = limit_of(recipe, given)
        if limit:
            journal.event("reserve", seconds=given, limit=limit)
        return limit, None
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
    trainer, tokens = _trainer(recipe, data, seed, journal, world, device)
    settings, parameters = trainer.settings, sum(p.numel() for p in trainer.params.values())
    try:
        begun = setup.prepare(trainer, journal)
        journal.say(
            f"{parameters:,} parameters; {tokens:,} training tokens; batches of {settings.rows} x {settings.length}"
        )
        report = _reporter(journal, settings, limit)
        result = loop.train(trainer, folder / "checkpoint", report, resume=resume, limit=limit)
    finally:
        trainer.close()
    epochs = result.tokens / tokens
    _warn(journal, trainer, epochs, tokens)
    return {
        **result._asdict(),
        **begun._asdict(),
        "epochs": epochs,
        "device": device.why,
        "processes": world.size,
        "parameters": parameters,
    }


def _trainer(
    recipe: Spec[Recipe], data: Path, seed: int, journal: Journal, world: World, device: Device
) -> tuple[Trainer, int]:
    """A trainer on the shards in a folder, and how many tokens those have."""
    settings, manifest = recipe["train"](), load_manifest(data)
    if manifest.vocab != recipe["tokens.vocab"]:
        journal.event(
            "warning",
            message=f"the recipe's vocabulary is {recipe['tokens.vocab']:,}, that of the shards {manifest.vocab:,}, which counts",
        )
    stream = Stream(find_shards(data, "train"))
    batches = Batches(
        stream, rows=settings.rows, length=settings.length, order=settings.order(), seed=seed, bos=manifest.bos
    )
    place = Place(vocab=manifest.vocab, bos=manifest.bos)
    return Trainer(recipe["model"], recipe["train"], recipe["average"], place, batches, device, world, seed), len(
        stream
    )


def _warn(journal: Journal, trainer: Trainer, epochs: float, tokens: int) -> None:
    """What a reader of the result must know of how training went."""
    if late := trainer.phases.never_began:
        message = f"training ended before the phase at {late[0]:g} of it: what is scored was never trained so"
        journal.event("warning", message=message)
    if epochs > 1:
        message = f"training read its text {epochs:.1f} times ({tokens:,} tokens): more text may score better"
        journal.event("warning", message=message)


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
    """One worker; `measure` as for `train_run`. Returns its exit status.

    Every process says what failed in it, an interruption only the first.
    """
    folder, data, seed, resume = Path(arguments[0]), Path(arguments[1]), int(arguments[2]), arguments[3] == "1"
    wanted = arguments[4]
    rank = process_group.environment_rank()
    journal = Journal(None if rank else folder, quiet=rank > 0)
    try:
        recipe = from_json(read_json(folder / "recipe.json"))
        train_run(recipe, data, folder, seed=seed, resume=resume, journal=journal, wanted=wanted, measure=measure)
    except BitgolfError as error:
        if rank == 0:
            print(error, file=sys.stderr)
        elif not isinstance(error, Interrupted):
            print(f"process {rank}: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        journal.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
