"""`bitgolf check`: folders below folders, the summary, JSON, exit status, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitgolf.submission import folder
from helpers.command_line import run_command


def write_record(folder: Path, bpb: str = "1.2345") -> Path:
    """Write a record folder whose log says 1.2345, and which claims `bpb`."""
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(f'{{\n "val_bpb": {bpb}\n}}\n')
    (folder / "README.md").write_text("x\n")
    (folder / "train_gpt.py").write_text("import os\nWARM = os.environ.get('WARM')\n")
    (folder / "train.log").write_text("seed:1\nfinal val_bpb:1.2345\n")
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder with three record folders at different depths, of which the second claims what no log has."""
    write_record(tmp_path / "a" / "right")
    write_record(tmp_path / "b" / "wrong", "1.0512")
    write_record(tmp_path / "right")
    return tmp_path


def test_one_folder_shows_all_findings(archive: Path) -> None:
    result = run_command("check", str(archive / "right"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{archive / 'right'}: 1 warning",
        "  warning unread-option: train_gpt.py:2: The option WARM sets WARM, which nothing reads.",
    ]


def test_several_folders_show_errors_and_a_summary(archive: Path) -> None:
    result = run_command("check", str(archive))
    assert result.returncode == 1
    assert "error claim-not-in-logs: submission.json:2: val_bpb is 1.0512" in result.stdout
    assert "warning unread-option" not in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["unread-option", "warning", "3", "3"] in rows and ["claim-not-in-logs", "error", "1", "1"] in rows


def test_a_severity_can_be_chosen(archive: Path) -> None:
    assert run_command("check", str(archive), "--least", "warning").stdout.count("warning unread-option") == 3
    wrong = run_command("check", str(archive), "--least", "worst")
    assert (wrong.returncode, wrong.stdout) == (2, "") and "error, warning or note, got 'worst'" in wrong.stderr


def test_json_has_every_finding(archive: Path) -> None:
    result = run_command("check", str(archive), "--json", "--processes", "2")
    document = json.loads(result.stdout)
    assert result.returncode == 1 and document["passes"] is False
    folders = [Path(record["folder"]).relative_to(archive).as_posix() for record in document["records"]]
    assert folders == [
        "a/right",
        "b/wrong",
        "right",
    ]
    found = document["records"][1]["findings"][0]
    assert (found["rule"], found["path"], found["line"]) == ("claim-not-in-logs", "submission.json", 2)


def test_what_is_no_folder_is_named(archive: Path) -> None:
    for path in (archive / "none", archive / "right" / "train.log"):
        result = run_command("check", str(path))
        assert result.returncode == 2 and str(path) in result.stderr and "not a folder" in result.stderr


def test_a_folder_without_records_lacks_everything(tmp_path: Path) -> None:
    result = run_command("check", str(tmp_path))
    assert result.returncode == 1 and "missing-claims" in result.stdout and "missing-script" in result.stdout


def test_a_whole_file_system_is_not_searched(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MOST_SEARCHED", 3)
    result = run_command("check", str(archive))
    assert result.returncode == 2 and "more than 3 folders below it" in result.stderr
