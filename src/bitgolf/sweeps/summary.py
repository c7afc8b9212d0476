"""The results of a sweep: each variant with its seeds, and its difference to the base with a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import msgspec

from bitgolf.config.edits import ABSENT, diff
from bitgolf.config.readable import readable
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.significance.mean_tests import welch
from bitgolf.significance.planning import holm
from bitgolf.store.entry import RunEntry
from bitgolf.sweeps.cost import SweepCost, spent_cost
from bitgolf.sweeps.factors import BASE
from bitgolf.sweeps.folder import RunUnit, SweepFolder
from bitgolf.sweeps.job import RunEnd
from bitgolf.sweeps.prefix import PrefixScore
from bitgolf.sweeps.sweep import Measure, Sweep

RunState = Literal["done", "stopped", "failed"]


class UnitResult(NamedTuple):
    """The result of a run. bpb: by the measure of the sweep, None without a score. gate: that stopped the run.

    prefix: the score of a training that was left unfinished, which `bpb` is then; None for a whole run.
    """

    unit: RunUnit
    state: RunState
    bpb: float | None = None
    entry: RunEntry | None = None
    gate: str = ""
    reason: str = ""
    prefix: PrefixScore | None = None

    @classmethod
    def of_entry(cls, unit: RunUnit, entry: RunEntry, measure: Measure) -> UnitResult:
        """The result of a finished run."""
        return cls(unit, "done", entry.best_bpb if measure == "best" else entry.bpb.get(measure), entry)

    @classmethod
    def of_prefix(cls, unit: RunUnit, score: PrefixScore) -> UnitResult:
        """The result of a training that was left unfinished."""
        return cls(unit, "done", score.bpb, prefix=score)

    @classmethod
    def of_end(cls, unit: RunUnit, end: RunEnd) -> UnitResult:
        """The result of a run that was stopped by a gate, or failed."""
        return cls(unit, "stopped" if end.gate else "failed", gate=end.gate, reason=end.reason)

    @property
    def words(self) -> str:
        """The result in words."""
        if self.state != "done":
            return f"{self.state}: {self.reason}"
        return "done, not scored" if self.bpb is None else f"{self.bpb:.5f} bpb"


class SweepRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run in `sweep --json`. run: its folder. reason: why it was stopped or failed, "" for a finished run."""

    run: str
    seed: int
    state: RunState
    bpb: float | None
    bytes: int | None
    steps: int | None
    training_seconds: float | None
    reason: str


class VariantSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A variant in `sweep --json`.

    settings: path -> value, where the recipe differs from the base. share: of the training. prefix_tokens: if the training
    was left unfinished at this share, the number of held-out tokens on which its weights were scored; 0 for a training of
    its own. mean, deviation: of the bits per byte of the finished seeds; deviation is the sample standard deviation, None for a single one. difference: of the
    means, to the base of the same share; negative is better. p: chance of at least this improvement without any (Welch,
    one-sided), corrected for the number of variants (Holm); None without two seeds on each side or on other text.
    bytes: of the largest artifact. stopped: why its runs were stopped or failed.
    """

    name: str
    settings: dict[str, Any]
    share: float
    prefix_tokens: int
    runs: list[SweepRun]
    mean: float | None
    deviation: float | None
    difference: float | None
    p: float | None
    bytes: int | None
    stopped: str


class SweepSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `sweep --json` for a sweep over runs: variants from the best to the worst, longer trainings first."""

    sweep: str
    folder: str
    hash: str
    recipe: str
    measure: Measure
    seeds: list[int]
    variants: list[VariantSummary]
    rounds: list[dict[str, Any]]
    cost: SweepCost


def summarize(sweep: Spec[Sweep], folder: SweepFolder, results: Sequence[UnitResult]) -> SweepSummary:
    """The results of a sweep as a table. A test needs two seeds of the base and of a variant on the same text."""
    groups = dict[tuple[float, Any], list[UnitResult]]()
    for result in results:
        groups.setdefault((result.unit.share, result.unit.variant), []).append(result)
    rows = [_variant(group, groups.get((share, BASE), []), folder.folder) for (share, _), group in groups.items()]
    rows = _corrected(rows)
    rows.sort(key=lambda row: (-row.share, row.mean is None, row.mean if row.mean is not None else 0.0))
    return SweepSummary(
        sweep=sweep["name"],
        folder=str(folder.folder),
        hash=sweep.hash,
        recipe=sweep["recipe"]["name"],
        measure=sweep["measure"],
        seeds=list(sweep["seeds"]),
        variants=rows,
        rounds=folder.record.rounds,
        cost=spent_cost(folder.sources()),
    )


def _variant(group: Sequence[UnitResult], base: Sequence[UnitResult], folder: Path) -> VariantSummary:
    scores, old = _scores(group), _scores(base)
    unit, mean = group[0].unit, fmean(scores) if scores else None
    own = unit.variant == BASE
    sizes = [result.entry.bytes for result in group if result.entry and result.entry.bytes is not None]
    reasons = dict.fromkeys(result.reason for result in group if result.state != "done")
    return VariantSummary(
        name=unit.variant.name,
        settings={} if own or not base else _settings(base[0].unit, unit),
        share=unit.share,
        prefix_tokens=unit.prefix_tokens,
        runs=[_run(result, folder) for result in group],
        mean=mean,
        deviation=stdev(scores) if len(scores) > 1 else None,
        difference=None if own or mean is None or not old else mean - fmean(old),
        p=None if own else _p(group, base),
        bytes=max(sizes, default=None),
        stopped="; ".join(reasons),
    )


def _run(result: UnitResult, folder: Path) -> SweepRun:
    entry, prefix = result.entry, result.prefix
    return SweepRun(
        run=str(folder / result.unit.folder_name),
        seed=result.unit.seed,
        state=result.state,
        bpb=result.bpb,
        bytes=entry and entry.bytes,
        steps=prefix.step if prefix else entry and entry.steps,
        training_seconds=prefix.training_seconds if prefix else entry and entry.training_seconds,
        reason=result.reason,
    )


def _scores(group: Sequence[UnitResult]) -> list[float]:
    return [result.bpb for result in group if result.bpb is not None]


def _p(new: Sequence[UnitResult], old: Sequence[UnitResult]) -> float | None:
    """p of Welch's test, None where it says nothing."""
    texts = {result.entry.text for result in (*new, *old) if result.entry}
    if len(texts) != 1 or "" in texts:
        return None
    try:
        return welch(_scores(new), _scores(old)).p
    except UsageError:
        return None


def _corrected(rows: Sequence[VariantSummary]) -> list[VariantSummary]:
    """The rows with p corrected for their number."""
    tested = [row.p for row in rows if row.p is not None]
    corrected = iter(holm(tested))
    return [row if row.p is None else msgspec.structs.replace(row, p=next(corrected)) for row in rows]


def _settings(base: RunUnit, unit: RunUnit) -> dict[str, Any]:
    """Path -> value, where a variant's recipe differs from that of the base; a path that it lacks is None."""
    rows = diff(base.recipe.replace(name="", published=None), unit.recipe.replace(name="", published=None))
    return {row.path: None if row.b is ABSENT else _plain(row.b) for row in rows}


def _plain(value: Any) -> Any:
    return readable(value) if isinstance(value, Spec | tuple) else value
