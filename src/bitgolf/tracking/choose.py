"""Trackers by name, as `--track` names them: `tensorboard:FOLDER`, `wandb:PROJECT`, `trackio:PROJECT`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from bitgolf.errors import UsageError
from bitgolf.tracking.tensorboard import TensorBoard
from bitgolf.tracking.tracker import Tracker
from bitgolf.tracking.trackio import Trackio
from bitgolf.tracking.wandb import WandB

TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


def make_tracker(given: str) -> Tracker:
    """The tracker of a text `KIND:PLACE`. Raises `UsageError` for another text, or if the tracker's package is missing."""
    kind, _, place = given.partition(":")
    if kind not in TRACKERS or not place.strip() or not place.isprintable():
        expected = ", ".join(f"{name}:{'FOLDER' if name == 'tensorboard' else 'PROJECT'}" for name in TRACKERS)
        raise UsageError(f"expected one of {expected}, got {given!r:.200}", where="--track")
    if find_spec(TRACKERS[kind].package) is None:
        hint = f"pip install 'bitgolf[{kind}]', or leave --track out"
        raise UsageError(f"it needs the package {TRACKERS[kind].package}", where=f"--track {kind}", hint=hint)
    return TRACKERS[kind](place)


def make_trackers(given: Sequence[str]) -> list[Tracker]:
    """The trackers of several texts; see `make_tracker`."""
    return [make_tracker(text) for text in dict.fromkeys(given)]
