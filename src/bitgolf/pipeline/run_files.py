"""The files of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitgolf.config.requirements import CODE_FOLDER


@dataclass(frozen=True)
class RunFiles:
    """Paths of the files of a run folder; no other module has their names."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """The recipe as JSON."""
        return self.folder / "recipe.json"

    @property
    def inputs(self) -> Path:
        """`RunInputs`: text or shards, seed, and format of the folder."""
        return self.folder / "inputs.json"

    @property
    def code(self) -> Path:
        """Folder with copies of the user's code files that the recipe needs. They are read only if a user names them."""
        return self.folder / CODE_FOLDER

    @property
    def stages(self) -> Path:
        """Key, seconds and outcome of each completed stage."""
        return self.folder / "stages.json"

    @property
    def stopped(self) -> Path:
        """Why an observer stopped the run; it exists until a stage starts again."""
        return self.folder / "stopped.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of training."""
        return self.folder / "checkpoint"

    @property
    def training(self) -> Path:
        """`TrainingResult` as JSON."""
        return self.folder / "train.json"

    @property
    def prefix_scores(self) -> Path:
        """Scores of a training that a sweep has left unfinished, and continued or not."""
        return self.folder / "prefix_scores.json"

    @property
    def trained(self) -> Path:
        """Weights after the last training step."""
        return self.folder / "trained.safetensors"

    @property
    def averaged(self) -> Path:
        """Averaged weights, which are quantized."""
        return self.folder / "averaged.safetensors"

    @property
    def calibration(self) -> Path:
        """Statistics of matrices."""
        return self.folder / "calibration.safetensors"

    @property
    def codes(self) -> Path:
        """Arrays of the encoded tensors."""
        return self.folder / "codes" / "codes.safetensors"

    @property
    def tensor_reports(self) -> Path:
        """JSON rows, one per tensor: codec, bits, errors."""
        return self.folder / "codes" / "report.json"

    @property
    def artifact(self) -> Path:
        """The packed model."""
        return self.folder / "artifact.bg"

    def packed_artifact(self, cap: int, counted: str) -> Path:
        """The artifact that `pack` writes for a cap; its recipe is beside it, as .json. counted: `model` or `file`."""
        return self.folder / f"artifact-{cap}{'-file' if counted == 'file' else ''}.bg"

    @property
    def result(self) -> Path:
        """`RunResult` as JSON: the output of `run --json`."""
        return self.folder / "score.json"

    @property
    def environment(self) -> Path:
        """Machine and versions, as JSON."""
        return self.folder / "environment.json"

    @property
    def html_report(self) -> Path:
        """The result as a page."""
        return self.folder / "report.html"

    @property
    def log(self) -> Path:
        """Events, one JSON object per line."""
        return self.folder / "log.jsonl"
