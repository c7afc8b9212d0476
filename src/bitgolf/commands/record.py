"""The command `record`: whether runs beat other runs, a record folder or a number by more than the spread of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bitgolf.commands.tables import table
from bitgolf.errors import UsageError
from bitgolf.pipeline.reporting import read_result
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.state import open_run
from bitgolf.report.log import RunLog
from bitgolf.significance.mean_tests import Significance, against_constant, paired, welch
from bitgolf.significance.planning import after_tries, seeds_needed
from bitgolf.store.entry import text_of
from bitgolf.submission.finding import Record
from bitgolf.submission.folder import RecordFolder
from bitgolf.submission.rules.scores import NEEDED_SEEDS

MARGIN_NATS = 0.005
"""Nats per token by which the challenge asks a record to be better, with p < 0.01."""
ALPHA = 0.01
TEXT_KEY = "validation_text"
"""Key of submission.json for the fingerprint of the validation text, which `export` writes."""


class SeedScore(msgspec.Struct, frozen=True):
    """The score of one run. source: its folder or file. seed: None if unknown. bpb: bits per byte."""

    source: str
    seed: int | None
    bpb: float


class ComparedScores(msgspec.Struct, frozen=True):
    """Scores of one side. text: fingerprint of the validation text, "" if unknown. tokens_per_byte: 0 if unknown."""

    name: str
    scores: list[SeedScore]
    text: str
    tokens_per_byte: float

    @property
    def values(self) -> list[float]:
        return [score.bpb for score in self.scores]


class RecordVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `record --json`.

    new, old: scores of both sides, in bits per byte. margin_nats: nats per token; margin: in bits per byte, by the
    tokens per byte of the new runs. test: of the improvement. tries: number of systems that were tried. p: of the test,
    corrected for the tries. is_record: p is below alpha, with at least three seeds. more_seeds: seeds on each side
    that would be needed to find the measured improvement with a chance of 80 %; None if none would do.
    """

    new: ComparedScores
    old: ComparedScores
    margin_nats: float
    margin: float
    test: Significance
    tries: int
    p: float
    alpha: float
    is_record: bool
    seeds_needed: int | None
    notes: list[str]


class RecordOptions(NamedTuple):
    """Options of `record`. margin_nats: nats per token. margin_bpb replaces it. method: of the runs, "" for the best.

    paired: compare equal seeds with each other, for runs whose seeds decide the same things, such as the data order.
    """

    margin_nats: float = MARGIN_NATS
    margin_bpb: float | None = None
    alpha: float = ALPHA
    tries: int = 1
    method: str = ""
    paired: bool = False


def judge_record(runs: Sequence[Path], against: str, options: RecordOptions) -> RecordVerdict:
    """Compare runs with other runs (folders separated by commas), a record folder, or a number in bits per byte.

    Raises `UsageError` if the scores are of different validation text, or too few.
    """
    new = read_runs(runs, options.method)
    old = _read_other(against, options.method)
    notes = _check_text(new, old)
    margin = options.margin_bpb
    if margin is None:
        margin = options.margin_nats / math.log(2) * new.tokens_per_byte
    test = _test(new, old, margin, options)
    p = after_tries(test.p, options.tries)
    few = min(len(new.scores), len(old.scores) if test.method != "constant" else NEEDED_SEEDS) < NEEDED_SEEDS
    if few:
        notes.append(f"the challenge asks for {NEEDED_SEEDS} seeds: fewer are no record, whatever p is")
    return RecordVerdict(
        new=new,
        old=old,
        margin_nats=margin * math.log(2) / new.tokens_per_byte,
        margin=margin,
        test=test,
        tries=options.tries,
        p=p,
        alpha=options.alpha,
        is_record=p < options.alpha and not few,
        seeds_needed=seeds_needed(test.improvement, _deviation(test, new, old), margin=margin, alpha=options.alpha),
        notes=notes,
    )


def read_runs(folders: Sequence[Path], method: str) -> ComparedScores:
    """Read the scores of runs of one text. method: name of a scoring method, "" for the best of each run."""
    results = [read_result(open_run(folder, RunLog(quiet=True))) for folder in folders]
    texts = {folder: _known_text(folder, result) for folder, result in zip(folders, results, strict=True)}
    first = texts[folders[0]]
    for folder, text in texts.items():
        if text != first:
            message = f"scored on other validation text than {folders[0]}, so the scores cannot be compared"
            raise UsageError(message, where=str(folder), hint="compare runs of the same text")
    scored = [_best(result, method) for result in results]
    scores = [SeedScore(str(f), r.seed, s[0]) for f, r, s in zip(folders, results, scored, strict=True)]
    _check_seeds(scores)
    return ComparedScores(results[0].recipe, scores, first, scored[0][1])


def _known_text(folder: Path, result: RunResult) -> str:
    if result.scored is None:
        raise UsageError("the run has no score", where=str(folder), hint=f"`bitgolf run {folder}` continues it")
    return text_of(folder, msgspec.to_builtins(result))


def _best(result: RunResult, method: str) -> tuple[float, float]:
    """Return bpb and tokens per byte of a method of a run, or of its best method."""
    methods = [scored for scored in result.methods if method in ("", scored.method)]
    if not methods:
        names = ", ".join(scored.method for scored in result.methods)
        raise UsageError(f"no score by the method {method!r}", where=result.run, hint=f"it has: {names}")
    best = min(methods, key=lambda scored: scored.bpb)
    return best.bpb, best.targets / best.bytes


def _check_seeds(scores: Sequence[SeedScore]) -> None:
    seeds = [score.seed for score in scores if score.seed is not None]
    repeated = next((score for i, score in enumerate(scores) if score.seed in seeds[:i]), None)
    if repeated:
        message = f"seed {repeated.seed} is there twice, so the two runs are no independent measurements"
        raise UsageError(message, where=repeated.source, hint="run each seed once")


def _read_other(against: str, method: str) -> ComparedScores:
    try:
        bpb = float(against)
    except ValueError:
        pass
    else:
        if not 0 < bpb < 100:
            raise UsageError(f"--against must be a folder or bits per byte, got {against}")
        return ComparedScores(against, [SeedScore("--against", None, bpb)], "", 0.0)
    folders = [Path(name) for name in against.split(",")]
    if (folders[0] / "stages.json").exists():
        return read_runs(folders, method)
    return _read_record(folders[0])


def _read_record(folder: Path) -> ComparedScores:
    """Read the scores of a record folder by seed: those that it claims, else the claimed mean alone."""
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=str(folder), hint="--against RUN,RUN… | FOLDER | BPB")
    claims = Record(RecordFolder(folder)).claims
    if claims is None or claims.error:
        raise UsageError("neither a run nor a record folder: it has no readable submission.json", where=str(folder))
    scores = [SeedScore(str(folder), seed, claim.value) for seed, claim in claims.bpb_by_seed.items()]
    if not scores and claims.bpb:
        scores = [SeedScore(str(folder), None, claims.bpb.value)]
    if not scores:
        raise UsageError("its submission.json claims no score", where=str(folder))
    return ComparedScores(folder.name, scores, str(claims.document.get(TEXT_KEY, "")), 0.0)


def _check_text(new: ComparedScores, old: ComparedScores) -> list[str]:
    """Raise `UsageError` if the texts differ; return a note if that of the old scores is not known."""
    if old.text and old.text != new.text:
        message = f"{old.name} was scored on other validation text, so the scores cannot be compared"
        raise UsageError(message, where="--against", hint="score both on the same text")
    return (
        [] if old.text else [f"the validation text of {old.name} is not known: the answer holds only if it is the same"]
    )


def _test(new: ComparedScores, old: ComparedScores, margin: float, options: RecordOptions) -> Significance:
    confidence = 1 - options.alpha
    if options.paired:
        by_seed = {score.seed: score.bpb for score in old.scores}
        seeds = [score.seed for score in new.scores]
        if set(seeds) != set(by_seed) or None in seeds:
            message = f"--paired needs equal seeds, got {seeds} and {list(by_seed)}"
            raise UsageError(message, hint="leave --paired out to compare the means of the two groups")
        return paired(new.values, [by_seed[seed] for seed in seeds], margin=margin, confidence=confidence)
    if len(old.scores) == 1:
        return against_constant(new.values, old.values[0], margin=margin, confidence=confidence)
    return welch(new.values, old.values, margin=margin, confidence=confidence)


def _deviation(test: Significance, new: ComparedScores, old: ComparedScores) -> float:
    """Return the standard deviation of one run, from the standard error of the improvement."""
    if len(old.scores) == 1:
        return test.error * math.sqrt(len(new.scores))
    return test.error / math.sqrt(1 / len(new.scores) + 1 / len(old.scores))


def verdict_lines(verdict: RecordVerdict) -> str:
    """Return the verdict as text."""
    test = verdict.test
    rows = [
        (side, score.source, "-" if score.seed is None else str(score.seed), f"{score.bpb:.5f}")
        for side, group in (("new", verdict.new), ("old", verdict.old))
        for score in group.scores
    ]
    names = {
        "welch": "Welch's test",
        "paired": "paired test of equal seeds",
        "constant": "test against a single number",
    }
    tries = f", corrected for {verdict.tries} tries" if verdict.tries > 1 else ""
    answer = "a record" if verdict.is_record else "not a record"
    lines = [
        table("Scores", ("", "source", "seed", "bpb"), rows, text_columns=2),
        "",
        f"{answer}: p = {verdict.p:.2g}{tries} for an improvement of more than {verdict.margin:.5f} bpb "
        f"({verdict.margin_nats:.4f} nats per token), where p < {verdict.alpha:g} is needed",
        f"improvement {test.improvement:+.5f} bpb, with {test.confidence:.0%} confidence at least {test.least:+.5f}; "
        f"{names[test.method]}, {test.degrees:.1f} degrees of freedom",
        _seeds_line(verdict),
        *(f"note: {note}" for note in verdict.notes),
    ]
    return "\n".join(lines)


def _seeds_line(verdict: RecordVerdict) -> str:
    if verdict.seeds_needed is None:
        return "no number of seeds would show it: the measured improvement is within the margin"
    return f"{verdict.seeds_needed} seeds on each side find an improvement of this size with a chance of 80 %"
