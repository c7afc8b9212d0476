"""Scoring an artifact in this process, or in N that share the work: each has the whole text, and the same totals.

`python -m bitgolf.pipeline.scoring FOLDER` does the job in FOLDER (`job.json`, `tokens.npy`) and leaves `rows.json` there.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bitgolf.artifact.model import Loaded, load
from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError
from bitgolf.files import read_json, write_json
from bitgolf.report.log import Journal
from bitgolf.runtime import process_group
from bitgolf.runtime.device import Device, choose
from bitgolf.runtime.launch import launch
from bitgolf.score.document_order import Order
from bitgolf.score.evaluate import Known, measure
from bitgolf.score.execution.time_estimate import LIMIT
from bitgolf.score.methods import Method
from bitgolf.score.text import Text

Row = dict[str, Any]


class Job(NamedTuple):
    """What to score, and how. `order`: None for each method's own. `batch_tokens`: None for what the device suggests.

    `limit`: seconds for each method. `exact`: in float64 throughout, for tests.
    `device`: the kind, as `train.device.choose` takes it.
    """

    artifact: Path
    text: Text
    methods: Sequence[Spec[Method]]
    order: Spec[Order] | None = None
    batch_tokens: int | None = None
    limit: float = LIMIT
    exact: bool = False
    device: str = "auto"


def perform(job: Job, loaded: Loaded, *, processes: int = 1) -> list[Row]:
    """A row for each method, in their order. `loaded` is the job's artifact; several processes read it themselves."""
    if processes == 1:
        return score_share(job, loaded, Journal())
    with tempfile.TemporaryDirectory(prefix="bitgolf-score-") as name:
        folder = Path(name)
        _save(job, folder)
        launch(
            processes, "bitgolf.pipeline.scoring", name, folder=job.artifact, stage="scoring", again="the same command"
        )
        return read_json(folder / "rows.json")


def score_share(job: Job, loaded: Loaded, journal: Journal) -> list[Row]:
    """Score in this process's share of the world, one method after the other with the same model."""
    world = process_group.join(job.device)
    try:
        device, known = choose(world.local_rank, job.device), Known()
        model = loaded.model
        if job.exact:
            model, device = model.double(), Device(device.device, torch.float32, "in float64")
        return [
            measure(
                model,
                loaded.tokenizer.vocab,
                job.text,
                method(),
                device,
                order=job.order and job.order(),
                world=world,
                batch_tokens=job.batch_tokens,
                limit=job.limit,
                tell=journal.progress,
                known=known,
            )
            for method in job.methods
        ]
    finally:
        process_group.leave(world)


def _save(job: Job, folder: Path) -> None:
    np.save(folder / "tokens.npy", job.text.tokens)
    words = {
        "artifact": str(job.artifact.resolve()),
        "bytes": job.text.bytes,
        "bos": job.text.bos,
        "methods": [method.to_json() for method in job.methods],
        "order": job.order and job.order.to_json(),
        "batch_tokens": job.batch_tokens,
        "limit": job.limit,
        "exact": job.exact,
        "device": job.device,
    }
    write_json(folder / "job.json", words)


def _read(folder: Path) -> Job:
    words = read_json(folder / "job.json")
    text = Text(np.load(folder / "tokens.npy", allow_pickle=False), words["bytes"], words["bos"])
    methods = [from_json(method) for method in words["methods"]]
    order = from_json(words["order"]) if words["order"] else None
    settings = {name: words[name] for name in ("batch_tokens", "limit", "exact", "device")}
    return Job(Path(words["artifact"]), text, methods, order, **settings)


def main(arguments: Sequence[str]) -> int:
    """One worker; returns its exit status. Every process says what failed in it."""
    folder, rank = Path(arguments[0]), process_group.environment_rank()
    try:
        job = _read(folder)
        rows = score_share(job, load(job.artifact), Journal(quiet=rank > 0))
        if rank == 0:
            write_json(folder / "rows.json", rows)
    except BitgolfError as error:
        print(f"process {rank}: {error}" if rank else error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
