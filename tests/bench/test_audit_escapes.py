"""The benchmark of escapes writes a line for each cheat, does not repeat those it has, and prints a table."""

from __future__ import annotations

import sys
from pathlib import Path

import audit_escapes
import pytest
from result_lines import read_lines

from attacks.evaluations import suite
from attacks.evaluations.escapes import EscapeRow


def test_a_line_for_each_cheat_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [cheat for cheat in suite.CHEATS if cheat.name in ("lookahead, first half", "honest when asked")]
    monkeypatch.setattr(suite, "CHEATS", few)
    monkeypatch.setattr(sys, "argv", ["audit_escapes.py", "--seeds", "2", "--out", str(tmp_path / "out.jsonl")])
    audit_escapes.main()
    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["name"] for line in lines] == [cheat.name for cheat in few]
    assert all(line["seeds"] == 2 and line["escaped"] == 0 and line["named"] == 2 for line in lines)
    printed = capsys.readouterr().out
    assert "| lookahead, first half | 0.5 |" in printed and "0 escapes in 2 audits of 1 sampled cheats" in printed
    assert "0 in those of the other 1." in printed
    audit_escapes.main()
    assert read_lines(tmp_path / "out.jsonl") == lines and capsys.readouterr().out == printed


def test_escapes_are_set_against_what_is_stated() -> None:
    row = EscapeRow("one", 0.1, 0.02, 29, 0.05, 20, 3, 17, 40.0)
    assert "3 escapes in 20 audits of 1 sampled cheats, 1.0 stated at most" in audit_escapes.table([row])[-1]
