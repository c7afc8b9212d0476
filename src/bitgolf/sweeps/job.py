"""One run of a sweep as a job for any process: this one, another of this host, or one of a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bitgolf.config.code_files import CODE_FILES, CodeFile, load_code_files
from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, Interrupted, Stopped
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.display import Display, current_display, shown_on
from bitgolf.report.progress import Progress
from bitgolf.store.index import run_folders
from bitgolf.sweeps.gates import Curve, Gate, GatedRun
from bitgolf.sweeps.prefix import record_prefix_score, unknown_score


class RunJob(NamedTuple):
    """A run to execute. Parts are in their JSON form, so that every process can read the job.

    recipe, gates: JSON texts. code: code files that they need. name: of the run, for messages. references: see
    `GatedRun`. last_stage: after which the run is left unfinished, "" for none. prefix_tokens: held-out tokens to score
    when the training has reached `options.train_until`, where it is left unfinished; 0 for a whole run.
    """

    recipe: str
    gates: tuple[str, ...]
    code: tuple[CodeFile, ...]
    name: str
    folder: Path
    given: GivenInputs
    options: ExecutionOptions
    references: tuple[tuple[Curve, ...], ...]
    last_stage: str = ""
    prefix_tokens: int = 0


class RunEnd(NamedTuple):
    """How a run ended. gate: that stopped it, as a recipe writes it, "" for none. reason: of the gate, or the error."""

    gate: str = ""
    reason: str = ""


def make_job(
    recipe: Spec[Recipe],
    gates: Sequence[Spec[Gate]],
    folder: Path,
    given: GivenInputs,
    options: ExecutionOptions,
    references: Sequence[Sequence[Curve]] = (),
) -> RunJob:
    """The job of a run. It resumes a training that was interrupted."""
    return RunJob(
        json.dumps(recipe.to_json()),
        tuple(json.dumps(gate.to_json()) for gate in gates),
        tuple(CODE_FILES.values()),
        folder.name,
        folder,
        given,
        options._replace(resume=True),
        tuple(map(tuple, references)),
    )


def run_job(job: RunJob) -> RunEnd:
    """Execute a run, or what is left of it, with the stages that other runs of the sweep have done by now.

    Raises `Interrupted` on a signal; another error is how the run ended.
    """
    load_code_files(list(job.code))
    gates = [from_json(json.loads(gate)) for gate in job.gates]
    watch = GateWatch(gates, GatedRun(job.folder, job.references), job.last_stage)
    options = job.options._replace(reuse=(*run_folders(job.folder.parent, 1), *job.options.reuse))
    try:
        with _shown_briefly(job.name):
            _execute(job, options, watch)
    except Interrupted:
        raise
    except BitgolfError as error:
        return watch.stopped or RunEnd(reason=" ".join(str(error).split()))
    return RunEnd()


def _execute(job: RunJob, options: ExecutionOptions, watch: GateWatch) -> None:
    """Execute a run, or the beginning of its training and the score of its weights. Raises `Stopped` if a gate stops it."""
    started = time.perf_counter()
    try:
        run_recipe(from_json(json.loads(job.recipe)), job.given, options, out=job.folder, observers=[watch])
    except Stopped:
        if watch.stopped or not job.prefix_tokens:
            raise
        seconds = round(time.perf_counter() - started, 2)
        record_prefix_score(job.folder, options.train_until, job.prefix_tokens, options, seconds)
    else:
        if job.prefix_tokens:
            raise unknown_score(job.folder, options.train_until)


class GateWatch:
    """Observer of a run that asks its gates after each event. stopped: by which gate, and why; None while it goes on.

    last_stage: the run is left unfinished after it.
    """

    def __init__(self, gates: Sequence[Spec[Gate]], run: GatedRun, last_stage: str = "") -> None:
        self.gates, self.run, self.last_stage = [(repr(gate), gate()) for gate in gates], run, last_stage
        self.stopped: RunEnd | None = None

    def __call__(self, event: dict[str, Any]) -> str | None:
        if self.stopped is None:
            for name, gate in self.gates:
                if reason := gate.reason(event, self.run):
                    self.stopped = RunEnd(name, reason)
                    return reason
        if event["event"] in ("stage_done", "taken_over") and event.get("stage") == self.last_stage:
            return f"{self.last_stage} is done"
        return None


class _RunDisplay(Display):
    """Shows the progress of one of many runs; its messages are in `run.log`, and shown with --verbose."""

    def __init__(self, name: str, shown: Display) -> None:
        super().__init__(verbose=shown.verbose)
        self.name, self.shown = name, shown

    def message(self, text: str) -> None:
        if text.startswith("warning:"):
            self.shown.message(f"{self.name}: {text}")
        else:
            self.shown.detail(text)

    def progress(self, progress: Progress) -> None:
        self.shown.progress(Progress(f"{self.name}, {progress.stage}", *_rest(progress)))

    def end_progress(self) -> None:
        self.shown.end_progress()


def _rest(progress: Progress) -> tuple[float | None, float | None, tuple[str, ...]]:
    return progress.share, progress.seconds_left, progress.details


@contextmanager
def _shown_briefly(name: str) -> Iterator[None]:
    with shown_on(_RunDisplay(name, current_display())):
        yield
