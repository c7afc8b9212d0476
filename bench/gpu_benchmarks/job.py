"""The options of `bench/gpu.py` as a JSON file that the process of every benchmark reads, and the paths of files."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RECIPE = "pr1855"
GPUS = 8
"""Number of GPUs of the published systems: one GPU has the global batch divided by this."""


@dataclass(frozen=True)
class BenchmarkJob:
    """Options of `bench/gpu.py`. Paths are absolute; an empty string means that the option was not given.

    training_seconds: training time of the benchmark `full_run`. toy: tiny models and little text, for a CPU. deadline:
    time at which this benchmark must end, in seconds of `time.time()`.
    """

    out: str
    training_seconds: float
    text: str = ""
    tokenizer: str = ""
    shards: str = ""
    reference: str = ""
    commit: str = ""
    toy: bool = False
    deadline: float = 0.0

    @property
    def folder(self) -> Path:
        """Folder of all outputs."""
        return Path(self.out)

    @property
    def results(self) -> Path:
        """File of the results of all benchmarks, as JSON lines."""
        return self.folder / "gpu.jsonl"

    @property
    def machine(self) -> Path:
        """JSON file with device and versions, written by `prepare`."""
        return self.folder / "machine.json"

    @property
    def data(self) -> Path:
        """Folder of shards, tokenizer and manifest."""
        return Path(self.shards) if self.shards else self.folder / "data"

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def save(self, path: Path) -> None:
        """Write the job as JSON."""
        path.write_text(json.dumps(asdict(self)))


def load(path: Path) -> BenchmarkJob:
    """Read a job written by `BenchmarkJob.save`."""
    return BenchmarkJob(**json.loads(path.read_text()))
