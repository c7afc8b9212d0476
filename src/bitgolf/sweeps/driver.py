"""Execution of a sweep: rounds of the search, the runs of each, their gates, and what continues after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.pipeline.execute import ExecutionOptions
from bitgolf.pipeline.given_inputs import GivenInputs, first_inputs
from bitgolf.pipeline.state import RunInputs
from bitgolf.recipes.check import check_recipe
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.display import current_display
from bitgolf.runtime.folder_lock import folder_lock
from bitgolf.runtime.ordered_map import InProcess, OrderedMap
from bitgolf.sweeps.curves import validation_curve
from bitgolf.sweeps.estimate import expected_cost
from bitgolf.sweeps.factors import SweepVariant, of_variant
from bitgolf.sweeps.folder import RunKey, RunUnit, SweepFolder, new_record, read_record
from bitgolf.sweeps.gates import Curve
from bitgolf.sweeps.job import RunEnd, RunJob, make_job, run_job
from bitgolf.sweeps.search.search import FinishedRound, Round, VariantScores
from bitgolf.sweeps.summary import SweepSummary, UnitResult, summarize
from bitgolf.sweeps.sweep import Sweep
from bitgolf.sweeps.waves import text_identity, training_identity, waves


class SweepInputs(NamedTuple):
    """Where a sweep takes its text from, and how its runs are executed."""

    given: GivenInputs = GivenInputs()
    options: ExecutionOptions = ExecutionOptions()


def run_sweep(sweep: Spec[Sweep], inputs: SweepInputs, folder: Path, workers: OrderedMap | None = None) -> SweepSummary:
    """Run a sweep in its folder, or what is left of it, and return its results.

    workers: where runs are executed; by default in this process, one after the other. A run that fails does not end the
    sweep: its error is in the results, and the same command tries it again. One that a gate stopped is not run again.
    Raises `RecipeError` for a variant that cannot be built, before anything is written.
    """
    check_sweep(sweep)
    inputs.given.check(None)
    with folder_lock(folder):
        record = read_record(folder)
        first = record.inputs if record else first_inputs(sweep["recipe"])
        stored = inputs.given.inputs(first, folder)
        changed = new_record(sweep, stored)
        if record:
            _check_same_text(record.inputs, stored, folder)
            changed.stops, changed.rounds = record.stops, record.rounds
        opened = SweepFolder(folder, changed)
        opened.write()
        return _SweepExecution(sweep, opened, inputs.options, workers or InProcess()).run()


def check_sweep(sweep: Spec[Sweep]) -> None:
    """Build every variant of the first round and its parts. Raises `RecipeError` for one that cannot be run."""
    built = sweep()
    for gate in built.gates:
        gate()
    first = built.search.next_round(built.space, ())
    for variant in first.variants if first else ():
        recipe = built.recipe(variant, first.share if first and not first.prefix_tokens else 1.0)
        with of_variant(variant.name):
            check_recipe(recipe)


def _check_same_text(stored: RunInputs, wanted: RunInputs, folder: Path) -> None:
    def text_of(inputs: RunInputs) -> tuple[object, ...]:
        return inputs.text, inputs.shards, inputs.tokenizer, inputs.reading

    if text_of(stored) != text_of(wanted):
        message = "the sweep in this folder has another text"
        raise UsageError(message, where=str(folder), hint="leave --text and --shards out, or choose another --out")


def _note_equal_variants(units: Sequence[RunUnit]) -> None:
    """Say which variants are the same recipe, as with `--quick`, which limits some settings."""
    known = dict[str, str]()
    for unit in units:
        name, first = unit.variant.name, known.setdefault(recipe_hash(unit.recipe), unit.variant.name)
        if name != first and unit.seed == units[0].seed:
            current_display().message(f"note: {name} is the same recipe as {first}")


class _SweepExecution:
    """A sweep that is being executed."""

    def __init__(self, sweep: Spec[Sweep], folder: SweepFolder, options: ExecutionOptions, workers: OrderedMap) -> None:
        self.sweep, self.folder, self.options, self.workers = sweep(), folder, options, workers
        self.spec, self.gates = sweep, {repr(gate): gate for gate in sweep["gates"]}
        self.results, self.prepared = dict[RunKey, UnitResult](), set[str]()
        self.units = list[RunUnit]()  # of all rounds so far
        inputs = folder.record.inputs
        self.given = GivenInputs(
            [Path(path) for path in inputs.text],
            Path(inputs.shards) if inputs.shards else None,
            Path(inputs.tokenizer) if inputs.tokenizer else None,
            inputs.reading,
            score_tokens=inputs.score_tokens,
            auto=inputs.auto,
        )

    def run(self) -> SweepSummary:
        finished, rounds = list[FinishedRound](), list[Round]()
        while current := self.sweep.search.next_round(self.sweep.space, finished):
            rounds.append(current)
            self.folder.set_rounds(rounds)
            current_display().message(f"round {len(rounds)}: {len(current.variants)} variants, {current.reason}")
            finished.append(self._run_round(current))
        return summarize(self.spec, self.folder, [self.results[unit.key] for unit in self.units])

    def _run_round(self, current: Round) -> FinishedRound:
        units = [
            RunUnit(variant, seed, self._recipe(variant, current), current.share, current.prefix_tokens)
            for variant in current.variants
            for seed in self.sweep.seeds
        ]
        self.units += units
        _note_equal_variants(units)
        for wave in waves(units, self.spec["gates"]):
            self._announce_cost([unit for unit in units if not self._known(unit)])
            self._run_wave([unit for unit in wave if not self._known(unit)])
        return FinishedRound(current, tuple(self._scores(variant, units) for variant in current.variants))

    def _recipe(self, variant: SweepVariant, current: Round) -> Spec[Recipe]:
        return self.sweep.recipe(variant, 1.0 if current.prefix_tokens else current.share)

    def _announce_cost(self, left: Sequence[RunUnit]) -> None:
        """Say what the trainings that are left will cost. Runs whose training is done take it over."""
        done = dict[str, float]()
        for unit in (result.unit for result in self.results.values() if result.state == "done"):
            key = training_identity(unit)
            done[key] = max(done.get(key, 0.0), unit.share if unit.prefix_tokens else 1.0)
        trainings = [unit for unit in left if done.get(training_identity(unit), 0.0) < 1]
        if expected := expected_cost(trainings, self.folder.sources(), self.options.processes, done):
            current_display().message(f"left to do: {expected}")

    def _scores(self, variant: object, units: Sequence[RunUnit]) -> VariantScores:
        own = [unit for unit in units if unit.variant == variant]
        found = [self.results[unit.key].bpb for unit in own]
        complete = all(self.results[unit.key].state == "done" for unit in own)
        return VariantScores(own[0].variant, tuple(bpb for bpb in found if bpb is not None) if complete else ())

    def _known(self, unit: RunUnit) -> bool:
        """Whether the result of a run is known without running it; it is then among the results."""
        if unit.key in self.results:
            return True
        if result := self._finished(unit):
            self.results[unit.key] = result
        elif end := self.folder.stop_of(unit, self.gates):
            self.results[unit.key] = UnitResult.of_end(unit, end)
        elif stopped := [r for r in self.results.values() if self._same_recipe(r.unit, unit) and r.state == "stopped"]:
            end = RunEnd(stopped[0].gate, f"not run, since seed {stopped[0].unit.seed} was stopped")
            self.results[unit.key] = UnitResult.of_end(unit, end)
        return unit.key in self.results

    def _finished(self, unit: RunUnit) -> UnitResult | None:
        """The result of a run that has reached its end, or that of its round; None if it has not."""
        if not unit.prefix_tokens:
            entry = self.folder.finished(unit)
            return entry and UnitResult.of_entry(unit, entry, self.sweep.measure)
        if score := self.folder.prefix_score(unit):
            return UnitResult.of_prefix(unit, score)
        same = [r for r in self.results.values() if r.prefix and self._same_training(r.unit, unit)]
        return same[0]._replace(unit=unit) if same else None

    @staticmethod
    def _same_training(a: RunUnit, b: RunUnit) -> bool:
        """Whether two runs of a round train the same, so that one of them has the score of both."""
        return (a.share, a.prefix_tokens) == (b.share, b.prefix_tokens) and training_identity(a) == training_identity(b)

    @staticmethod
    def _same_recipe(a: RunUnit, b: RunUnit) -> bool:
        return (a.variant, a.share) == (b.variant, b.share)

    def _run_wave(self, units: Sequence[RunUnit]) -> None:
        """Run the units of a wave, and add their results."""
        if self.workers.workers > 1:
            self._prepare(units)
        references = self._references()
        jobs = [self._job(unit, references) for unit in units]
        for unit, end in zip(units, self.workers.map(run_job, jobs), strict=True):
            self._add(unit, end)

    def _prepare(self, units: Sequence[RunUnit]) -> None:
        """Prepare each text of runs that will run at the same time once, in the first of the runs that have it."""
        first = {text: unit for unit in reversed(units) if (text := text_identity(unit)) not in self.prepared}
        jobs = [self._job(unit, [])._replace(last_stage="prepare", prefix_tokens=0) for unit in first.values()]
        for _ in self.workers.map(run_job, jobs):
            pass
        self.prepared.update(first)

    def _job(self, unit: RunUnit, references: list[list[Curve]]) -> RunJob:
        given, options = self.given._replace(seed=unit.seed), self.options
        if unit.prefix_tokens:
            options = options._replace(train_until=unit.share)
        job = make_job(unit.recipe, self.spec["gates"], self.folder.run_folder(unit), given, options, references)
        return job._replace(prefix_tokens=unit.prefix_tokens)

    def _references(self) -> list[list[Curve]]:
        """The validation curves of the finished runs, a group for each variant; none if no gate compares."""
        groups = dict[object, dict[Path, Curve]]()
        if any(gate().compares for gate in self.gates.values()):
            for result in self.results.values():
                unit = result.unit
                if result.state == "done":
                    run = self.folder.run_folder(unit)  # of several rounds, if they continue it
                    groups.setdefault((unit.variant, unit.recipe.hash), {})[run] = validation_curve(run)
        return [list(group.values()) for group in groups.values()]

    def _add(self, unit: RunUnit, end: RunEnd) -> None:
        """Add the result of a run that has just ended, and say it."""
        if end.gate:
            self.folder.add_stop(unit, end)
            result = UnitResult.of_end(unit, end)
        elif end.reason:
            result = UnitResult.of_end(unit, end)
        elif not (result := self._finished(unit)):
            hint = "the hosts of a cluster must share this folder; the same command continues"
            raise BitgolfError("a run has ended without a result", where=str(self.folder.run_folder(unit)), hint=hint)
        self.results[unit.key] = result
        current_display().message(f"{unit.variant.name}, seed {unit.seed}: {result.words}")
