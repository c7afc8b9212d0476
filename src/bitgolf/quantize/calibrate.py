"""Calibration: what the codecs must know of a model's matrices, measured before they are rounded, and kept in the run folder.

Every process observes batches of its own; the sums are those of all. (In published runs each rank kept what it had
seen, and only the first one's file was written: seven eighths of the work lost. openai/parameter-golf, pull request 1855.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bitgolf.errors import DamagedError, RecipeError, UsageError
from bitgolf.files import write_bytes
from bitgolf.quantize.codec import Codec
from bitgolf.quantize.observe import Sums, means, observe
from bitgolf.quantize.samples import Source, Subject, TrainingText
from bitgolf.quantize.stats import Calibration, Stats
from bitgolf.recipe import Recipe, as_trained
from bitgolf.spec import Spec, part, register
from bitgolf.world import ALONE, World, total


@register
class Calibrate:
    """What the model is watched on, and the seconds of the training clock that are kept for it (`reserve`)."""

    def __init__(self, *, source: Spec[Source] = part(TrainingText), reserve: float = 0.0) -> None:
        if not reserve >= 0:
            raise RecipeError(f"a reserve is not negative, {reserve} is", place="Calibrate.reserve")
        self.source, self.reserve = source(), reserve

    def share(self, world: World) -> range:
        """The numbers of this process's batches. Raises `UsageError` where some process would have none."""
        if self.source.batches < world.size:
            raise UsageError(
                f"{world.size} processes cannot share {self.source.batches} batches of calibration",
                place="calibrate.source",
                mend="more batches (or sequences, or fewer rows), or fewer --devices",
            )
        return range(world.rank, self.source.batches, world.size)

    def measure(
        self, subject: Subject, world: World = ALONE, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> dict[str, Stats]:
        """path -> statistics of every matrix that was used, over the batches of all processes; the same in each.

        `progress` hears (done, of) batches. Raises `BitgolfError` where the model meets a number that is not finite.
        """
        mine, batch, sums = self.share(world), self.source.open(subject), Sums()
        for done, number in enumerate(mine, start=1):
            # Each batch draws its targets by its own number, so it does not matter who observes it.
            _add(sums, observe(subject.model, [batch(number)], seed=number))
            progress(done, len(mine))
        return means(_over(sums, world))


def check(recipe: Spec[Recipe], processes: int = 1) -> None:
    """Raises `RecipeError` unless a recipe calibrates exactly where a codec asks for it, and in the time that it has."""
    codecs = enumerate(rule().use() for rule in recipe["quantize"])
    asking = [i for i, codec in codecs if isinstance(codec, Codec) and codec.calibrated]
    if recipe["calibrate"] is None:
        if asking:
            raise RecipeError(
                "its codec asks for calibration, and the recipe has none",
                place=f"quantize.{asking[0]}.use",
                mend="--set 'calibrate=Calibrate()', or a codec that rounds to the nearest",
            )
        return
    calibrate = recipe["calibrate"]()
    if not isinstance(calibrate, Calibrate):
        raise RecipeError(f"{recipe['calibrate'].name} is no calibration", place="calibrate")
    if not asking:
        raise RecipeError(
            "no codec asks for calibration, so it would do nothing",
            place="calibrate",
            mend="--set calibrate=none, or a codec that uses it, such as IntRows(solve=Gptq())",
        )
    as_trained(recipe)
    calibrate.share(World(size=processes))


# ---- sums of many ------------------------------------------------------------------------------------------------


def _add(sums: Sums, more: Sums) -> None:
    for name, own in _by_path(sums).items():
        for path, value in _by_path(more)[name].items():
            own[path] = own[path] + value if path in own and isinstance(value, Tensor) else value
    sums.tokens += more.tokens


def _over(sums: Sums, world: World) -> Sums:
    """The sums over all processes, in each of them. All ask for the same tensors in the same order, else they would wait forever."""
    for _, own in sorted(_by_path(sums).items()):
        own.update({path: total(v, world) if isinstance(v, Tensor) else v for path, v in sorted(own.items())})
    sums.tokens = int(total(torch.tensor(sums.tokens, device=world.device), world))
    return sums


def _by_path(sums: Sums) -> dict[str, dict[str, Any]]:
    """All that was seen, by its kind: sums of tensors, and which matrices read one input."""
    return {kind: seen for kind, seen in vars(sums).items() if isinstance(seen, dict)}


def distinct(stats: Calibration) -> int:
    """How many Hessians there are, shared ones counted once."""
    return len({id(s.hessian) for s in stats.values()})


# ---- in the run folder -------------------------------------------------------------------------------------------


def save_calibration(path: Path, stats: Calibration) -> None:
    """All statistics in one .safetensors file, whole or not at all. A Hessian that matrices share is stored once."""
    owners: dict[int, str] = {}
    owned = {name: owners.setdefault(id(stats[name].hessian), name) for name in sorted(stats)}
    hessians = {f"hessian:{name}": stats[name].hessian.contiguous() for name in owners.values()}
    outputs = {f"outputs:{name}": stats[name].outputs.contiguous() for name in owned}
    table = {name: [owner, stats[name].tokens] for name, owner in owned.items()}
    write_bytes(path, save({**hessians, **outputs}, {"matrices": json.dumps(table)}))


def load_calibration(path: Path) -> dict[str, Stats]:
    """The inverse of `save_calibration`, sharing included. Raises `DamagedError` for a missing or damaged file."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            table = json.loads((file.metadata() or {})["matrices"])
        return {name: _read(tensors, name, owner, tokens) for name, (owner, tokens) in table.items()}
    except OSError:
        raise DamagedError("cannot be read", place=str(path), mend="--from calibrate") from None
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"not a calibration ({error})", place=str(path), mend="--from calibrate") from None


def _read(tensors: Mapping[str, Tensor], name: str, owner: Any, tokens: Any) -> Stats:
    hessian, outputs = tensors[f"hessian:{owner}"], tensors[f"outputs:{name}"]
    square = hessian.ndim == 2 and hessian.shape[0] == hessian.shape[1] and outputs.ndim == 1
    if not square or not hessian.dtype == outputs.dtype == torch.float32 or type(tokens) is not int or tokens < 1:
        raise ValueError(f"what is said of {name} is no statistics")
    if not (hessian.isfinite().all() and outputs.isfinite().all()):
        raise ValueError(f"a number of {name} is not finite")
    return Stats(hessian, outputs, tokens)
