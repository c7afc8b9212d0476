"""`bitgolf sweep RECIPE` and `bitgolf run --seeds`: a sweep over whole runs, from the options of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bitgolf.commands.reuse import source_runs
from bitgolf.config.spec import Spec, part
from bitgolf.files import json_digest
from bitgolf.pipeline.execute import ExecutionOptions
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.latest_run import RUNS_FOLDER
from bitgolf.recipes import named_folder
from bitgolf.recipes.recipe import Recipe
from bitgolf.sweeps.assignments import factors_of, parse_gates, parse_search, parse_seeds, variants_factor
from bitgolf.sweeps.driver import SweepInputs, run_sweep
from bitgolf.sweeps.factors import Factor
from bitgolf.sweeps.folder import SWEEP_FILE
from bitgolf.sweeps.load import load_sweep
from bitgolf.sweeps.quick import quick_sweep
from bitgolf.sweeps.summary import SweepSummary
from bitgolf.sweeps.sweep import Sweep
from bitgolf.sweeps.workers import run_workers


class SweepOptions(NamedTuple):
    """What the options of the command line add to a sweep or change in it; empty or 0 is what the sweep has."""

    sets: Sequence[str] = ()
    variants: Sequence[str] = ()
    seeds: str = ""
    first_seed: int = 0
    search: str = ""
    gates: Sequence[str] = ()
    steps: int = 0
    seconds: float = 0.0
    measure: str = ""
    quick: bool = False


class SweepExecution(NamedTuple):
    """The text of the runs, and how they are executed. devices: processes of a run; workers: runs at a time.

    track: trackers of each run, as in `make_tracker`.
    """

    given: GivenInputs = GivenInputs()
    out: Path | None = None
    reuse: Sequence[Path] = ()
    workers: int = 1
    cluster: str = ""
    devices: int = 1
    device: str = "auto"
    track: tuple[str, ...] = ()

    @property
    def options(self) -> ExecutionOptions:
        """How each run is executed. Raises `UsageError` for a folder of `reuse` without runs."""
        return ExecutionOptions(self.devices, self.device, reuse=source_runs(self.reuse), track=self.track)


def plan_sweep(target: str, options: SweepOptions) -> Spec[Sweep]:
    """The sweep that an argument names, changed by options. Raises `UsageError` or `RecipeError` for a wrong one."""
    return changed_sweep(load_sweep(target), options)


def changed_sweep(sweep: Spec[Sweep], options: SweepOptions, variants: Sequence[Spec[Factor]] = ()) -> Spec[Sweep]:
    """The sweep, changed by options. variants: further factors. Raises `UsageError` or `RecipeError` for a wrong one."""
    sweep = sweep.replace(factors=(*sweep["factors"], *variants))
    if options.quick:
        sweep = quick_sweep(sweep)
    edits, factors = factors_of(options.sets, sweep["recipe"])
    if options.variants:
        factors.append(variants_factor(options.variants))
    changed: dict[str, Any] = {
        "edits": (*sweep["edits"], *edits),
        "factors": (*sweep["factors"], *factors),
        "gates": (*sweep["gates"], *parse_gates(options.gates)),
    }
    if options.seeds:
        changed["seeds"] = parse_seeds(options.seeds, options.first_seed)
    if options.search:
        changed["search"] = parse_search(options.search)
    if options.steps or options.seconds:
        changed |= {"steps": options.steps, "seconds": options.seconds}
    if options.measure:
        changed["measure"] = options.measure
    return sweep.replace(**changed)


def sweep_folder(target: str, sweep: Spec[Sweep], given: GivenInputs) -> Path:
    """The folder of a sweep that was given none: the one that the argument names, or one below runs/.

    Its name has what all runs share, so a sweep with more seeds, levels or gates continues in the same folder.
    """
    folder = named_folder(target) if target else None
    if folder and (folder / SWEEP_FILE).exists():
        return folder
    shared = [sweep["recipe"].hash, *sweep["edits"], sweep["steps"], sweep["seconds"]]
    return RUNS_FOLDER / f"sweep-{sweep['name']}-{json_digest(shared)[:8]}{given.folder_suffix()}"


def sweep_runs(target: str, options: SweepOptions, execution: SweepExecution) -> SweepSummary:
    """Run a sweep, or what is left of it; see `run_sweep`."""
    return execute_sweep(target, plan_sweep(target, options), execution)


def execute_sweep(target: str, sweep: Spec[Sweep], execution: SweepExecution) -> SweepSummary:
    """Run a sweep, or what is left of it. target: the argument that named it, "" for none."""
    given, how = execution.given, execution.options
    folder = execution.out or sweep_folder(target, sweep, given)
    with run_workers(execution.workers, execution.cluster, how) as workers:
        return run_sweep(sweep, SweepInputs(given, how), folder, workers)


def repeat_recipe(
    recipe: Spec[Recipe], seeds: str, given: GivenInputs, options: ExecutionOptions, out: Path | None
) -> SweepSummary:
    """`bitgolf run --seeds`: runs of a recipe that differ by their seed. given.seed: the first of a number of seeds."""
    chosen = parse_seeds(seeds, given.seed or 0)
    sweep = part(Sweep, name=recipe["name"], recipe=recipe, seeds=chosen)
    folder = out or sweep_folder("", sweep, given)
    return run_sweep(sweep, SweepInputs(given._replace(seed=None), options), folder)
