"""What a script does: it trains, calibrates, quantizes, packs and scores the recipe that it was made for.

Settings are the environment variables of the challenge. Without torchrun it is one process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.model import load_model, model_bytes
from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import file_digest, write_bytes
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import parameter_roles, read_weights
from bitgolf.pipeline.averaging import averaged_weights, write_weights
from bitgolf.pipeline.calibration import CalibrationJob, calibrate_run, remaining_seconds
from bitgolf.pipeline.code_size import CodeSize
from bitgolf.pipeline.compression import artifact_sizes
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.scoring import ScoringJob, score_on_rank
from bitgolf.pipeline.script_data import link_shards, validation_text
from bitgolf.pipeline.training import Rank, TrainingJob, make_trainer, training_limit
from bitgolf.pipeline.training_result import ReserveRecord, TrainingTime
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import encode_model
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import calibration_reserve
from bitgolf.runtime import process_group
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.training.loop import train
from bitgolf.training.setup import setup_trainer

N = TypeVar("N", int, float)


class ScriptLog:
    """Prints messages and events, and appends them to a file, on rank 0; the other ranks are silent."""

    stop = None  # nobody observes a script

    def __init__(self, file: Path | None) -> None:
        self.file = file

    def info(self, message: str, *, record: bool = True) -> None:
        if self.file:
            print(message, flush=True)
            with self.file.open("a", encoding="utf-8") as handle:
                handle.write(message + "\n")

    def event(self, kind: str, **fields: Any) -> None:
        self.info(" ".join([kind, *(f"{key}:{value}" for key, value in fields.items())]))

    def detail(self, message: str) -> None:
        pass

    def progress(self, progress: Any) -> None:
        pass

    end_progress = close = lambda self: None


class ScriptSettings(NamedTuple):
    """What the environment states. steps, seconds: limits of training in place of the recipe's, None if not given."""

    seed: int
    run: str
    shards: Path
    tokenizer: Path
    steps: int | None
    seconds: float | None


def read_settings(environment: Mapping[str, str]) -> ScriptSettings:
    """Return the settings of the challenge's environment variables. Raises `UsageError` for one that cannot be used."""
    seed = _number(environment, "SEED", int) or 0
    run = environment.get("RUN_ID", f"seed{seed}")
    if run in ("", ".", "..") or "/" in run or "\0" in run:
        raise UsageError(f"RUN_ID must be the name of a folder below runs/, got {run!r}")
    shards = Path(environment.get("DATA_PATH", "data"))
    tokenizer = Path(environment.get("TOKENIZER_PATH", shards / "tokenizer.model"))
    for split in ("train", "val"):
        if not any(shards.glob(f"*{split}*.bin")):
            raise UsageError(f"DATA_PATH must be a folder with {split} shards (*{split}*.bin), got {str(shards)!r}")
    if not tokenizer.is_file():
        raise UsageError(f"TOKENIZER_PATH must be the file of the shards' tokenizer, got {str(tokenizer)!r}")
    steps, seconds = _number(environment, "ITERATIONS", int), _number(environment, "MAX_WALLCLOCK_SECONDS", float)
    return ScriptSettings(seed, run, shards, tokenizer, steps, seconds)


def _number(environment: Mapping[str, str], name: str, kind: type[N]) -> N | None:
    """Return the number of a variable, None if it is not set. Raises `UsageError` unless it is finite and at least 0."""
    if name not in environment:
        return None
    try:
        value = kind(environment[name])
    except ValueError:
        value = None
    if value is None or not 0 <= value < 2**63:
        words = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} must be {words} of at least 0, got {environment[name]!r}")
    return value


def limited(recipe: Spec[Recipe], settings: ScriptSettings) -> Spec[Recipe]:
    """Return the recipe with the limits of training that are given.

    Raises `UsageError` if nothing ends training, or calibration would take up all of its time.
    """
    for path, value in (("train.steps", settings.steps), ("train.seconds", settings.seconds)):
        if value is not None:
            recipe = recipe.set(path, value)
    if not (recipe["train.steps"] or recipe["train.seconds"]):
        raise UsageError("ITERATIONS and MAX_WALLCLOCK_SECONDS are both 0 or not set, so nothing ends training")
    reserve = calibration_reserve(recipe) or 0.0
    if 0 < recipe["train.seconds"] <= reserve:
        raise UsageError(f"MAX_WALLCLOCK_SECONDS must be above the {reserve:g} s that are reserved for calibration")
    return recipe


class Program:
    """One run of a script: its recipe with the settings of the environment, its folder, and its process."""

    def __init__(self, recipe: Spec[Recipe], settings: ScriptSettings, distributed: DistributedContext) -> None:
        self.recipe, self.settings, self.distributed = recipe, settings, distributed
        self.first, self.seed = distributed.rank == 0, settings.seed
        self.folder = Path("runs") / settings.run
        self.files, self.data = RunFiles(self.folder), self.folder / "data"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log: Any = ScriptLog(self.folder / "train.log" if self.first else None)

    def run(self, code_bytes: int) -> None:
        """Run all stages. code_bytes: size of the script."""
        if self.first:
            link_shards(self.settings.shards, self.settings.tokenizer, self.data)
        self._wait()
        trained = self._train()
        self._wait()
        if self.recipe().calibrate:
            seconds = remaining_seconds(self.recipe().train().seconds, trained)
            job = CalibrationJob(
                recipe=self.recipe, data=self.data, folder=self.folder, inputs_digest="", max_seconds=seconds
            )
            calibrate_run(job, self.log)
        if self.first:
            self._pack(code_bytes)
        self._wait()
        self._score()

    def _train(self) -> TrainingTime:
        """Train, and write the averaged weights."""
        job = TrainingJob(recipe=self.recipe, data=self.data, folder=self.folder, seed=self.seed)
        rank = Rank(self.distributed, select_device(self.distributed.local_rank), self.log)
        limit, reserve = training_limit(job, rank)
        trainer, _ = make_trainer(job, rank)
        setup_trainer(trainer, self.log)
        reached = train(trainer, self.folder, self.log.event, resume=False, limit=limit)
        trainer.close()
        if self.first:
            live = {path: p.detach().cpu() for path, p in trainer.params.items()}
            state = {name: [tensor.cpu() for tensor in tensors] for name, tensors in trainer.average_state.items()}
            write_weights(self.files.averaged, averaged_weights(live, state, self.recipe().average))
        return TrainingTime(
            training_seconds=reached.training_seconds,
            time_limit_seconds=reached.time_limit,
            calibration_reserve=reserve and ReserveRecord(*reserve),
        )

    def _pack(self, code_bytes: int) -> None:
        """Quantize the averaged weights and write the artifact. Raises `BitgolfError` if it is over the cap."""
        recipe, manifest = self.recipe(), load_manifest(self.data)
        roles = parameter_roles(build_on_meta(recipe.model, manifest.vocab, manifest.bos))
        stats = load_calibration(self.files.calibration) if recipe.calibrate else None
        session = EncodingSession(device=select_device().torch_device)
        weights = read_weights(self.files.averaged, stage="average")
        codes = encode_model(weights, roles, recipe.quantize, stats, session)
        codes = {path: codes[path] for path in sorted(codes)}
        data = model_bytes(self.recipe, codes, (self.data / "tokenizer.model").read_bytes())
        sizes = artifact_sizes(read_artifact(data), recipe.pack(), CodeSize(code_bytes))
        write_bytes(self.files.artifact, data)
        self.log.info(f"Code size: {code_bytes} bytes")
        self.log.info(f"Total submission size: {sizes.model + code_bytes} bytes")
        self.log.info(f"artifact digest:{file_digest(self.files.artifact)} model_bytes:{sizes.model}")
        if sizes.total > sizes.cap:
            raise BitgolfError(f"the submission is {sizes.total - sizes.cap:,} bytes over the cap of {sizes.cap:,}")

    def _score(self) -> None:
        job = ScoringJob(artifact=self.files.artifact, text=validation_text(self.data), methods=self.recipe().score)
        for result in score_on_rank(job, load_model(self.files.artifact), self.log):
            loss = result.bits / result.targets * 0.6931471805599453
            self.log.info(
                f"final_{result.method} val_loss:{loss:.8f} val_bpb:{result.bpb:.8f} eval_time:{result.seconds * 1000:.0f}ms"
            )
            self.log.event("score", method=result.method, bits=repr(result.bits), bytes=result.bytes)

    def _wait(self) -> None:
        """Wait until all processes are here."""
        if self.distributed.backend:
            dist.barrier()


def main(recipe: dict[str, Any]) -> None:
    """Run the recipe of a script. An error that a user can mend is one line, of the first process, and status 1."""
    try:
        settings = read_settings(os.environ)
        wanted = limited(from_json(recipe), settings)
        with process_group.joined() as distributed:
            Program(wanted, settings, distributed).run(Path(sys.argv[0]).stat().st_size)
    except BitgolfError as error:
        if not error.message:  # of a check whose message a script does not contain
            raise
        sys.exit(1 if process_group.rank_from_environment() else f"{Path(sys.argv[0]).name}: {error.message}")
