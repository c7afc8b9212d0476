"""TensorBoard, Weights & Biases and Trackio themselves: what a run sends is read back from their files."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

CONFIG = {"recipe": "toy", "hash": "abc", "seed": 0, "settings": {"part": "Recipe", "train": {"steps": 3}}}
EVENTS: list[dict[str, Any]] = [
    {"event": "training", "steps": 3, "time_limit_seconds": 4.0, "parameters": 10},
    *({"event": "step", "step": i, "loss": 5.0 - i, "tokens": 10 * i, "training_seconds": 0.5 * i} for i in (1, 2, 3)),
    {"event": "validation", "step": 3, "bpb": 2.5, "loss": 1.25},
    {"event": "stage_done", "stage": "train", "seconds": 1.5},
    {
        "event": "result",
        "steps": 3,
        "bpb": {"trained": 2.5, "sliding": None},
        "bytes": {"total": 1000, "code": None},
        "fits": True,
    },
]
RESUMED: list[dict[str, Any]] = [
    {"event": "resume", "step": 2, "training_seconds": 1.0, "time_limit_seconds": 4.0},
    {"event": "step", "step": 3, "loss": 1.0, "tokens": 30, "training_seconds": 1.5},
    EVENTS[-1],
]
PROGRAM = """
import json, sys, warnings
from bitgolf.tracking.choose import make_trackers
from bitgolf.tracking.observer import TrackingObserver
from bitgolf.tracking.tracker import TrackedRun
trackers, config, *runs = map(json.loads, sys.argv[1:])
for events in runs:
    failures = []
    run = TrackedRun("toy-run", config)
    observer = TrackingObserver(make_trackers(trackers), run, failures.append, lambda *now: {"matrix": 0.1 * now[0]})
    for event in events:
        assert observer(event) is None
    observer.finish()
    assert not failures, failures
"""
VALUES = {
    "train/loss": [(1, 4.0), (2, 3.0), (3, 2.0)],
    "train/tokens": [(1, 10), (2, 20), (3, 30)],
    "train/seconds": [(1, 0.5), (2, 1.0), (3, 1.5)],
    "learning_rate/matrix": [(1, 0.1), (2, 0.2), (3, 0.3)],
    "validation/bpb": [(3, 2.5)],
    "validation/loss": [(3, 1.25)],
    "seconds/train": [(3, 1.5)],
    "bpb/trained": [(3, 2.5)],
    "bytes/total": [(3, 1000)],
}


def needs(package: str) -> Any:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"needs the extra `{package}`")


def send(folder: Path, tracker: str, *runs: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Send the events of one run after the other to a tracker, in a Python of its own. Nothing reaches standard output."""
    environment = {
        **os.environ,
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_DIR": str(folder),
        "HF_HUB_OFFLINE": "1",
    }
    words = [json.dumps(value) for value in ([tracker], CONFIG, *runs)]
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr[-3000:]
    return done


def rounded(found: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    return {name: [(step, round(value, 6)) for step, value in values] for name, values in found.items()}


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path: Path) -> None:
    send(tmp_path, f"tensorboard:{tmp_path}/board", EVENTS)
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    def read() -> Any:
        board = EventAccumulator(str(tmp_path / "board" / "toy-run"))
        board.Reload()
        return board

    board = read()
    found = {name: [(row.step, row.value) for row in board.Scalars(name)] for name in board.Tags()["scalars"]}
    assert rounded(found) == rounded(VALUES)
    (text,) = board.Tensors("config/text_summary")
    assert (
        json.loads(text.tensor_proto.string_val[0].decode().removeprefix("```json\n").removesuffix("\n```")) == CONFIG
    )
    send(tmp_path, f"tensorboard:{tmp_path}/board", RESUMED)
    assert [(row.step, row.value) for row in read().Scalars("train/loss")] == [(1, 4.0), (2, 3.0), (3, 1.0)]
    send(tmp_path, f"tensorboard:{tmp_path}/board", EVENTS[-1:])
    board = read()
    assert len(board.Scalars("train/loss")) == 3, "a result alone hides nothing"
    assert [(row.step, row.value) for row in board.Scalars("bpb/trained")][-1] == (3, 2.5)


def wandb_records(file: Path) -> Iterator[bytes]:
    """The records of a file of W&B: blocks of 32 KiB, in which records may be divided, after a header of 7 bytes."""
    data, at, record = file.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@needs("wandb")
def test_weights_and_biases_offline(tmp_path: Path) -> None:
    send(tmp_path, "wandb:golf", EVENTS, RESUMED)
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1, "a run that is continued keeps its identifier"
    reader = """
import json, sys
from wandb.proto import wandb_internal_pb2
rows, run = [], None
for data in json.load(sys.stdin):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(bytes.fromhex(data))
    if record.WhichOneof("record_type") == "history":
        rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    if record.WhichOneof("record_type") == "run":
        run = run or record.run
config = {i.key: json.loads(i.value_json) for i in run.config.update}
print(json.dumps([rows, run.project, run.display_name, config]))
"""
    records = json.dumps([record.hex() for file in files[:1] for record in wandb_records(file)])
    command = [sys.executable, "-c", reader]
    done = subprocess.run(command, input=records, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, project, name, config = json.loads(done.stdout)
    assert (project, name) == ("golf", "toy-run") and CONFIG.items() <= config.items()
    found = dict[str, list[tuple[int, float]]]()
    for row in rows:
        for key, value in row.items():
            if "/" in key:
                found.setdefault(key, []).append((row["step"], value))
    assert rounded(found) == rounded(VALUES)


@needs("trackio")
def test_trackio(tmp_path: Path) -> None:
    send(tmp_path, "trackio:golf", EVENTS, RESUMED)
    reader = """
import json
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps([SQLiteStorage.get_runs("golf"), SQLiteStorage.get_logs("golf", "toy-run")]))
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run([sys.executable, "-c", reader], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs, rows = json.loads(done.stdout)
    assert runs == ["toy-run"]
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [
        (1, 4.0), (2, 3.0), (3, 2.0), (3, 1.0)
    ]  # fmt: skip
    assert [row["bpb/trained"] for row in rows if "bpb/trained" in row] == [2.5, 2.5]
