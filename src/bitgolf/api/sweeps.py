"""Sweeps in Python: variants of a recipe with several seeds, compared with the recipe itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, cast

from bitgolf.api.calls import library_call
from bitgolf.api.paths import AnyPath, optional_path, to_paths
from bitgolf.api.runs import RunFolder, to_trackers
from bitgolf.api.tables import Table
from bitgolf.commands.sweep_runs import SweepExecution, SweepOptions, changed_sweep, execute_sweep
from bitgolf.config.paths import resolve_path
from bitgolf.config.readable import readable
from bitgolf.config.spec import Spec, part
from bitgolf.errors import UsageError
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.recipes import named_folder
from bitgolf.recipes.recipe import Recipe
from bitgolf.sweeps.assignments import VARIANT_FACTOR
from bitgolf.sweeps.factors import Factor, FactorLevel
from bitgolf.sweeps.folder import SWEEP_FILE
from bitgolf.sweeps.gates import Gate
from bitgolf.sweeps.load import as_sweep, load_sweep
from bitgolf.sweeps.search.search import Search
from bitgolf.sweeps.summary import SweepSummary
from bitgolf.sweeps.sweep import Sweep
from bitgolf.text.read_report import ReadOptions


class ComparedVariant(NamedTuple):
    """A row of `SweepOutcome.variants`; the fields are described at `VariantSummary`."""

    name: str
    bpb: float | None
    deviation: float | None
    to_base: float | None
    p: float | None
    bytes: int | None
    seeds: int
    share: float
    stopped: str


class SweptRun(NamedTuple):
    """A row of `SweepOutcome.runs`. bpb: by the measure of the sweep. reason: why it was stopped, or has failed."""

    variant: str
    share: float
    seed: int
    state: str
    bpb: float | None
    bytes: int | None
    steps: int | None
    training_seconds: float | None
    folder: str
    reason: str


class SweepOutcome:
    """The results of a sweep. summary: all of them; the fields are the keys of `bitgolf sweep --json`."""

    def __init__(self, summary: SweepSummary) -> None:
        self.summary = summary

    def __repr__(self) -> str:
        return f"SweepOutcome({str(self.folder)!r}: {self.summary.sweep})\n{self.variants!r}"

    def _repr_html_(self) -> str:
        """The table of the variants, which notebooks display."""
        return self.variants._repr_html_()

    @property
    def folder(self) -> Path:
        """The folder of the sweep."""
        return Path(self.summary.folder)

    @property
    def variants(self) -> Table[ComparedVariant]:
        """The variants from the best to the worst, longer trainings first, each compared with the base."""
        rows = [
            ComparedVariant(
                v.name, v.mean, v.deviation, v.difference, v.p, v.bytes,
                sum(run.state == "done" for run in v.runs), v.share, v.stopped,
            )
            for v in self.summary.variants
        ]  # fmt: skip
        return Table(ComparedVariant, rows)

    @property
    def runs(self) -> Table[SweptRun]:
        """All runs, in the order of the variants."""
        rows = [
            SweptRun(
                v.name, v.share, r.seed, r.state, r.bpb, r.bytes, r.steps, r.training_seconds, r.run, r.reason
            )
            for v in self.summary.variants
            for r in v.runs
        ]  # fmt: skip
        return Table(SweptRun, rows)

    @property
    def best(self) -> ComparedVariant:
        """The variant with the lowest mean of whole trainings. Raises `UsageError` if none was scored."""
        return next(row for row in self.variants if row.name == self._best_run().variant and row.share == 1)

    def best_run(self) -> RunFolder:
        """The run of the best variant with the lowest score. Raises `UsageError` if none was scored."""
        return RunFolder(Path(self._best_run().folder))

    def _best_run(self) -> SweptRun:
        scored = {row.name for row in self.variants if row.share == 1 and row.bpb is not None}
        first = next((row.name for row in self.variants if row.name in scored), "")
        runs = [run for run in self.runs if run.variant == first and run.share == 1 and run.bpb is not None]
        if not runs:
            hint = "score_tokens=0 leaves scoring out; runs has why runs were stopped or failed"
            raise UsageError("no run of this sweep was scored", where=str(self.folder), hint=hint)
        return min(runs, key=lambda run: run.bpb or 0.0)


class RunOptions(TypedDict, total=False):
    """The text of the runs of a sweep and how they are executed: options of `bitgolf sweep`, of which `train` has most.

    reuse: runs, or folders of runs, whose stages are taken over. workers: runs at a time on this host. cluster: address
    of a Ray cluster instead. track: trackers of each run, `NAME:WHERE`, as in `train`.
    """

    text: AnyPath | Sequence[AnyPath]
    key: str
    skip_null: bool
    strict: bool
    shards: AnyPath | None
    tokenizer: AnyPath | None
    score_tokens: int | Literal["all"] | None
    reuse: AnyPath | Sequence[AnyPath]
    workers: int
    cluster: str
    devices: int
    device: str
    track: str | Sequence[str]


def sweep(
    recipe: AnyPath | Spec[Recipe] | Spec[Sweep],
    *,
    set: Mapping[str, Any] | None = None,
    variants: Mapping[str, Mapping[str, Any] | Spec[Recipe]] | None = None,
    seeds: int | Sequence[int] | None = None,
    search: str | Spec[Search] = "",
    gates: Sequence[str | Spec[Gate]] = (),
    steps: int = 0,
    seconds: float = 0.0,
    measure: str = "",
    quick: bool = False,
    out: AnyPath | None = None,
    progress: bool = True,
    **options: Unpack[RunOptions],
) -> SweepOutcome:
    """Run variants of a recipe with several seeds, as `bitgolf sweep` does, or what is left of them.

    recipe: a recipe or a sweep: a value, a name or a file; or the folder of a sweep, to continue it. set: path -> a list
    of values to try, or one value for all runs. variants: name -> several edits, path -> value, or a recipe. seeds: their
    number, or a list of them. search, gates: parts, or their text. options: text, shards, score_tokens, reuse, workers
    and others of `RunOptions`. All others are the options of `bitgolf sweep`. A run that fails does not end the sweep.
    Raises `RecipeError` for a variant that cannot be built, before anything is written, and `KeyboardInterrupt` on an
    interrupt, after which the same call continues.
    """
    execution, many = _execution(optional_path(out), **options), str(seeds) if isinstance(seeds, int) else ""
    with library_call(progress=progress):
        target, base = _opened(recipe)
        texts = [f"{path}={_levels(value)}" for path, value in (set or {}).items()]
        words = SweepOptions(
            texts, (), many, 0, _text(search), tuple(map(_text, gates)), steps, seconds, measure, quick
        )
        changed = changed_sweep(base, words, _variants(variants or {}, base["recipe"]))
        if seeds is not None and not many:
            changed = changed.replace(seeds=tuple(cast("Sequence[int]", seeds)))
        return SweepOutcome(execute_sweep(target, changed, execution))


def _execution(
    out: Path | None,
    *,
    text: AnyPath | Sequence[AnyPath] = (),
    key: str = "",
    skip_null: bool = False,
    strict: bool = False,
    shards: AnyPath | None = None,
    tokenizer: AnyPath | None = None,
    score_tokens: int | Literal["all"] | None = None,
    reuse: AnyPath | Sequence[AnyPath] = (),
    workers: int = 1,
    cluster: str = "",
    devices: int = 1,
    device: str = "auto",
    track: str | Sequence[str] = (),
) -> SweepExecution:
    """The options of `RunOptions`, with their defaults."""
    texts, reading = tuple(to_paths(text)), ReadOptions(key, skip_null, strict)
    given = GivenInputs(texts, optional_path(shards), optional_path(tokenizer), reading, score_tokens=score_tokens)
    return SweepExecution(given, out, to_paths(reuse), workers, cluster, devices, device, to_trackers(track))


def _opened(given: AnyPath | Spec[Recipe] | Spec[Sweep]) -> tuple[str, Spec[Sweep]]:
    """(name or folder, "" for a value; the sweep). Raises `UsageError` for the folder of a run, and for another part."""
    if isinstance(given, Spec):
        if given.cls not in (Recipe, Sweep):
            message = f"expected a recipe or a sweep, got the part {given.name}"
            raise UsageError(message, where="recipe", hint="bitgolf.recipe(NAME)")
        return "", as_sweep(given)
    target = str(given)
    folder = named_folder(target)
    if folder and not (folder / SWEEP_FILE).exists():
        hint = f"bitgolf.sweep(bitgolf.open_run({target!r}).recipe, reuse={target!r}) trains only what differs"
        raise UsageError("this is the folder of a run, not of a sweep", where=target, hint=hint)
    return target, load_sweep(target)


def _levels(value: Any) -> str:
    """One value, or the values of a list, as `--set` takes them."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UsageError("a list of values is empty", where="set", hint="give at least one value")
    return ",".join(map(_text, values))


def _text(value: Any) -> str:
    """A value as the command line has it; text that is not a single word is in quotes."""
    is_phrase = isinstance(value, str) and not re.fullmatch(r"[\w.+-]*|\w+\(.*\)", value)
    return repr(value) if is_phrase else readable(value)


def _variants(given: Mapping[str, Mapping[str, Any] | Spec[Recipe]], base: Spec[Recipe]) -> list[Spec[Factor]]:
    """The factor of named variants, none without any."""
    levels = tuple(_level(name, variant, base) for name, variant in given.items())
    return [part(Factor, name=VARIANT_FACTOR, levels=levels)] if levels else []


def _level(name: str, variant: Mapping[str, Any] | Spec[Recipe], base: Spec[Recipe]) -> Spec[FactorLevel]:
    if isinstance(variant, Spec):
        return part(FactorLevel, name=name, recipe=variant)
    edits = tuple(f"{resolve_path(base, path)}={_text(value)}" for path, value in variant.items())
    return part(FactorLevel, name=name, edits=edits)
