"""The index of runs: it follows the folders, survives damage, and lists own, unfinished, damaged and imported runs."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from bitgolf.store import index
from bitgolf.store.entry import RunEntry
from bitgolf.store.index import INDEX_FILE, read_store
from helpers.toy_run import finish


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """A store with a finished run, an unfinished one in a folder of a sweep, and a folder that is no run."""
    shutil.copytree(finished, tmp_path / "done")
    shutil.copytree(finished, tmp_path / "sweep" / "half")
    stages = json.loads((tmp_path / "sweep" / "half" / "stages.json").read_text())
    kept = {name: stage for name, stage in stages.items() if name in ("prepare", "train")}
    (tmp_path / "sweep" / "half" / "stages.json").write_text(json.dumps(kept))
    (tmp_path / "notes").mkdir()
    return tmp_path


def by_name(store: Path) -> dict[str, RunEntry]:
    return {entry.folder: entry for entry in read_store(store)}


def test_runs_are_found_with_what_is_known_of_them(store: Path) -> None:
    entries = by_name(store)
    assert list(entries) == ["done", "sweep/half"]
    result = json.loads((store / "done" / "score.json").read_text())
    done, half = entries["done"], entries["sweep/half"]
    assert (done.state, done.seed, done.recipe, done.bytes) == ("report", 0, result["recipe"], result["bytes"]["total"])
    assert done.bpb["packed"] == result["bpb"]["packed"] and done.text
    assert (half.state, half.bpb, half.best_bpb, half.recipe) == ("train", {}, None, result["recipe"])


def test_unchanged_runs_come_from_the_index(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = by_name(store), []
    real = index.read_entry
    monkeypatch.setattr(index, "read_entry", lambda folder, name: (read.append(name), real(folder, name))[1])
    assert by_name(store) == before and read == []
    result = json.loads((store / "done" / "score.json").read_text())
    (store / "done" / "score.json").write_text(json.dumps(result | {"steps": 12345}))
    assert by_name(store)["done"].steps == 12345 and read == ["done"]


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated", "other version", "other table"])
def test_a_lost_index_is_made_anew(store: Path, damage: str) -> None:
    before, path = by_name(store), store / INDEX_FILE
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage in ("garbage", "truncated"):
        path.write_bytes(b"no database" if damage == "garbage" else data[: len(data) // 2])
    else:
        with sqlite3.connect(path) as database:
            database.execute(
                "PRAGMA user_version = 99" if damage == "other version" else "ALTER TABLE runs RENAME TO a"
            )
        database.close()
    assert by_name(store) == before
    assert by_name(store) == before and path.read_bytes() == data


def test_a_removed_run_leaves_the_index(store: Path) -> None:
    by_name(store)
    shutil.rmtree(store / "done")
    assert list(by_name(store)) == ["sweep/half"]


@pytest.mark.parametrize("name", ["score.json", "stages.json", "inputs.json", "data/manifest.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{"])
def test_a_damaged_run_is_listed_as_such(store: Path, name: str, content: str) -> None:
    (store / "done" / name).write_text(content)
    (store / "done" / "stages.json").touch()
    entries = by_name(store)
    assert entries["sweep/half"].state == "train"
    assert entries["done"].state.startswith("damaged: ") or (name, content[:1]) in (
        ("stages.json", "{"),
        ("stages.json", "["),
    )


def test_a_store_that_cannot_be_written_is_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("read-only")

    monkeypatch.setattr(index.sqlite3, "connect", refuse)
    assert list(by_name(store)) == ["done", "sweep/half"] and not (store / INDEX_FILE).exists()
