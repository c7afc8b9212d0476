"""The results of a sweep over runs as text."""

from __future__ import annotations

from bitgolf.commands.tables import format_number, next_steps, table
from bitgolf.sweeps.summary import SweepSummary, VariantSummary


def sweep_runs_table(result: SweepSummary) -> str:
    """The result of `sweep RECIPE`: a row for each variant, why runs were stopped, and what the runs cost."""
    lengths = {row.share for row in result.variants}
    tokens = {row.prefix_tokens for row in result.variants if row.prefix_tokens}
    rows = [_row(row, len(lengths) > 1) for row in result.variants]
    columns = ("variant", "bpb", "±", "to base", "p", "bytes", "seeds")
    title = f"{result.sweep}: {_measure(result)}"
    stopped = [f"{row.name}: {row.stopped}" for row in result.variants if row.stopped]
    cost = f"{result.cost.spent:.3f} {result.cost.unit} spent"
    if result.cost.saved:
        cost += f", {result.cost.saved:.3f} saved by stages that were taken over"
    sections = [table(title, columns, rows), *map(_prefix_note, sorted(tokens)), "\n".join(stopped), cost]
    return "\n\n".join([*filter(None, sections), next_steps(*_next(result))])


def _prefix_note(tokens: int) -> str:
    return f"Trainings that were left unfinished: their weights there, on the first {tokens:,} held-out tokens."


def _measure(result: SweepSummary) -> str:
    scores = "best score of the packed model" if result.measure == "best" else f"score {result.measure}"
    return f"bits per byte ({scores}), mean and standard deviation over seeds, p against the base (Welch, Holm)"


def _row(row: VariantSummary, with_share: bool) -> tuple[str, ...]:
    done = sum(run.state == "done" for run in row.runs)
    name = f"{row.name} ({row.share:.3g} of the training)" if with_share else row.name
    return (
        name,
        format_number(row.mean, ".5f"),
        format_number(row.deviation, ".5f"),
        format_number(row.difference, "+.5f"),
        format_number(row.p, ".2g"),
        format_number(row.bytes),
        f"{done}/{len(row.runs)}",
    )


def _next(result: SweepSummary) -> list[tuple[str, ...]]:
    return [("runs", result.folder), ("compare", result.folder)]
