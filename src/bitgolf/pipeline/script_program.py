"""What a script does: it trains, calibrates, quantizes, packs and scores the recipe that it was made for.

Settings are the environment variables of the challenge. Without torchrun it is one process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.model import load_model, model_bytes
from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import BitgolfError
from bitgolf.files import file_digest, write_bytes
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import parameter_roles, read_weights
from bitgolf.pipeline.averaging import write_averages
from bitgolf.pipeline.calibration import CalibrationJob, calibrate_run, remaining_seconds
from bitgolf.pipeline.code_size import CodeSize
from bitgolf.pipeline.compression import artifact_sizes
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.scoring import ScoringJob, score_on_rank
from bitgolf.pipeline.script_data import link_shards, validation_text
from bitgolf.pipeline.training import TrainingJob, train_rank
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import encode_model
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime import process_group
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.training import checkpoint


class ScriptLog:
    """Prints messages and events, and appends them to a file, on rank 0; the other ranks are silent."""

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


class Program:
    """One run of a script: its recipe with the settings of the environment, its folder, and its process."""

    def __init__(self, recipe: Spec[Recipe], distributed: DistributedContext) -> None:
        settings = os.environ
        for variable, path, kind in (
            ("ITERATIONS", "train.steps", int),
            ("MAX_WALLCLOCK_SECONDS", "train.seconds", float),
        ):
            if variable in settings:
                recipe = recipe.set(path, kind(settings[variable]))
        self.recipe, self.distributed, self.first = recipe, distributed, distributed.rank == 0
        self.seed = int(settings.get("SEED", "0"))
        self.folder = Path("runs") / settings.get("RUN_ID", f"seed{self.seed}")
        self.files, self.data = RunFiles(self.folder), self.folder / "data"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log: Any = ScriptLog(self.folder / "train.log" if self.first else None)

    def run(self, code_bytes: int) -> None:
        """Run all stages. code_bytes: size of the script."""
        if self.first:
            shards = Path(os.environ.get("DATA_PATH", "data"))
            link_shards(shards, Path(os.environ.get("TOKENIZER_PATH", shards / "tokenizer.model")), self.data)
        self._wait()
        trained = train_rank(
            TrainingJob(recipe=self.recipe, data=self.data, folder=self.folder, seed=self.seed), self.log
        )
        if self.first:
            last = checkpoint.load_latest(self.files.checkpoints)
            assert last
            write_averages(last, self.recipe().average, self.files)
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
    """Run the recipe of a script."""
    with process_group.joined() as distributed:
        Program(from_json(recipe), distributed).run(Path(sys.argv[0]).stat().st_size)
