"""The tables of `docs/scoring.md`: `make cheats` writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from attacks.evaluations.suite import CHEATS, audit_on
from attacks.random_configurations import audit_random_configuration
from bitgolf.score.audit.findings import RULES

PAGE = Path(__file__).parents[3] / "docs" / "scoring.md"
HONEST_CONFIGURATIONS = 400  # random configurations of honest players, all of which must pass


def cheats_table() -> Iterator[str]:
    """Lines of the table of cheats, in Markdown: the reported bits per byte, and the evidence of the audit."""
    yield "| cheat | what it does | reported bpb | honest bpb | rejected by | evidence |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for cheat in CHEATS:
        caught, honest = audit_on(cheat.corpus, cheat.cheat), audit_on(cheat.corpus, cheat.honest)
        evidence = caught.findings[0].message.partition(" (")[2].removesuffix(")")
        cells = cheat.name, cheat.description, f"{caught.claimed:.4f}", f"{honest.claimed:.4f}", f"`{caught.verdict}`"
        yield f"| {' | '.join(cells)} | {evidence} |"


def rules_table() -> Iterator[str]:
    """Lines of the table of rules, in Markdown."""
    yield "| rule | what breaking it means |"
    yield "| --- | --- |"
    for rule, meaning in RULES.items():
        yield f"| `{rule}` | {meaning} |"


def honest(count: int) -> str:
    """A sentence about the audits of `count` random configurations of honest players."""
    audits = [audit_random_configuration(seed) for seed in range(count)]
    methods = Counter(name for name, _ in audits)
    rejected = [seed for seed, (_, found) in enumerate(audits) if found.verdict != "passes"]
    listed = ", ".join(f"{name} {number}" for name, number in methods.items())
    return f"{count} random configurations of our own players ({listed}), {len(rejected)} rejected{rejected or ''}."


def between_marks(page: str, name: str) -> str:
    """The text between the page's marks with this name."""
    return page.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- end {name} -->")[0]


def main() -> None:
    """Write the generated tables to the page. This takes about ten minutes on one core."""
    page = PAGE.read_text()
    for name, text in (
        ("rules", "\n".join(rules_table())),
        ("cheats", "\n".join(cheats_table())),
        ("honest", honest(HONEST_CONFIGURATIONS)),
    ):
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        page = before + mark + text + f"\n<!-- end {name} -->" + rest.partition(f"<!-- end {name} -->")[2]
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
