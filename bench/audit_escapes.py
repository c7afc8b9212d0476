"""How often the audit misses a cheat, over 20 seeds, against the chance that its number of questions states.

Usage: `python bench/audit_escapes.py`. Appends a line for each cheat of `tests/attacks/evaluations/suite.py` to
results/audit_escapes.jsonl and prints a table; cheats that the file has are not repeated. Takes about ten minutes on
one core.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from result_lines import append_line, read_lines

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def table(rows: Sequence[Any]) -> list[str]:
    """The rows (`EscapeRow`) in Markdown, without those of checks that ask no questions, and a line about all."""
    lines = [
        "| cheat | share | gain bpb | questions | stated chance of escape | escaped | named | runs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row.share:
            chances = f"{row.stated:.2g} | {row.escaped} of {row.seeds} | {row.named} of {row.seeds - row.escaped}"
            lines.append(f"| {row.name} | {row.share:g} | {row.gain:.4f} | {row.asked} | {chances} | {row.runs:.0f} |")
    sampled, whole = [row for row in rows if row.share], [row for row in rows if not row.share]
    expected = sum(row.stated * row.seeds for row in sampled)
    found = f"{sum(row.escaped for row in sampled)} escapes in {sum(row.seeds for row in sampled)} audits of {len(sampled)} sampled cheats, {expected:.1f} stated at most"
    return [*lines, "", f"{found}; {sum(row.escaped for row in whole)} in those of the other {len(whole)}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="seeds of the audit of each cheat (default: 20)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "audit_escapes.jsonl", help="file of results")
    given = parser.parse_args()
    escapes, suite = (importlib.import_module(f"attacks.evaluations.{name}") for name in ("escapes", "suite"))
    done = {line["name"]: line for line in read_lines(given.out) if line["seeds"] == given.seeds}
    rows = list[Any]()
    for cheat in suite.CHEATS:
        if cheat.name not in done:
            done[cheat.name] = escapes.measure_escapes(cheat, given.seeds)._asdict()
            append_line(given.out, done[cheat.name])
        rows.append(escapes.EscapeRow(**done[cheat.name]))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
