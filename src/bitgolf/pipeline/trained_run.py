"""A trained and calibrated run, read from its folder, to quantize it again without training."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from torch import Tensor

from bitgolf.artifact.container import CONTAINER_OVERHEAD_BYTES
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.model.parameters import parameter_roles, read_weights
from bitgolf.pack.streams import EncodedTensor
from bitgolf.pipeline.compression import load_meta_model, quantize_inputs
from bitgolf.pipeline.outputs import check_outputs
from bitgolf.pipeline.state import open_run
from bitgolf.pipeline.tuning import tuned_codes
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import encode_model
from bitgolf.quantize.size_forecast import forecast_bytes
from bitgolf.quantize.stats import MatrixStats
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.report.progress import WorkProgress


class TrainedRun:
    """A run whose weights are averaged and calibrated. Its folder is not changed.

    session: used for all encodings of these weights. Raises `UsageError` if the folder is not a run or has not
    completed the stage `calibrate`, and `CorruptFileError` if a file is missing or has changed.
    """

    def __init__(self, folder: Path, log: RunLog, session: EncodingSession) -> None:
        self.run, self.session = open_run(folder, log), session
        if "calibrate" not in self.run.completed:
            raise UsageError(
                "this run has no weights yet that are averaged and calibrated",
                where=str(folder),
                hint=f"`bitgolf run {folder}` continues it",
            )
        quantize_inputs(self.run)  # raises if a file is missing
        check_outputs(self.run, *(stage for stage in ("average", "calibrate") if stage in self.run.completed))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Averaged weights by path."""
        return read_weights(self.run.files.averaged, stage="average")

    @cached_property
    def stats(self) -> dict[str, MatrixStats] | None:
        """Calibration statistics by path; None if the recipe has no calibration."""
        return load_calibration(self.run.files.calibration) if self.run.recipe().calibrate else None

    @cached_property
    def tokenizer(self) -> bytes:
        """The serialized tokenizer."""
        return (self.run.data_folder / "tokenizer.model").read_bytes()

    @cached_property
    def roles(self) -> dict[str, str]:
        """Role of each parameter, by path."""
        return parameter_roles(load_meta_model(self.run))

    @property
    def sizes(self) -> dict[str, int]:
        """Number of elements of each tensor, by path."""
        return {path: w.numel() for path, w in self.weights.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, by path."""
        return {path: tuple(w.shape) for path, w in self.weights.items()}

    def encode(self, recipe: Spec[Recipe]) -> dict[str, EncodedTensor]:
        """Encode the weights by the rules of `recipe`, and tune its float parameters if it says so; logs progress.

        Returns arrays by path.
        """
        progress = WorkProgress(self.run.log.progress, "quantize", "weights").update
        rules = recipe().quantize
        codes = encode_model(self.weights, self.roles, rules, self._device_stats, self.session, progress=progress)
        return tuned_codes(self.run, recipe, self.weights, codes)

    @cached_property
    def _device_stats(self) -> dict[str, MatrixStats] | None:
        """The statistics on the device, cached so that all encodings share the factorizations of their Hessians."""
        return None if self.stats is None else self.session.to_device(self.stats)

    def forecast(self) -> int:
        """Forecast of the artifact's bytes without the tokenizer, from the recipe alone."""
        recipe = self.run.recipe()
        settings = recipe.pack()
        groups = settings.groups_by_path(self.roles)
        found = forecast_bytes(self.shapes, self.roles, recipe.quantize, settings.coder, groups)
        return sum(found.values()) + CONTAINER_OVERHEAD_BYTES
