"""What training and calibration left in a run's folder: what quantizing it again, without training, needs."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from bitgolf.artifact.container import CONTAINER_OVERHEAD_BYTES
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.model.parameters import parameter_roles
from bitgolf.pack.streams import EncodedTensor
from bitgolf.pipeline.compression import load_meta_model, quantize_inputs
from bitgolf.pipeline.state import open_run
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import encode_model
from bitgolf.quantize.size_forecast import forecast_bytes
from bitgolf.quantize.stats import MatrixStats
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog


class TrainedRun:
    """A run whose weights are averaged and calibrated. Its folder is read, and not changed.

    session: of everything that is encoded of these weights. Raises `UsageError` where the folder is no run that has come
    so far.
    """

    def __init__(self, folder: Path, log: RunLog, session: EncodingSession) -> None:
        self.run, self.session = open_run(folder, log), session
        if "calibrate" not in self.run.completed:
            raise UsageError(
                "this run has no weights yet that are averaged and calibrated",
                where=str(folder),
                hint=f"`bitgolf run {folder}` goes on with it",
            )
        quantize_inputs(self.run)  # raises for files that are missing

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.run.files.averaged)

    @cached_property
    def stats(self) -> dict[str, MatrixStats] | None:
        return load_calibration(self.run.files.calibration) if self.run.recipe().calibrate else None

    @cached_property
    def tokenizer(self) -> bytes:
        return (self.run.data_folder / "tokenizer.model").read_bytes()

    @cached_property
    def roles(self) -> dict[str, str]:
        return parameter_roles(load_meta_model(self.run))

    @property
    def sizes(self) -> dict[str, int]:
        return {path: w.numel() for path, w in self.weights.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {path: tuple(w.shape) for path, w in self.weights.items()}

    def encode(self, recipe: Spec[Recipe]) -> dict[str, EncodedTensor]:
        """The codes that the recipe's rules make; a line of progress now and then."""

        def progress(done: int, of: int) -> None:
            self.run.log.progress(f"encode: {done:,} of {of:,} weights")

        rules = recipe().quantize
        return encode_model(self.weights, self.roles, rules, self._placed, self.session, progress=progress)

    @cached_property
    def _placed(self) -> dict[str, MatrixStats] | None:
        """The statistics on the device, once, so that their Hessians are factored once for all that is encoded."""
        return None if self.stats is None else self.session.to_device(self.stats)

    def forecast(self) -> int:
        """Bytes of the model alone, from the recipe and no weight."""
        recipe = self.run.recipe()
        settings = recipe.pack()
        groups = settings.groups_by_path(self.roles)
        found = forecast_bytes(self.shapes, self.roles, recipe.quantize, settings.coder, groups)
        return sum(found.values()) + CONTAINER_OVERHEAD_BYTES
