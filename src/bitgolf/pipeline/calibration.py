"""The stage `calibrate`: in one process, or in N that it starts under torchrun.

`python -m bitgolf.pipeline.calibration FOLDER DATA DEVICE KEY BATCHES SECONDS` calibrates the recipe and the averaged weights in
FOLDER, with the shards in DATA, on a kind of device; see `calibrate_run` and `Bounds` for the rest.

Its clock counts measuring alone: starting processes, imports, loading and writing are off it, as they are in training.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from bitgolf.config.build_context import Place
from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import BitgolfError
from bitgolf.files import file_digest, read_json, value_digest, write_json
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights
from bitgolf.pipeline.execute import Run
from bitgolf.quantize.calibration.calibrate import distinct
from bitgolf.quantize.calibration.sources import Subject
from bitgolf.quantize.calibration.stats_file import about_calibration, load_calibration, save_calibration
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import reserve_of
from bitgolf.report.log import Journal
from bitgolf.runtime import process_group
from bitgolf.runtime.device import Device, choose
from bitgolf.runtime.distributed import World
from bitgolf.runtime.launch import launch
from bitgolf.runtime.progress import Reserve


def inputs(run: Run) -> list[Any]:
    """What decides the statistics; nothing where the recipe asks for none."""
    if run.recipe["calibrate"] is None:
        return []
    files = [file_digest(run.folder / "averaged.safetensors"), file_digest(run.data / "manifest.json")]
    return [*files, run.slice("calibrate"), run.recipe["train.length"]]


def calibrate(run: Run) -> dict[str, Any]:
    """Weights -> what the codecs must know of their matrices, inside the training clock. On as many processes as training."""
    if run.recipe["calibrate"] is None:
        run.journal.say("no codec asks for calibration")
        return {"source": "none", "clock": _clock(run, 0.0)}
    file, key = run.folder / "calibration.safetensors", value_digest(inputs(run))
    bounds = _bounds(run, about_calibration(file), key)
    if run.devices > 1:
        words = str(run.folder), str(run.data), run.device, key, *map(str, bounds)
        again = "--from calibrate"
        launch(run.devices, "bitgolf.pipeline.calibration", *words, folder=run.folder, stage="calibration", again=again)
    else:
        calibrate_run(run.recipe, run.data, run.folder, key, bounds, journal=run.journal, wanted=run.device)
    stats, seconds = load_calibration(file), float(read_json(run.folder / "calibration.json")["seconds"])
    outcome = {
        "source": run.recipe["calibrate.source"].name,
        "tokens": max(s.tokens for s in stats.values()),
        "processes": run.devices,
        "batches": about_calibration(file)["batches"],
        "planned": run.recipe["calibrate"]().source.batches,
        "matrices": len(stats),
        "hessians": distinct(stats),
    }
    run.journal.event("calibration", **outcome, seconds=round(seconds, 2))
    run.journal.say(
        f"calibrated on {outcome['tokens']:,} tokens ({outcome['source']}) in {seconds:.1f} s"
        f" by {run.devices} process{'es' * (run.devices > 1)}: {len(stats)} matrices, {outcome['hessians']} Hessians"
    )
    _say_if_cut(run, sum(outcome["batches"]), outcome["planned"], again=bounds.batches > 0)
    return {**outcome, "clock": _clock(run, seconds)}


class Bounds(NamedTuple):
    """How far calibration goes: so many batches (0: all), and no round that would end after so many seconds."""

    batches: int
    seconds: float


def _bounds(run: Run, about: Mapping[str, Any], key: str) -> Bounds:
    """Done again with the same inputs, calibration observes the batches that it had then, so that the file is the same.
    Else it ends with the training clock, where its reserve was measured."""
    if about.get("inputs") == key:
        return Bounds(sum(about["batches"]), math.inf)
    if reserve_of(run.recipe) is not None:
        return Bounds(0, math.inf)
    trained = run.done["train"]
    # The time of training's last step beyond its limit is not taken from calibration.
    ended = min(trained["clock"], trained["limit"])
    return Bounds(0, run.recipe["train.seconds"] - ended - trained["reserve"]["fixed_seconds"])


def _say_if_cut(run: Run, batches: int, planned: int, *, again: bool) -> None:
    if batches < planned and again:
        run.journal.say(f"calibrated on {batches:,} of {planned:,} batches, as the first time, when the clock ended it")
    elif batches < planned:
        limit = run.recipe["train.seconds"]
        message = f"calibration ended at the limit of {limit:g} s, with {batches:,} of {planned:,} batches"
        run.journal.event("warning", message=message, batches=batches, planned=planned, limit=limit)


def _clock(run: Run, seconds: float) -> dict[str, float]:
    """The training clock, calibration included: over the limit is allowed and said aloud. `limit` 0: none."""
    trained, limit = run.done["train"]["clock"], run.recipe["train.seconds"]
    clock = {"train": trained, "calibrate": seconds, "total": trained + seconds, "limit": limit}
    clock = {name: round(value, 2) for name, value in clock.items()}
    if seconds and 0 < limit < clock["total"]:
        message = "training took {train} s and calibration {calibrate} s: {total} s, over the limit of {limit} s"
        run.journal.event("warning", message=f"{message.format(**clock)} (see calibrate.reserve)", **clock)
    return clock


def calibrate_run(
    recipe: Spec[Recipe],
    data: Path,
    folder: Path,
    key: str,
    bounds: Bounds,
    *,
    journal: Journal,
    wanted: str = "auto",
) -> None:
    """Calibrate in this process's share of the world, on a kind of device (`device.choose`).

    Leaves `calibration.safetensors` in `folder`, which holds `key`, the digest of the inputs, and how many batches each
    process observed; and `calibration.json`, with the seconds it took.
    """
    world = process_group.join(wanted)
    try:

        def progress(done: int, of: int) -> None:
            journal.progress(f"calibrate: {done:,} of {of:,} batches")

        manifest = load_manifest(data)
        model = build_on_meta(recipe["model"], manifest.vocab, manifest.bos)
        load_weights(model, load_file(folder / "averaged.safetensors"))
        subject = _subject(recipe, data, model, choose(world.local_rank, wanted))
        found = recipe["calibrate"]().measure(subject, world, progress, **bounds._asdict())
        if world.rank == 0:
            shares = [len(range(rank, found.batches, world.size)) for rank in range(world.size)]
            save_calibration(folder / "calibration.safetensors", found.stats, {"inputs": key, "batches": shares})
            write_json(folder / "calibration.json", {"seconds": found.seconds, "batches": shares})
    finally:
        process_group.leave(world)


def measure_reserve(recipe: Spec[Recipe], data: Path, world: World, device: Device) -> Reserve:
    """How long calibration will take in this world, measured as the stage does it, with the weights of a model that is
    not trained. For before training: it draws random numbers."""
    manifest = load_manifest(data)
    model = recipe["model"](Place(vocab=manifest.vocab, bos=manifest.bos))
    subject = _subject(recipe, data, model, device)
    reserve = recipe["calibrate"]().forecast(subject, world)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # training sizes itself by the memory that is free
    return reserve


def _subject(recipe: Spec[Recipe], data: Path, model: LM, device: Device) -> Subject:
    model = model.to(device.device).eval()
    return Subject(model, data, recipe["train.length"], model.bos, device.autocast)


def main(arguments: Sequence[str]) -> int:
    """One worker; returns its exit status. Every process says what failed in it."""
    folder, data, wanted, key = Path(arguments[0]), Path(arguments[1]), arguments[2], arguments[3]
    bounds = Bounds(int(arguments[4]), float(arguments[5]))
    rank = process_group.environment_rank()
    try:
        recipe = from_json(read_json(folder / "recipe.json"))
        calibrate_run(recipe, data, folder, key, bounds, journal=Journal(quiet=rank > 0), wanted=wanted)
    except BitgolfError as error:
        print(f"process {rank}: {error}" if rank else error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
