"""The folder of a sweep: its runs, and `sweep.json` with the sweep, its inputs, stopped runs and the rounds of its search.

What is done is read from the folders of the runs, so a sweep that was killed continues with the same command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bitgolf.config.parse import from_json
from bitgolf.config.requirements import check_requirements, convert_requirements, missing_code_located, requirements
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError
from bitgolf.files import read_checked_json, write_checked_json
from bitgolf.pipeline.reporting import read_result
from bitgolf.pipeline.stages import STAGE_NAMES, STAGES
from bitgolf.pipeline.state import Run, RunInputs, open_run
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.store.entry import RunEntry, read_entry
from bitgolf.store.index import run_folders
from bitgolf.sweeps.factors import SweepVariant
from bitgolf.sweeps.job import RunEnd
from bitgolf.sweeps.prefix import PrefixScore, read_prefix_scores, training_stage_key
from bitgolf.sweeps.search.search import Round
from bitgolf.sweeps.sweep import Sweep

SWEEP_FILE = "sweep.json"
SWEEP_FILE_FORMAT = 1
LONGEST_NAME = 48
"""Characters of a variant's name in the name of a folder."""


RunKey = tuple[SweepVariant, int, float]
"""SweepVariant, seed and share of the training: what identifies a run in its sweep."""


class RunUnit(NamedTuple):
    """A run of a sweep: a variant with a seed.

    share: of the training. prefix_tokens: 0 for a training of this length; otherwise the recipe's is left unfinished at
    the share, and scored on so many held-out tokens, see `Round`.
    """

    variant: SweepVariant
    seed: int
    recipe: Spec[Recipe]
    share: float = 1.0
    prefix_tokens: int = 0

    @property
    def key(self) -> RunKey:
        """What identifies the run in its sweep."""
        return self.variant, self.seed, self.share

    @property
    def folder_name(self) -> str:
        """Name of its folder: the variant, the first digits of its recipe's hash, and the seed."""
        words = re.sub(r"[^A-Za-z0-9=._+-]+", "-", self.variant.name).strip("-.")[:LONGEST_NAME]
        return f"{words or 'variant'}-{recipe_hash(self.recipe)[:8]}-s{self.seed}"


class SweepRecord(msgspec.Struct, kw_only=True):
    """Contents of `sweep.json`. sweep: its JSON form. inputs: text or shards of all runs; the seed is not used.

    stops: name of a run -> the gate that stopped it, and why. rounds: variants, share and reason of each round.
    """

    sweep: dict[str, Any]
    inputs: RunInputs
    requires: list[Any] = []
    stops: dict[str, dict[str, str]] = {}
    rounds: list[dict[str, Any]] = []
    format: int = SWEEP_FILE_FORMAT


class SweepFolder:
    """The folder of a sweep, opened for writing by `run_sweep` and for reading by others."""

    def __init__(self, folder: Path, record: SweepRecord) -> None:
        self.folder, self.record = folder, record

    def write(self) -> None:
        """Write `sweep.json`."""
        write_checked_json(self.folder / SWEEP_FILE, msgspec.to_builtins(self.record))

    def run_folder(self, unit: RunUnit) -> Path:
        """The folder of a run."""
        return self.folder / unit.folder_name

    def sources(self) -> tuple[Path, ...]:
        """The folders of all runs so far."""
        return tuple(run_folders(self.folder, 1))

    def finished(self, unit: RunUnit) -> RunEntry | None:
        """The results of a run, None if it is not finished, damaged, or of a text that has changed since."""
        try:
            run = self._opened(unit)
            if not run or list(run.completed) != list(STAGE_NAMES) or read_result(run).hash != recipe_hash(unit.recipe):
                return None
        except BitgolfError:
            return None
        return read_entry(run.folder, run.folder.name)

    def prefix_score(self, unit: RunUnit) -> PrefixScore | None:
        """The score of a training that was left unfinished there, None if it is not known."""
        try:
            run = self._opened(unit)
            key = training_stage_key(run) if run else ""
        except BitgolfError:
            return None
        found = read_prefix_scores(self.run_folder(unit))
        wanted = key, unit.share, unit.prefix_tokens
        return next((score for score in found if (score.key, score.share, score.tokens) == wanted), None)

    def _opened(self, unit: RunUnit) -> Run | None:
        """A run, None if it is of another recipe, text or seed. Raises `BitgolfError` if it is missing or damaged."""
        run = open_run(self.run_folder(unit), RunLog(quiet=True))
        same = run.seed == unit.seed and recipe_hash(run.recipe) == recipe_hash(unit.recipe)
        return run if same and _has_same_text(run, self.record.inputs) else None

    def stop_of(self, unit: RunUnit, gates: Mapping[str, Any]) -> RunEnd | None:
        """Why a run was stopped, None if it was not, or the gate is no longer one of `gates`."""
        stop = self.record.stops.get(unit.folder_name)
        return RunEnd(stop["gate"], stop["reason"]) if stop and stop["gate"] in gates else None

    def add_stop(self, unit: RunUnit, end: RunEnd) -> None:
        """Record that a gate stopped a run."""
        self.record.stops = {**self.record.stops, unit.folder_name: {"gate": end.gate, "reason": end.reason}}
        self.write()

    def set_rounds(self, rounds: list[Round]) -> None:
        """Record the rounds of the search so far, with their reasons."""
        found = [
            {"variants": [variant.name for variant in r.variants], "share": r.share, "reason": r.reason} for r in rounds
        ]
        if found != self.record.rounds:
            self.record.rounds = found
            self.write()


def _has_same_text(run: Run, inputs: RunInputs) -> bool:
    """Whether a run has the inputs of the sweep, and its text is as it was when it was prepared."""
    same = replace(run, seed=inputs.seed).inputs == inputs
    return same and STAGES[0].unchanged(run)


def new_record(sweep: Spec[Sweep], inputs: RunInputs) -> SweepRecord:
    """The record of a sweep that has not begun."""
    plain = sweep.to_json()
    return SweepRecord(sweep=plain, inputs=inputs, requires=msgspec.to_builtins(requirements(plain)))


def read_record(folder: Path) -> SweepRecord | None:
    """The record in a folder, None if there is no sweep.

    Raises `FormatVersionError` if it has another format, and `CorruptFileError` if it is not valid.
    """
    file = folder / SWEEP_FILE
    if not file.exists():
        return None
    hint = "move the file away and start the sweep again: finished runs in the folder are kept"
    try:
        written = read_checked_json(file)
        if (found := written.get("format")) != SWEEP_FILE_FORMAT:
            raise FormatVersionError("the sweep", found=found, supported=SWEEP_FILE_FORMAT, where=str(file))
        return msgspec.convert(written, SweepRecord)
    except FormatVersionError:
        raise
    except (CorruptFileError, msgspec.ValidationError) as error:
        raise CorruptFileError(f"not a sweep ({error})", where=str(file), hint=hint) from error


def stored_sweep(folder: Path, record: SweepRecord) -> Spec[Sweep]:
    """The sweep of a record. Raises `MissingCodeError` if it needs code that is not loaded."""
    with missing_code_located(folder / SWEEP_FILE):
        check_requirements(convert_requirements(record.requires), record.sweep)
    return from_json(record.sweep)


def sweep_name(folder: Path) -> str:
    """The name of the sweep in a folder, "" for a folder without one."""
    record = read_record(folder)
    return str(record.sweep.get("name", "")) if record else ""


def variant_groups(folder: Path) -> dict[str, list[Path]]:
    """The runs of a sweep by variant: name and hash, as in the names of their folders -> folders; the base comes first.

    Nothing for a folder without a sweep.
    """
    if not (folder / SWEEP_FILE).exists():
        return {}
    groups = dict[str, list[Path]]()
    for run in run_folders(folder, 1):
        groups.setdefault(run.name.rpartition("-s")[0], []).append(run)
    return dict(sorted(groups.items(), key=lambda item: not item[0].startswith("base-")))
