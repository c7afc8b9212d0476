"""Which fused kernels train, and why: chosen by ability before the graph is compiled, said aloud, never silently.

A recipe names plain parts only. Where the device is able, a part that has a fast twin is replaced by it in the model
that trains; scoring builds its own model from the recipe, which stays plain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from bitgolf.errors import RecipeError
from bitgolf.model.caps import Softcap
from bitgolf.model.cores.flex import Flex
from bitgolf.model.cores.fused import Fused
from bitgolf.model.cores.sdpa import Sdpa, Segments
from bitgolf.model.cores.segments import segment_starts
from bitgolf.model.cores.varlen import Varlen
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.model.objectives import CrossEntropy
from bitgolf.train.ability import Call, Make, flash_implementation, inability, record
from bitgolf.train.device import Device
from bitgolf.train.trainer import Task
from bitgolf.train.twins import FusedCrossEntropy, FusedMLP

Kind = tuple[str, tuple[Any, ...]]  # what a part is called, and the shapes and types that it is called with
SPARE = 4
"""For how many times the segments of the batch at hand variable-length attention has room."""


class Site(NamedTuple):
    """A plain module, what it is called, and its twins, the one to prefer first."""

    what: str
    plain: nn.Module
    twins: Sequence[tuple[str, Make]]


class Verdict(NamedTuple):
    """What trains in the place of a kind of part: a twin's name ("": the plain part), and why none, or none better."""

    twin: str
    why: str


def choose(task: Task, ids: Tensor, targets: Tensor, device: Device, *, mode: str, compiled: bool) -> list[str]:
    """Put fast twins in the place of plain parts of a task; returns a line on each kind of part that has any.

    ids and targets (B, T) are rows as the task will see them. mode: `train.kernels` of the recipe. compiled: whether
    the task will be. Raises `RecipeError` where the mode is `fast` and a kind of part must stay plain.
    """
    found = list(sites(task, ids, compiled=compiled))
    lines: list[str] = []
    if mode == "plain" or device.device.type != "cuda":
        why = "train.kernels says so" if mode == "plain" else "there is no CUDA device here"
        verdicts = {(site.what, ()): Verdict("", why) for site in found}
    else:
        lines.append(f"flash attention: {flash_implementation(device)}")
        verdicts = swap(task, found, ids[:1], targets[:1], device, compiled=compiled)
    for (what, _), verdict in verdicts.items():
        if mode == "fast" and not verdict.twin:
            raise RecipeError(f"{what} must stay plain: {verdict.why}", place="train.kernels", mend="set it to 'auto'")
        lines.append(f"{what}: {verdict.twin or 'plain'}{f' ({verdict.why})' * bool(verdict.why)}")
    return list(dict.fromkeys(lines))


def segment_slots(core: Sdpa, ids: Tensor, bos: int) -> int:
    """Room for the segments of a batch, a multiple of 64: documents as here, with some to spare, and all cuts by caps."""
    documents = int(segment_starts((ids == bos).cumsum(1), 0).sum())
    cuts = sum(ids.numel() // mask.cap for mask in core.masks if isinstance(mask, Segments) and mask.cap)
    return 64 * -(-(SPARE * documents + cuts) // 64)


def sites(task: Task, ids: Tensor, *, compiled: bool) -> Iterator[Site]:
    """Every plain part of a task that has a fast twin; ids (B, T) tell how many segments there are."""
    caps = list(task.model.head.caps)
    if type(task.objective) is CrossEntropy and len(caps) == 1 and isinstance(caps[0], Softcap):
        cap = caps[0].cap
        yield Site("softcapped cross-entropy", task.objective, [("fused", lambda _: FusedCrossEntropy(cap))])
    for module in task.modules():
        if type(module) is MLP and type(module.act) is LeakySquared:
            yield Site("MLP with LeakySquared", module, [("fused", FusedMLP)])
        elif type(module) is Sdpa and len(module.masks):
            varlen = partial(Varlen, slots=segment_slots(module, ids, task.model.bos))
            flex = Flex if compiled else _uncompiled
            yield Site(_described(module), module, [("variable-length", varlen), ("FlexAttention", flex)])
        elif type(module) is Sdpa:
            backends = {"FlashAttention": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
            twins = [(name, partial(Fused, backend=backend)) for name, backend in backends.items()]
            yield Site(_described(module), module, twins)


def swap(
    task: Task, found: Sequence[Site], ids: Tensor, targets: Tensor, device: Device, *, compiled: bool
) -> dict[Kind, Verdict]:
    """Try the twins of each kind of site on a call of its own, and put the first that is able into all its places."""
    paths = list(task.named_modules(remove_duplicate=False))  # a module that blocks share has several
    verdicts: dict[Kind, Verdict] = {}
    with torch.random.fork_rng([device.device] if device.device.type == "cuda" else []):
        calls = record(task, [site.plain for site in found], device, ids, targets)
        for site in found:
            call = calls.get(site.plain)
            kind = (site.what, call.form if call else ())
            if kind not in verdicts:
                verdicts[kind] = first_able(site, call, device, compiled=compiled)
            if make := dict(site.twins).get(verdicts[kind].twin):
                twin = make(site.plain)
                for path in [path for path, module in paths if module is site.plain]:
                    task.set_submodule(path, twin)
    return verdicts


def first_able(site: Site, call: Call | None, device: Device, *, compiled: bool) -> Verdict:
    """The first twin that is able to take this call, with what is against those before it."""
    if call is None:
        return Verdict("", "it is idle when training starts, so that nothing can be tried")
    against = []
    for name, make in site.twins:
        why = inability(make, site.plain, call, device, compiled=compiled)
        if not why:
            return Verdict(name, "; ".join(against))
        against.append(f"{name}: {why}")
    return Verdict("", "; ".join(against))


def _uncompiled(plain: Sdpa) -> nn.Module:
    raise ValueError("it is fast in a compiled graph only")


def _described(core: Sdpa) -> str:
    masks = [f"{type(m).__name__}({getattr(m, 'width', getattr(m, 'cap', ''))})" for m in core.masks]
    return f"attention{' with ' * bool(masks)}{', '.join(masks)}"
