"""A run's trained weights packed once more, without training: to a cap, or for a look at other settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from bitgolf import __version__
from bitgolf.artifact.container import Artifact, read_artifact
from bitgolf.artifact.model import SLICES, packed
from bitgolf.commands.show import HEADER
from bitgolf.commands.size_search import TOLERANCE, SizeModel, bytes_per_log2, scale_range, scale_steps, search_size
from bitgolf.config.edits import diff
from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.errors import DamagedError, UsageError
from bitgolf.files import file_digest, read_json, value_digest, write_json
from bitgolf.model.parameters import roles
from bitgolf.pack.streams import Code
from bitgolf.pipeline.execute import STAGES, Run
from bitgolf.pipeline.stages import empty_model, pack, quantize_inputs
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.codecs.session import Session
from bitgolf.quantize.encoding import Rules, encode_all, report, save_codes
from bitgolf.quantize.size_forecast import forecast
from bitgolf.quantize.stats import Stats
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import Journal
from bitgolf.runtime.device import choose


class Trained:
    """What training and calibration left in a run's folder, which is not changed: all that the later stages need.

    Raises `UsageError` where the folder is no run that has come so far.
    """

    def __init__(self, folder: Path, journal: Journal) -> None:
        if not (folder / "recipe.json").exists() or not (folder / "inputs.json").exists():
            raise UsageError("this is no run's folder", place=str(folder), mend="`bitgolf run RECIPE` makes one")
        recipe, inputs = from_json(read_json(folder / "recipe.json")), read_json(folder / "inputs.json")
        shards = Path(inputs["shards"]) if inputs["shards"] else None
        self.run = Run(recipe, folder, journal, inputs["seed"], tuple(inputs["text"]), shards)
        if (folder / "stages.json").exists():
            self.run.done = read_json(folder / "stages.json")
        if "calibrate" not in self.run.done:
            raise UsageError(
                "this run has no weights yet that are averaged and calibrated",
                place=str(folder),
                mend=f"`bitgolf run {folder}` goes on with it",
            )
        quantize_inputs(self.run)  # raises for files that are missing

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.run.folder / "averaged.safetensors")

    @cached_property
    def stats(self) -> dict[str, Stats] | None:
        return load_calibration(self.run.folder / "calibration.safetensors") if self.run.recipe["calibrate"] else None

    @cached_property
    def tokenizer(self) -> bytes:
        return (self.run.data / "tokenizer.model").read_bytes()

    @cached_property
    def roles(self) -> dict[str, str]:
        return roles(empty_model(self.run))

    @property
    def sizes(self) -> dict[str, int]:
        return {path: w.numel() for path, w in self.weights.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {path: tuple(w.shape) for path, w in self.weights.items()}

    def encode(self, recipe: Spec[Recipe]) -> dict[str, Code]:
        """The codes that the recipe's rules make; a line of progress now and then."""

        def progress(done: int, of: int) -> None:
            self.run.journal.progress(f"encode: {done:,} of {of:,} weights")

        return encode_all(self.weights, self.roles, recipe["quantize"], self._placed, self._session, progress=progress)

    @cached_property
    def _placed(self) -> dict[str, Stats] | None:
        """The statistics on the device, once, so that their Hessians are factored once for all that is encoded."""
        return None if self.stats is None else self._session.placed(self.stats)

    @cached_property
    def _session(self) -> Session:
        """One for all that is encoded of these weights."""
        session = Session(device=choose().device)
        self.run.journal.say(session.remark)
        return session

    def forecast(self) -> int:
        """Bytes of the model alone, from the recipe and no weight."""
        settings = self.run.recipe["pack"]()
        groups = settings.grouped(self.roles)
        found = forecast(self.shapes, self.roles, self.run.recipe["quantize"], settings.coder, groups)
        return sum(found.values()) + HEADER


# ---- to a cap ------------------------------------------------------------------------------------------------------


def pack_to(folder: Path, cap: int | None = None, *, self_contained: bool = False) -> dict[str, Any]:
    """Quantize and pack a run anew, with the steps at which its artifact has at most `cap` bytes and hardly fewer.

    cap: None is the recipe's own. It counts the model as the challenge does, or all of the file (`self_contained`).
    The folder then is that of a run with these settings, whose score is not fresh.
    """
    journal = Journal(folder) if (folder / "recipe.json").exists() else Journal()
    try:
        trained = Trained(folder, journal)
        return _Fitting(trained, cap or trained.run.recipe["pack.cap"], self_contained).done()
    finally:
        journal.close()


class _Fitting:
    """The search for one cap; keeps the codes of the best settings that it met."""

    def __init__(self, trained: Trained, cap: int, self_contained: bool) -> None:
        self.trained, self.cap, self.self_contained = trained, cap, self_contained
        self.run, self.journal, self.tried = trained.run, trained.run.journal, 0
        self.best: tuple[int, Spec[Recipe], dict[str, Code]] | None = None

    def done(self) -> dict[str, Any]:
        started, rules = time.perf_counter(), self.run.recipe["quantize"]
        found = search_size(self._size, self.cap, self._line(), scale_range(rules))
        self._write()
        under = self.cap - found.best.bytes
        if under > TOLERANCE * self.cap:
            message = f"no setting came nearer to the cap than {under:,} bytes: so small a file moves in leaps"
            self.journal.event("warning", message=message)
        return {
            "run": str(self.run.folder),
            "cap": self.cap,
            "counted": "file" if self.self_contained else "model",
            "bytes": found.best.bytes,
            "bytes_under_cap": under,
            "within_tolerance": under <= TOLERANCE * self.cap,
            "log2_step_scale": found.best.log2_step_scale,
            "settings": _settings(rules, self.run.recipe["quantize"]),
            "probes": [probe._asdict() for probe in found.probes],
            "seconds": round(time.perf_counter() - started, 2),
        }

    def _line(self) -> SizeModel:
        """Where the search begins: at what the run was packed to, or else at a forecast."""
        recipe = self.run.recipe
        moved = bytes_per_log2(recipe["quantize"], self.trained.roles, self.trained.sizes)
        line = SizeModel(moved, TOLERANCE * self.cap)
        with suppress(DamagedError):  # or none at all, which is no worse
            artifact = read_artifact(self.run.folder / "artifact.bg")
            whole = recipe.to_json()
            if "pack" in self.run.done and artifact.recipe == {name: whole[name] for name in SLICES}:
                line.points.append((0.0, self._counted(artifact)))
                return line
        line.forecast = (0.0, self.trained.forecast() + self.self_contained * len(self.trained.tokenizer))
        return line

    def _size(self, log2_step_scale: float, predicted: int) -> int:
        self.tried += 1
        self.journal.say(f"probe {self.tried}: step scale 2^{log2_step_scale:+.4f}, predicted {predicted:,} bytes …")
        rules = scale_steps(self.run.recipe["quantize"], log2_step_scale)
        recipe = self.run.recipe.set("quantize", rules).set("pack.cap", self.cap)
        codes = self.trained.encode(recipe)
        size = self._counted(packed(recipe, codes, self.trained.tokenizer))
        if size <= self.cap and (self.best is None or size > self.best[0]):
            self.best = size, recipe, codes
        where = f"{abs(self.cap - size):,} bytes {'under' if size <= self.cap else 'over'} the cap"
        self.journal.say(f"probe {self.tried}: {size:,}, {where}; the forecast was off by {predicted / size - 1:+.2%}")
        self.journal.event("probe", log2_step_scale=log2_step_scale, predicted_bytes=predicted, bytes=size)
        return size

    def _counted(self, artifact: Artifact) -> int:
        return artifact.bytes - (0 if self.self_contained else len(artifact.sections["tokenizer"].data))

    def _write(self) -> None:
        """The folder as the stages `quantize` and `pack` would leave it, but for the encoding, which is done."""
        assert self.best is not None
        run, (_, run.recipe, codes) = self.run, self.best
        weights, kinds = self.trained.weights, self.trained.roles

        def quantize() -> dict[str, Any]:
            rows = report(weights, codes, kinds, run.recipe["quantize"])
            save_codes(run.folder / "codes" / "codes.safetensors", codes)
            write_json(run.folder / "codes" / "report.json", [row._asdict() for row in rows])
            return {"tensors": len(codes)}

        self._stage("quantize", lambda: quantize_inputs(run), quantize)
        self._stage("pack", lambda: pack_inputs(run), lambda: pack(run))

    def _stage(self, stage: str, inputs: Callable[[], Any], work: Callable[[], dict[str, Any]]) -> None:
        """A stage as the pipeline does it: what it and later ones left before no longer counts, even if it fails."""
        run = self.run
        run.done = {s: r for s, r in run.done.items() if STAGES.index(s) < STAGES.index(stage)}
        write_json(run.folder / "stages.json", run.done)
        write_json(run.folder / "recipe.json", run.recipe.to_json())
        started, key = time.perf_counter(), value_digest([stage, __version__, inputs()])
        outcome = work()
        run.done[stage] = {"key": key, "seconds": round(time.perf_counter() - started, 2), **outcome}
        write_json(run.folder / "stages.json", run.done)


def pack_inputs(run: Run) -> list[Any]:
    return [file_digest(run.folder / "codes" / "codes.safetensors"), run.slice(*SLICES)]


def _settings(before: Rules, after: Rules) -> list[dict[str, Any]]:
    """What has moved, by its path in the recipe."""
    return [
        {"path": f"quantize.{i}.{path}", "before": old, "after": new}
        for i, (a, b) in enumerate(zip(before, after, strict=True))
        for path, old, new in diff(a, b)
    ]
