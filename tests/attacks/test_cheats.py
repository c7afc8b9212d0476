"""Every cheat of the suite improves the score and is rejected by its rule alone; honest evaluations pass."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from attacks.evaluations.escapes import CHECKS, improbable_escapes, measure_escapes
from attacks.evaluations.suite import CHEATS, HONEST, Cheat, audit_on
from attacks.evaluations.tables import between_marks, rules_table
from bitgolf.score.audit.audit import AuditReport
from bitgolf.score.audit.budget import AuditBudget
from bitgolf.score.audit.findings import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text()
QUICK = AuditBudget(confidence=0.9, share=0.2)
SAMPLED = [cheat for cheat in CHEATS if cheat.share and cheat.rule in CHECKS]


@cache
def audited_honest(name: str) -> AuditReport:
    kind, corpus = HONEST[name]
    return audit_on(corpus, kind, QUICK)


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name)
def test_a_cheat_pays_and_is_rejected_by_its_right_name(cheat: Cheat) -> None:
    found = audit_on(cheat.corpus, cheat.cheat)
    assert found.verdict == cheat.rule, found.findings
    honest = next(name for name, entry in HONEST.items() if entry == (cheat.honest, cheat.corpus))
    assert found.claimed < audited_honest(honest).claimed - 0.0005, "a cheat must improve the score"


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_evaluation_passes(name: str) -> None:
    assert not audited_honest(name).findings


def test_the_suite_is_large_and_half_of_it_cheats_only_in_one_place() -> None:
    assert len({c.name for c in CHEATS}) == len(CHEATS) >= 40 and len(HONEST) >= 20
    assert sum("only" in c.description or "," in c.name for c in CHEATS) >= 20
    assert {rule for c in CHEATS for rule in c.rule.split(", ")} <= RULES.keys()


@pytest.mark.parametrize("cheat", SAMPLED[::5], ids=lambda cheat: cheat.name)
def test_few_seeds_miss_a_cheat(cheat: Cheat) -> None:
    row = measure_escapes(cheat, seeds=3, budget=QUICK)
    assert not improbable_escapes([row]), row


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_escapes_are_as_rare_as_stated() -> None:
    rows = [measure_escapes(cheat, seeds=20) for cheat in CHEATS]
    assert not improbable_escapes(rows)
    assert all(row.escaped == 0 for row in rows if not row.share)


def test_too_many_escapes_are_noticed() -> None:
    row = measure_escapes(SAMPLED[0], seeds=1, budget=QUICK)
    assert improbable_escapes([row._replace(seeds=20, stated=0.05, escaped=8)])
    assert not improbable_escapes([row._replace(seeds=20, stated=0.05, escaped=2)])


def test_the_page_has_the_table_that_is_generated() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in between_marks(PAGE, "cheats").splitlines()[2:]
    ]
    assert [(row[0], row[1], row[4]) for row in rows] == [(a.name, a.description, f"`{a.rule}`") for a in CHEATS]
    assert all(float(row[2]) < float(row[3]) for row in rows)


def test_the_page_says_what_each_rule_means() -> None:
    assert between_marks(PAGE, "rules") == "\n".join(rules_table())


def test_the_page_counts_honest_configurations() -> None:
    sentence = between_marks(PAGE, "honest")
    assert int(sentence.split()[0]) >= 100 and sentence.endswith(", 0 rejected.")


def test_the_example_of_the_page_runs() -> None:
    example = PAGE.partition("```python\n")[2].partition("```")[0]
    namespace: dict[str, object] = {}
    exec(compile(example, "docs/scoring.md", "exec"), namespace)
    report = namespace["report"]
    assert isinstance(report, AuditReport) and report.verdict == "lookahead" and report.claimed > 0
