"""What the command was asked for, as JSON that the process of every benchmark reads, and the paths of their files."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RECIPE = "pr1855"
GPUS = 8
"""Published systems trained on so many GPUs; one of them has this share of the global batch."""


@dataclass(frozen=True)
class BenchmarkJob:
    """The command's options. Paths are absolute; an empty string means that the option was not given.

    training_seconds: limit of the benchmark `full_run`. toy: tiny models and little text, for a CPU. deadline: when this
    benchmark must be done, in seconds of `time.time()`.
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
        return Path(self.out)

    @property
    def results(self) -> Path:
        """JSON lines of all benchmarks."""
        return self.folder / "gpu.jsonl"

    @property
    def machine(self) -> Path:
        """JSON: device and versions, as `prepare` found them."""
        return self.folder / "machine.json"

    @property
    def data(self) -> Path:
        """Shards, tokenizer and manifest."""
        return Path(self.shards) if self.shards else self.folder / "data"

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def load(path: Path) -> BenchmarkJob:
    return BenchmarkJob(**json.loads(path.read_text()))
