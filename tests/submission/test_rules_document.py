"""docs/rules.md names every rule with its severity, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from bitgolf.submission.rules import RULES

TEXT = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
ROWS = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (.*) \| (.*)\|$", TEXT, re.MULTILINE)


def test_each_rule_is_explained_with_its_severity() -> None:
    assert {(name, severity) for name, severity, *_ in ROWS} == {(rule.name, rule.severity) for rule in RULES}
    assert len(ROWS) == len(RULES)


def test_each_rule_says_why_it_exists() -> None:
    assert all(why.strip().endswith(".") for _, _, why, _ in ROWS)


def test_names_of_rules_are_unique() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
