"""What the command was asked for, as JSON that every part's process reads, and where the parts keep their files."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RECIPE = "pr1855"
GPUS = 8
"""Published systems trained on so many GPUs; one of them has this share of the global batch."""


@dataclass(frozen=True)
class Job:
    """The command's options. Paths are absolute; an empty string means that the option was not given.

    clock: training seconds of the part `run`. toy: tiny models and little text, for a CPU. deadline: when this part
    must be done, in seconds of `time.time()`.
    """

    out: str
    clock: float
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
        """JSON lines of all parts."""
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
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def load(path: Path) -> Job:
    return Job(**json.loads(path.read_text()))
