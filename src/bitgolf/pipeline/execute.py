"""Which stages of a run are fresh, and which must be done: what each one does is in `stages`.

A stage is keyed by the hash of its inputs and of its slice of the recipe. What is fresh is not redone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitgolf import __version__
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.files import file_digest, read_json, value_digest, write_json
from bitgolf.recipes.identity import identity, training_slice
from bitgolf.recipes.time_limit import limit_of, reserve_of
from bitgolf.report.log import Journal

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe

STAGES = ("prepare", "train", "average", "calibrate", "quantize", "pack", "score", "report")


@dataclass
class Run:
    """A run: a recipe, a seed, the text it works on, and the folder that holds every stage's results."""

    recipe: Spec[Recipe]
    folder: Path
    journal: Journal
    seed: int = 0
    text: tuple[str, ...] = ()
    shards: Path | None = None
    devices: int = 1
    device: str = "auto"  # the kind, as `train.device.choose` takes it
    resume: bool = False
    fresh_start: bool = False  # training may replace what the folder holds
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The folder of shards and tokenizer that this run trains on."""
        return self.shards or self.folder / "data"

    def slice(self, *names: str) -> list[Any]:
        """What the recipe says under these names."""
        whole = self.recipe.to_json()
        return [whole[name] for name in names]


def execute(run: Run, *, first: str | None = None) -> dict[str, Any]:
    """Do what is not fresh, and from `first` on everything; returns the document of `run --json`."""
    from bitgolf.pack.settings import check_coders
    from bitgolf.pipeline import calibration
    from bitgolf.pipeline import stages as work
    from bitgolf.quantize.calibration.calibrate import check as check_calibration

    check_calibration(run.recipe["quantize"], run.recipe["calibrate"], run.devices)
    limit_of(run.recipe, reserve_of(run.recipe) or 0.0)
    check_coders(run.recipe["pack"])
    functions: dict[str, tuple[Callable[[Run], dict[str, Any]], Callable[[Run], Any]]] = {
        "prepare": (work.prepare, work.prepare_inputs),
        "train": (
            work.train,
            lambda r: [file_digest(r.data / "manifest.json"), training_slice(r.recipe), r.seed],
        ),
        "average": (work.average, lambda r: [r.done["train"]["key"]]),
        "calibrate": (calibration.calibrate, calibration.inputs),
        "quantize": (work.quantize, work.quantize_inputs),
        "pack": (
            work.pack,
            lambda r: [
                file_digest(r.folder / "codes" / "codes.safetensors"),
                r.slice("model", "quantize", "pack", "score"),
            ],
        ),
        "score": (
            work.score,
            lambda r: [
                file_digest(r.folder / "artifact.bg"),
                file_digest(r.data / "manifest.json"),
                r.slice("score", "proof"),
            ],
        ),
        "report": (work.report, lambda r: [r.done["score"]["key"], r.recipe.hash]),
    }
    run.fresh_start = first in ("prepare", "train")
    forced = STAGES.index(first) if first else len(STAGES)
    _open(run)
    for i, stage in enumerate(STAGES):
        function, inputs = functions[stage]
        key = value_digest([stage, __version__, inputs(run)])
        if i < forced and run.done.get(stage, {}).get("key") == key:
            run.journal.say(f"{stage}: fresh")
            continue
        if first and i < forced:
            raise UsageError(
                f"{stage} is not fresh in this folder, so the run cannot start at {first}",
                place=str(run.folder),
                mend=f"--from {stage}",
            )
        if stage == "train":
            work.claim_checkpoints(run)
        _perform(run, stage, key, function)
    return read_json(run.folder / "score.json")


def _open(run: Run) -> None:
    """Read what earlier calls left. The folder's recipe stays until a stage of this one begins."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if (run.folder / "stages.json").exists():
        run.done = read_json(run.folder / "stages.json")
    run.journal.event("run", recipe=run.recipe["name"], hash=identity(run.recipe), seed=run.seed, version=__version__)


def _perform(run: Run, stage: str, key: str, function: Callable[[Run], dict[str, Any]]) -> None:
    """Run one stage; what it and later stages left before no longer counts, even if it fails."""
    run.done = {s: r for s, r in run.done.items() if STAGES.index(s) < STAGES.index(stage)}
    write_json(run.folder / "stages.json", run.done)
    write_json(run.folder / "recipe.json", run.recipe.to_json())
    run.journal.event("stage", stage=stage, key=key)
    run.journal.say(f"{stage} …")
    started = time.perf_counter()
    outcome = function(run)
    seconds = round(time.perf_counter() - started, 2)
    run.done[stage] = {"key": key, "seconds": seconds, **outcome}
    write_json(run.folder / "stages.json", run.done)
    run.journal.event("stage_done", stage=stage, seconds=seconds)


def start(
    named: str,
    recipe: Spec[Recipe],
    *,
    text: Sequence[Path],
    shards: Path | None,
    out: Path | None,
    seed: int,
    devices: int,
    device: str = "auto",
    first: str | None,
    resume: bool,
) -> dict[str, Any]:
    """`bitgolf run`: find the folder, then execute. An earlier run's folder given as the recipe is worked on in place."""
    from bitgolf.runtime.device import choose

    choose(devices - 1, device)  # a device that is not there is an error before anything is written
    if text and shards:
        raise UsageError("--text and --shards are two sources for one run", mend="give one of them")
    for path in text:
        if not path.exists():
            raise UsageError("there is no such file or folder", place=str(path))
    earlier = Path(named) if Path(named).is_dir() else None
    folder = out or earlier or Path("runs") / f"{recipe['name']}-{identity(recipe)[:8]}-s{seed}{_suffix(text, shards)}"
    inputs = {
        "text": [str(p.resolve()) for p in text],
        "shards": str(shards.resolve()) if shards else None,
        "seed": seed,
    }
    if earlier and not (text or shards) and (earlier / "inputs.json").exists():
        inputs = read_json(earlier / "inputs.json")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "inputs.json", inputs)
    journal = Journal(folder)
    try:
        journal.say(f"{recipe['name']} ({identity(recipe)}), seed {inputs['seed']}, in {folder}")
        shards = Path(inputs["shards"]) if inputs["shards"] else None
        run = Run(recipe, folder, journal, inputs["seed"], tuple(inputs["text"]), shards, devices, device, resume)
        return execute(run, first=first)
    finally:
        journal.close()


def _suffix(text: Sequence[Path], shards: Path | None) -> str:
    """Runs of one recipe on different texts have different folders."""
    named = [str(p.resolve()) for p in (*text, *([shards] if shards else []))]
    return f"-{value_digest(named)[:6]}" if named else ""
