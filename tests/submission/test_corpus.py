"""Each planted fault is found by its rule at its line; the variant without it has neither that finding nor an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitgolf.submission.check import CheckedRecord, check_record
from bitgolf.submission.finding import Record
from bitgolf.submission.folder import RecordFolder
from bitgolf.submission.rules import RULES

from .base_folder import NAME, base_folder
from .corpus import CASES, Case, Change


def write_folder(root: Path, changes: list[Change]) -> Path:
    """Write the base folder with changes below `root`, and return it."""
    files = base_folder()
    for name, old, new in changes:
        if new is None:
            del files[name]
        elif old:
            assert old in files[name], (name, old)
            files[name] = files[name].replace(old, new)
        else:
            files[name] = files[new.split()[1]] if new.startswith("COPY ") else new
    for name, text in files.items():
        path = root / NAME / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / NAME


def check(root: Path, changes: list[Change]) -> CheckedRecord:
    return check_record(write_folder(root, changes))


def line_of(folder: Path, path: str, marker: str) -> int:
    """Return the line with the marker, in the script that is unpacked if the path says so."""
    text = next((s.text for s in RecordFolder(folder).scripts if s.name == path), None) or (folder / path).read_text()
    return next(i for i, line in enumerate(text.splitlines(), 1) if marker in line)


def test_the_base_folder_has_no_finding(tmp_path: Path) -> None:
    assert check(tmp_path, []).findings == []


def test_the_corpus_is_large_and_covers_every_rule() -> None:
    assert len(CASES) >= 40
    assert {case.rule for case in CASES} == {rule.name for rule in RULES}
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_the_planted_fault_is_found_at_its_line(case: Case, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, case.faulty)
    found = [f for f in check_record(folder).findings if f.rule == case.rule]
    expected = line_of(folder, case.path, case.marker) if case.marker else 0
    assert [(f.path, f.line) for f in found][:1] == [(case.path, expected)]
    assert found[0].evidence.endswith(".") and len(found[0].evidence) < 400


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_the_variant_without_the_fault_is_clean(case: Case, tmp_path: Path) -> None:
    checked = check(tmp_path, case.clean)
    assert not [f for f in checked.findings if f.rule == case.rule]
    assert checked.passes, checked.findings


def test_findings_are_those_of_the_rules_alone(tmp_path: Path) -> None:
    """A planted fault causes no error of another rule, so an error always means what its name says."""
    for case in CASES:
        wrong = [
            f
            for f in check(tmp_path / case.name, case.faulty).findings
            if f.severity == "error" and f.rule != case.rule
        ]
        assert not wrong or case.name in ("a seed over the cap",), (case.name, wrong)


def test_nothing_in_a_folder_is_imported(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    script = f"open({str(marker)!r}, 'w')\nexec(open({str(marker)!r}, 'w'))\n"
    folder = write_folder(tmp_path, [("train_gpt.py", "", script)])
    assert Record(RecordFolder(folder)).folder.scripts
    check_record(folder)
    assert not marker.exists()
