"""The text of a run: how it is stored in `inputs.json`, and what the stage `prepare` logs about it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitgolf.config.spec import part
from bitgolf.errors import UsageError
from bitgolf.files import json_digest, read_json, write_json
from bitgolf.pipeline import execute
from bitgolf.pipeline.data import prepare, prepare_inputs
from bitgolf.pipeline.state import Run, open_run
from bitgolf.report.log import RunLog
from bitgolf.text.read_report import ReadOptions
from bitgolf.tokens.trainers import ByteLevel
from helpers.command_line import run_command
from helpers.toy import toy_recipe

LINES = "".join(json.dumps({"body": f"document {i}", "text": None}) + "\n" for i in range(20)).encode()


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """A function that does what `bitgolf run` does before the first stage; returns the run."""

    def only_begin(run: Run, **options: Any) -> Run:
        run.start_writing({})
        return run

    monkeypatch.setattr(execute, "execute", only_begin)
    recipe = toy_recipe(steps=1).set("tokens", part(ByteLevel))

    def start(*text: str, name: str = "run", **options: Any) -> Run:
        given = execute.GivenInputs([Path(path) for path in text], seed=0, **options)
        run: Any = execute.run_recipe(recipe, given, execute.ExecutionOptions(device="cpu"), out=tmp_path / name)
        write_json(run.files.recipe, recipe.to_json())
        return run

    return start


def give_standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_copied_so_that_the_run_can_be_repeated(begin, monkeypatch: pytest.MonkeyPatch) -> None:
    give_standard_input(monkeypatch, LINES)
    run = begin("-", reading=ReadOptions("body"))
    (copy,) = (run.folder / "text").iterdir()
    assert run.text_paths == (str(copy),) and copy.read_bytes() == LINES
    key = prepare_inputs(run)
    give_standard_input(monkeypatch, LINES)
    assert prepare_inputs(begin("-", reading=ReadOptions("body"))) == key
    give_standard_input(monkeypatch, b"")
    again = open_run(run.folder, RunLog(quiet=True))
    assert again.reading == ReadOptions("body") and prepare_inputs(again) == key
    assert prepare(again).tokens > 0


def test_prepare_logs_what_was_read(begin, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.bin").write_bytes(b"\0")
    run = begin(f"{tmp_path}/*.*", reading=ReadOptions("body"))
    run = Run(run.recipe, run.folder, RunLog(run.folder), text_paths=run.text_paths, reading=run.reading)
    prepare(run)
    run.log.close()
    events = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    (event,) = [event for event in events if event["event"] == "read"]
    assert event["documents"] == 20 and event["skipped"]["not text"]["first"] == [f"{tmp_path}/b.bin"]
    lines = (run.folder / "run.log").read_text()
    assert "read 20 documents from 1 file (1 jsonl)" in lines and "skipped, not text: 1" in lines


def test_the_key_is_part_of_the_inputs_of_prepare(begin, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    path = str(tmp_path / "a.jsonl")
    options = (ReadOptions(), ReadOptions("body"), ReadOptions("body", skip_null=True))
    runs = [begin(path, reading=o, name=f"run{i}") for i, o in enumerate(options)]
    assert len({json_digest(prepare_inputs(run)) for run in runs}) == 3
    stored = read_json(tmp_path / "run2" / "inputs.json")
    assert stored["reading"] == {"key": "body", "skip_null": True, "strict": False} and stored["text"] == [path]


def test_a_key_without_text_is_wrong_use(begin) -> None:
    with pytest.raises(UsageError, match="--key body: options of reading text have no effect without --text"):
        begin(reading=ReadOptions("body"))


def test_a_name_that_is_not_utf_8_is_stored_and_read(begin, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    path.write_bytes(LINES)
    run = begin(str(path), reading=ReadOptions("body"))
    opened = open_run(run.folder, RunLog(run.folder))
    assert opened.text_paths == (str(path),) and json_digest(prepare_inputs(opened))
    assert prepare(opened).tokens > 0
    opened.log.close()


def test_a_folder_of_a_run_must_have_a_name_in_utf_8(tmp_path: Path) -> None:
    out = str(tmp_path / os.fsdecode(b"caf\xe9"))
    done = run_command("run", "quickstart", "--out", out)
    assert done.returncode == 2 and "must have a name in UTF-8" in done.stderr and r"caf\xe9" in done.stderr
    assert not Path(out).exists()
