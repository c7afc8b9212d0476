"""Every cheat of the zoo pays, is rejected, and by its right name; its honest twin passes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from attacks.evaluations.suite import HONEST, ZOO, Cheat, Kind, examined, marked, rules
from bitgolf.score.audit.audit import Audit
from bitgolf.score.audit.findings import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text()
once = cache(examined)


def audited(kind: Kind) -> Audit:
    return once(kind)


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_a_cheat_pays_and_is_rejected_by_its_right_name(animal: Cheat) -> None:
    found, twin = audited(animal.cheat), audited(animal.twin)
    assert found.verdict == animal.rule, found.findings
    assert twin.verdict == "passes" and not twin.findings
    assert found.claimed < twin.claimed - 0.002, "a cheat that gains nothing proves nothing"


def test_the_zoo_has_no_two_of_a_kind() -> None:
    assert len({animal.name for animal in ZOO}) == len({animal.cheat for animal in ZOO}) == len(ZOO) > 16
    assert {animal.rule for animal in ZOO} <= RULES.keys()


def test_the_page_has_the_table_that_is_generated() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in marked(PAGE, "zoo").splitlines()[2:]]
    assert [(row[0], row[1], row[4]) for row in rows] == [(a.name, a.does, f"`{a.rule}`") for a in ZOO]
    assert all(float(row[2]) < float(row[3]) for row in rows)


def test_the_page_says_what_each_rule_means() -> None:
    assert marked(PAGE, "rules") == "\n".join(rules())


def test_the_page_counts_honest_configurations() -> None:
    assert f"{HONEST} random configurations" in marked(PAGE, "honest") and ", 0 rejected" in marked(PAGE, "honest")


def test_the_example_of_the_page_runs() -> None:
    example = PAGE.partition("```python\n")[2].partition("```")[0]
    namespace: dict[str, object] = {}
    exec(compile(example, "docs/scoring.md", "exec"), namespace)
    report = namespace["report"]
    assert isinstance(report, Audit) and report.verdict == "future-peek" and report.claimed > 0
