"""A method's row of results: its score, and for one that adapts that of the same windows without adaptation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import ALONE, World
from bitgolf.score.document_order import Order
from bitgolf.score.execution.batch_size import Batch, batch_for, out_of_memory, release
from bitgolf.score.execution.time_estimate import LIMIT, Clock
from bitgolf.score.methods import Method
from bitgolf.score.player import forward_in
from bitgolf.score.referee import Progress, Score, score
from bitgolf.score.text import Text

Tell = Callable[[str], None]


class Played(NamedTuple):
    """A score, and how it was come by. compiling: seconds of the score's that went into making graphs."""

    score: Score
    batch: Batch
    compiling: float
    forecast: float | None
    kernels: Sequence[str]
    remarks: Sequence[str]

    @property
    def seconds(self) -> float:
        """On the clock: graphs are compiled beside it, as in training."""
        return self.score.seconds - self.compiling


Known = dict[str, Played]


class Setting(NamedTuple):
    """What all scores of one text by one model share."""

    model: LM
    vocab: int
    text: Text
    device: Device
    world: World
    batch_tokens: int | None
    limit: float
    tell: Tell


def measure(
    model: LM,
    vocab: int,
    text: Text,
    method: Method,
    device: Device,
    *,
    order: Order | None = None,
    world: World = ALONE,
    batch_tokens: int | None = None,
    limit: float = LIMIT,
    tell: Tell = lambda line: None,
    known: Known | None = None,
) -> dict[str, Any]:
    """Score `text`, in corpus order, in the order given or else the method's own. The model is left as it was.

    batch_tokens: read at once, None for what `batch_for` suggests. limit: seconds; being over it is a remark.
    known: scores of this model and text that stand, which are not scored again: a method without adaptation may be
    another's `still()`. New ones join them.
    `gain` is adaptation's alone: bpb of the method's `still()`, scored first on the same windows of the same text, less
    its own. `fresh_share`: targets of each token read. `charged`: bits of the order, part of bpb. Nulls where there is none.
    """
    order, known = order or method.order, {} if known is None else known
    arranged, charged = order.arrange(text)
    setting = Setting(model, vocab, arranged, device, world, batch_tokens, limit, tell)

    def played(method: Method, name: str) -> Played:
        key = "" if method.adapts else plan(method, order)
        if key in known:
            return known[key]
        found = play(setting, method, name)
        found = found._replace(score=found.score._replace(charged=charged))
        if key:
            known[key] = found
        return found

    still = method.still()
    without = played(still, f"{method.name} without adaptation").score if still else None
    whole = played(method, method.name)
    found = whole.score
    return {
        **found._asdict(),
        "bpb": found.bpb,
        "adapts": method.adapts,
        "still_bpb": without and without.bpb,
        "gain": without and without.bpb - found.bpb,
        "compile_seconds": whole.compiling,
        "limit": limit,
        "forecast_seconds": whole.forecast,
        "targets_per_second": found.targets / max(whole.seconds, 1e-9),
        "fresh_share": found.targets / max(found.read, 1),
        "window": method.window,
        "stride": method.stride,
        "documents": "cross-document" if method.crosses else "isolated",
        "order": order.name,
        "processes": world.size,
        "device": device.why,
        "kernels": list(whole.kernels),
        "batch_tokens": whole.batch.tokens,
        "remarks": [*method.remarks(arranged), *whole.remarks],
    }


def play(setting: Setting, method: Method, name: str) -> Played:
    """Score with a player of the method's own. Where memory runs out, it begins again with half the batch, and says so."""
    batch, remarks = batch_for(setting.model, method, setting.device, setting.world, setting.batch_tokens), []
    while (found := _attempt(setting, method, name, batch)) is None:
        release()
        batch = batch.halved(method.window, setting.world)
        remarks.append(f"{batch.why} tokens at once, so {batch.tokens:,} were read")
        setting.tell(f"{name}: {remarks[-1]}")
    if found.seconds > setting.limit:
        expected = "" if found.forecast is None else f" (forecast {found.forecast:,.0f} s)"
        remarks.append(f"scoring took {found.seconds:,.1f} s, over the limit of {setting.limit:,g} s{expected}")
    return found._replace(remarks=remarks)


def _attempt(setting: Setting, method: Method, name: str, batch: Batch) -> Played | None:
    """None where memory ran out."""
    model, vocab, text, device, world, *_ = setting
    try:
        with closing(method.player(model, vocab, device, world)) as player:
            if forward := forward_in(player):
                forward.limit(batch.tokens)
            clock = Clock(text.targets / world.size, setting.limit)
            line = progress(name, setting, batch, clock)
            found = score(player, text, method, world=world, batch_tokens=batch.tokens, progress=line)
            compiling, kernels = (forward.seconds, forward.kernels) if forward else (0.0, ())
            return Played(found, batch, compiling, clock.forecast, kernels, ())
    except Exception as error:
        if not out_of_memory(error):
            raise
    return None


def plan(method: Method, order: Order) -> str:
    """What decides the score of a method that does not adapt: classes and settings."""
    settings = [dict(sorted(vars(it).items())) for it in (method, order)]
    return f"{type(method).__name__} {settings[0]} {type(order).__name__} {settings[1]}"


def progress(name: str, setting: Setting, batch: Batch, clock: Clock) -> Progress:
    """Says how far this process is, the bits per byte of what it has scored, its own speed, and how long it will take."""
    text, world = setting.text, setting.world
    whose = f" by process {world.rank} of {world.size}" if world.size > 1 else ""

    def line(done: int, targets: int, bits: float) -> None:
        expected = clock.at(done)
        bpb = bits / done * text.targets / text.bytes
        setting.tell(
            f"{name}: {done:,} / {targets:,} targets{whose}, {bpb:.4f} bits per byte so far, {batch.tokens:,} tokens at "
            f"once ({batch.why}), {clock.words(expected)}, {done / clock.elapsed:,.0f} targets/s"
        )

    return line
