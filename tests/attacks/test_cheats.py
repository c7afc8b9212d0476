"""Every cheat of the suite improves the score and is rejected with the right rule; its honest counterpart passes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from attacks.evaluations.suite import (
    BUDGET,
    CHEATS,
    HONEST_CONFIGURATIONS,
    Cheat,
    MakeEvaluation,
    audit_cheat,
    between_marks,
    rules_table,
)
from bitgolf.score.audit.audit import AuditReport
from bitgolf.score.audit.findings import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text()
QUICK = BUDGET._replace(normalization_targets=1, candidates=100)  # most of the time of an audit goes into this sum


@cache
def audited(kind: MakeEvaluation) -> AuditReport:
    return audit_cheat(kind, QUICK)


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name)
def test_a_cheat_pays_and_is_rejected_by_its_right_name(cheat: Cheat) -> None:
    found, honest = audited(cheat.cheat), audited(cheat.honest)
    assert found.verdict == cheat.rule, found.findings
    assert honest.verdict == "passes" and not honest.findings
    assert found.claimed < honest.claimed - 0.002, "a cheat must improve the score"


def test_no_two_cheats_are_the_same() -> None:
    assert len({c.name for c in CHEATS}) == len({c.cheat for c in CHEATS}) == len(CHEATS) > 16
    assert {c.rule for c in CHEATS} <= RULES.keys()


def test_the_page_has_the_table_that_is_generated() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in between_marks(PAGE, "cheats").splitlines()[2:]
    ]
    assert [(row[0], row[1], row[4]) for row in rows] == [(a.name, a.description, f"`{a.rule}`") for a in CHEATS]
    assert all(float(row[2]) < float(row[3]) for row in rows)


def test_the_page_says_what_each_rule_means() -> None:
    assert between_marks(PAGE, "rules") == "\n".join(rules_table())


def test_the_page_counts_honest_configurations() -> None:
    assert f"{HONEST_CONFIGURATIONS} random configurations" in between_marks(
        PAGE, "honest"
    ) and ", 0 rejected" in between_marks(PAGE, "honest")


def test_the_example_of_the_page_runs() -> None:
    example = PAGE.partition("```python\n")[2].partition("```")[0]
    namespace: dict[str, object] = {}
    exec(compile(example, "docs/scoring.md", "exec"), namespace)
    report = namespace["report"]
    assert isinstance(report, AuditReport) and report.verdict == "lookahead" and report.claimed > 0
