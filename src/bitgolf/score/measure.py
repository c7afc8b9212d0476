"""A method's row of results: its score, and for one that adapts that of the same windows without adaptation."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from bitgolf.model.skeleton import LM
from bitgolf.score.orders import Order
from bitgolf.score.referee import Progress, Score, score
from bitgolf.score.text import Text
from bitgolf.score.windows import Method
from bitgolf.train.device import Device
from bitgolf.world import ALONE, World

Tell = Callable[[str], None]
Known = dict[str, Score]


def measure(
    model: LM,
    vocab: int,
    text: Text,
    method: Method,
    device: Device,
    *,
    order: Order | None = None,
    world: World = ALONE,
    batch_tokens: int = 4096,
    tell: Tell = lambda line: None,
    known: Known | None = None,
) -> dict[str, Any]:
    """Score `text`, in corpus order, in the order given or else the method's own. The model is left as it was.

    known: scores of this model and text that stand, which are not scored again: a method without adaptation may be
    another's `still()`. New ones join them.
    `gain` is adaptation's alone: bpb of the method's `still()`, scored first on the same windows of the same text, less
    its own. `fresh_share`: targets of each token read. `charged`: bits of the order, part of bpb. Nulls where there is none.
    """
    order, known = order or method.order, {} if known is None else known
    arranged, charged = order.arrange(text)

    def play(method: Method, name: str) -> Score:
        key = "" if method.adapts else plan(method, order)
        if key in known:
            return known[key]
        with closing(method.player(model, vocab, device, world)) as player:
            line = progress(name, arranged, world, tell)
            found = score(player, arranged, method, world=world, batch_tokens=batch_tokens, progress=line)
        found = found._replace(charged=charged)
        if key:
            known[key] = found
        return found

    still = method.still()
    without = play(still, f"{method.name} without adaptation") if still else None
    found = play(method, method.name)
    return {
        **found._asdict(),
        "bpb": found.bpb,
        "adapts": method.adapts,
        "still_bpb": without and without.bpb,
        "gain": without and without.bpb - found.bpb,
        "targets_per_second": found.targets / max(found.seconds, 1e-9),
        "fresh_share": found.targets / max(found.read, 1),
        "window": method.window,
        "stride": method.stride,
        "documents": "cross-document" if method.crosses else "isolated",
        "order": order.name,
        "processes": world.size,
        "remarks": method.remarks(arranged),
    }


def plan(method: Method, order: Order) -> str:
    """What decides the score of a method that does not adapt: classes and settings."""
    settings = [{k: v for k, v in sorted(vars(it).items()) if k != "built_from"} for it in (method, order)]
    return f"{type(method).__name__} {settings[0]} {type(order).__name__} {settings[1]}"


def progress(name: str, text: Text, world: World, tell: Tell) -> Progress:
    """Says how far this process is, the bits per byte of what it has scored, and its own speed."""
    started = time.perf_counter()
    whose = f" by process {world.rank} of {world.size}" if world.size > 1 else ""

    def line(done: int, targets: int, bits: float) -> None:
        speed = done / max(time.perf_counter() - started, 1e-9)
        bpb = bits / done * text.targets / text.bytes
        tell(f"{name}: {done:,} / {targets:,} targets{whose}, {bpb:.4f} bits per byte so far, {speed:,.0f} targets/s")

    return line
