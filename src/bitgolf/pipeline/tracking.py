"""The trackers of a run (`--track`): what they are told when it starts, and which events reach them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitgolf import __version__
from bitgolf.config.spec import Spec
from bitgolf.pipeline.learning_rates import LearningRates
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.tracking.choose import make_trackers
from bitgolf.tracking.observer import TrackingObserver
from bitgolf.tracking.tracker import TrackedRun


@contextmanager
def tracked(recipe: Spec[Recipe], folder: Path, seed: int, log: RunLog, trackers: tuple[str, ...]) -> Iterator[None]:
    """Pass the events of `log` to trackers, for the duration of a block. A tracker that fails is a warning of the log.

    trackers: as `--track` names them. A tracked run has the name of the folder of the run.
    """
    if not trackers:
        yield
        return
    run = TrackedRun(
        folder.resolve().name,
        {
            "recipe": recipe["name"],
            "hash": recipe_hash(recipe),
            "seed": seed,
            "version": __version__,
            "folder": str(folder.resolve()),
            "settings": recipe.to_json(),
        },
    )
    rates = LearningRates(recipe().train()).rates
    observer = TrackingObserver(make_trackers(trackers), run, lambda text: log.event("warning", message=text), rates)
    log.observers = [*log.observers, observer]
    try:
        yield
    finally:
        observer.finish()
