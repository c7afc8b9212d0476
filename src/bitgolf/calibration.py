"""The stage `calibrate`: in one process, or in N that it starts under torchrun.

`python -m bitgolf.calibration FOLDER DATA DEVICE` calibrates the recipe and the averaged weights in FOLDER, with the shards
in DATA, on a kind of device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from bitgolf.data.prepare import load_manifest
from bitgolf.errors import BitgolfError
from bitgolf.files import file_digest, read_json
from bitgolf.journal import Journal
from bitgolf.model.core import load_weights
from bitgolf.model.skeleton import LM
from bitgolf.names import from_json
from bitgolf.pipeline import Run
from bitgolf.quantize.calibrate import distinct, load_calibration, save_calibration
from bitgolf.quantize.samples import Subject
from bitgolf.recipe import Recipe
from bitgolf.score.artifact import build_empty
from bitgolf.score.stream import Reader
from bitgolf.spec import Spec
from bitgolf.train import dist
from bitgolf.train.device import Device, choose
from bitgolf.train.launch import launch


def inputs(run: Run) -> list[Any]:
    """What decides the statistics; nothing where the recipe asks for none."""
    if run.recipe["calibrate"] is None:
        return []
    files = [file_digest(run.folder / "averaged.safetensors"), file_digest(run.data / "manifest.json")]
    return [*files, run.slice("calibrate"), run.recipe["train.length"]]


def calibrate(run: Run) -> dict[str, Any]:
    """Weights -> what the codecs must know of their matrices, inside the training clock. On as many processes as training."""
    started = time.perf_counter()
    if run.recipe["calibrate"] is None:
        run.journal.say("no codec asks for calibration")
        return {"source": "none", "clock": _clock(run, 0.0)}
    if run.devices > 1:
        words = str(run.folder), str(run.data), run.device
        again = "--from calibrate"
        launch(run.devices, "bitgolf.calibration", *words, folder=run.folder, stage="calibration", again=again)
    else:
        calibrate_run(run.recipe, run.data, run.folder, journal=run.journal, wanted=run.device)
    stats, seconds = load_calibration(run.folder / "calibration.safetensors"), time.perf_counter() - started
    outcome = {
        "source": run.recipe["calibrate.source"].name,
        "tokens": max(s.tokens for s in stats.values()),
        "processes": run.devices,
        "matrices": len(stats),
        "hessians": distinct(stats),
    }
    run.journal.event("calibration", **outcome, seconds=round(seconds, 2))
    run.journal.say(
        f"calibrated on {outcome['tokens']:,} tokens ({outcome['source']}) in {seconds:.1f} s"
        f" by {run.devices} process{'es' * (run.devices > 1)}: {len(stats)} matrices, {outcome['hessians']} Hessians"
    )
    return {**outcome, "clock": _clock(run, seconds)}


def _clock(run: Run, seconds: float) -> dict[str, float]:
    """The training clock, calibration included: over the limit is allowed and said aloud. `limit` 0: none."""
    trained, limit = run.done["train"]["clock"], run.recipe["train.seconds"]
    clock = {"train": trained, "calibrate": seconds, "total": trained + seconds, "limit": limit}
    clock = {name: round(value, 2) for name, value in clock.items()}
    if seconds and 0 < limit < clock["total"]:
        message = "training took {train} s and calibration {calibrate} s: {total} s, over the limit of {limit} s"
        run.journal.event("warning", message=f"{message.format(**clock)} (see calibrate.reserve)", **clock)
    return clock


def calibrate_run(recipe: Spec[Recipe], data: Path, folder: Path, *, journal: Journal, wanted: str = "auto") -> None:
    """Calibrate in this process's share of the world, on a kind of device (`device.choose`).

    Leaves `calibration.safetensors` in `folder`.
    """
    world = dist.join(wanted)
    try:

        def progress(done: int, of: int) -> None:
            journal.progress(f"calibrate: {done:,} of {of:,} batches")

        found = recipe["calibrate"]().measure(
            _subject(recipe, data, folder, choose(world.local_rank, wanted)), world, progress
        )
        if world.rank == 0:
            save_calibration(folder / "calibration.safetensors", found)
    finally:
        dist.leave(world)


def _subject(recipe: Spec[Recipe], data: Path, folder: Path, device: Device) -> Subject:
    manifest = load_manifest(data)
    model = build_empty(recipe["model"], manifest.vocab, manifest.bos)
    load_weights(model, load_file(folder / "averaged.safetensors"))
    model = model.to(device.device).eval()
    return Subject(model, data, recipe["train.length"], manifest.bos, _reader)


def _reader(model: LM, lanes: int, tokens: int) -> Reader:
    return Reader(model, lanes, window=tokens, stride=tokens)


def main(arguments: Sequence[str]) -> int:
    """One worker; returns its exit status. Every process says what failed in it."""
    folder, data, wanted = Path(arguments[0]), Path(arguments[1]), arguments[2]
    rank = dist.environment_rank()
    try:
        recipe = from_json(read_json(folder / "recipe.json"))
        calibrate_run(recipe, data, folder, journal=Journal(quiet=rank > 0), wanted=wanted)
    except BitgolfError as error:
        print(f"process {rank}: {error}" if rank else error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
