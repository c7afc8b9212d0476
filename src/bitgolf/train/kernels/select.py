"""Which fused kernels run, and why: chosen by agreement and by measured speed, before the graph is compiled.

A recipe names plain parts only. Where a fast twin of a part agrees with it on this device and is the fastest, it takes
the part's place in the model at hand, in training and in scoring alike; `Choice.restore` puts the plain parts back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from bitgolf.errors import RecipeError, Unsupported
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.chunked import LONGEST_MASK
from bitgolf.model.attention.cores.flash_attention import Flash
from bitgolf.model.attention.cores.flex_attention import Flex
from bitgolf.model.attention.cores.sdpa import Sdpa
from bitgolf.model.attention.cores.sdpa_backend import Fused
from bitgolf.model.attention.cores.segment_capacity import Room, Segmented, SegmentSlots
from bitgolf.model.attention.cores.varlen import Varlen
from bitgolf.model.attention.exclusive import ExclusiveSelf
from bitgolf.model.attention.gates import HeadGate
from bitgolf.model.logits_transforms import Softcap
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.model.objectives import CrossEntropy
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import ALONE, World, shared
from bitgolf.train.kernels.fused import ExclusiveThenGate, FusedCrossEntropy, FusedExclusiveGate, FusedMLP
from bitgolf.train.kernels.parity import Call, Make, Timer, Trial, milliseconds, record
from bitgolf.train.loss_module import Task

PARITY_TOKENS = 4096
"""Tokens of one row on which twins are compared with plain parts, which make masks of that many times as many."""

FLASH: dict[str, Make] = {f"FlashAttention {n}": partial(Flash, version=n) for n in (4, 3)}
MLPS: dict[str, Make] = {"fused": FusedMLP, "fused with TMA": partial(FusedMLP, tma=True)}
BACKENDS: dict[str, Make] = {
    "FlashAttention of PyTorch": partial(Fused, backend=SDPBackend.FLASH_ATTENTION),
    "cuDNN": partial(Fused, backend=SDPBackend.CUDNN_ATTENTION),
}

Say = Callable[[str], object]


class Site(NamedTuple):
    """A plain part, what it is called, and its twins by name; and where in the model all of this is.

    probe: the module whose first call the part is tried with. place: the module that makes way, for `fill(twin)`.
    """

    what: str
    plain: nn.Module
    twins: Mapping[str, Make]
    probe: nn.Module
    place: nn.Module
    fill: Callable[[nn.Module], nn.Module] = lambda twin: twin

    @classmethod
    def of(cls, what: str, module: nn.Module, twins: Mapping[str, Make]) -> Site:
        """A single module of the model."""
        return cls(what, module, twins, module, module)


class Verdict(NamedTuple):
    """What runs in the place of a part: a twin's name ("": the plain part), why, and its room for segments."""

    twin: str
    why: str
    room: Room = Room(0, 0)


class Choice:
    """The twins in a model: `lines` say what was chosen and why, `slots.fit` makes room for each batch's segments."""

    def __init__(self, root: nn.Module, found: Sequence[Site], verdicts: Sequence[Verdict], bos: int, say: Say) -> None:
        self.root, self.verdicts, self.replaced = root, verdicts, dict[str, nn.Module]()
        paths = list(root.named_modules(remove_duplicate=False))  # a module that blocks share has several
        for site, verdict in zip(found, verdicts, strict=True):
            if verdict.twin:
                twin = site.twins[verdict.twin](site.plain)
                if isinstance(twin, Segmented) and twin.caps:
                    twin.set_capacity(verdict.room)
                for path in [path for path, module in paths if module is site.place]:
                    self.replaced[path] = site.place
                    root.set_submodule(path, site.fill(twin))
        described = [
            f"{site.what}: {verdict.twin or 'plain'}{f' ({verdict.why})' * bool(verdict.why)}"
            for site, verdict in zip(found, verdicts, strict=True)
        ]
        self.lines = list(dict.fromkeys(described))
        self.slots = SegmentSlots(root, bos, say)

    def restore(self) -> None:
        """Put the plain parts back: the model is as it was found."""
        for path, plain in self.replaced.items():
            self.root.set_submodule(path, plain)
        self.replaced, self.slots.cores = {}, []


def choose(
    root: nn.Module,
    inputs: Sequence[Tensor],
    device: Device,
    *,
    mode: str,
    compiled: bool,
    bos: int,
    backward: bool = True,
    world: World = ALONE,
    look: Iterable[npt.ArrayLike] = (),
    say: Say = print,
) -> Choice:
    """Put fast twins in the place of plain parts of a `Task`, or of an `LM` that is scored.

    inputs: rows as `root` will be called with, ids (B, T) first. mode: `train.kernels` of the recipe. compiled: whether
    the graph will be. backward: whether gradients are wanted. look: ids (B, T) of the first batches, on the host. say:
    where a change during the run is logged. Every process takes the choice of rank 0. Raises `RecipeError` where the
    mode is `fast` and a part must stay plain, and `BitgolfError` where the device runs out of memory.
    """
    found = list(sites(root, compiled=compiled))
    if mode == "plain" or device.device.type != "cuda":
        why = "train.kernels says so" if mode == "plain" else "there is no CUDA device here"
        verdicts = [Verdict("", why) for _ in found]
    else:
        trial = Trial(device, compiled, backward)
        batches = [inputs[0].cpu().numpy(), *look] if world.rank == 0 else []
        own = judge(root, found, inputs, trial, batches, bos, plain=mode == "auto") if world.rank == 0 else []
        verdicts = [Verdict(twin, why, Room(*room)) for twin, why, room in shared(own, world)]
    if mode == "fast":
        for site, verdict in zip(found, verdicts, strict=True):
            if not verdict.twin:
                cause = f"{site.what} must stay plain: {verdict.why}"
                raise RecipeError(cause, place="train.kernels", mend="set it to 'auto'")
    return Choice(root, found, verdicts, bos, say)


def sites(root: nn.Module, *, compiled: bool) -> Iterator[Site]:
    """Every plain part of a task or model that has a fast twin."""
    if isinstance(root, Task):
        caps = list(root.model.head.caps)
        if type(root.objective) is CrossEntropy and len(caps) == 1 and isinstance(caps[0], Softcap):
            cap = caps[0].cap
            yield Site.of("softcapped cross-entropy", root.objective, {"fused": lambda _: FusedCrossEntropy(cap)})
    for module in root.modules():
        if type(module) is MLP and type(module.act) is LeakySquared:
            yield Site.of("MLP with LeakySquared", module, MLPS)
        elif type(module) is Sdpa:
            yield Site.of(_described(module), module, attention_twins(module, compiled=compiled))
        elif isinstance(module, Attention):
            yield from _gated(module.after)


def attention_twins(plain: Sdpa, *, compiled: bool) -> dict[str, Make]:
    """The fast twins of a core by name."""
    if not len(plain.masks):
        return FLASH | BACKENDS
    return FLASH | {"variable-length of PyTorch": Varlen, "FlexAttention": Flex if compiled else _uncompiled}


def _gated(after: nn.ModuleList) -> Iterator[Site]:
    """Exclusive self-attention that a gate follows, in a chain on attention's output."""
    for i, (part, gate) in enumerate(pairwise(after)):
        if type(part) is ExclusiveSelf and isinstance(gate, HeadGate):

            def fill(twin: nn.Module, i: int = i) -> nn.Module:
                return nn.ModuleList([*after[:i], twin, *after[i + 2 :]])

            what, plain = f"ExclusiveSelf, {type(gate).__name__}", ExclusiveThenGate(part, gate)
            yield Site(what, plain, {"fused": FusedExclusiveGate}, part, after, fill)


def judge(
    root: nn.Module,
    found: Sequence[Site],
    inputs: Sequence[Tensor],
    trial: Trial,
    batches: Sequence[npt.ArrayLike],
    bos: int,
    *,
    plain: bool = True,
    timer: Timer = milliseconds,
) -> list[Verdict]:
    """A verdict for each site, by trying the twins on a call of its own; sites with equal calls are tried once.

    plain: whether the plain part may win. batches: ids on the host, whose segments the twins must have room for.
    """
    device = trial.device.device
    verdicts: dict[tuple[object, ...], Verdict] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        short = [x[:1, :PARITY_TOKENS] for x in inputs]
        calls = record(root, [site.probe for site in found], trial.device, short)
        keys = [(site.what, calls[site.probe].form if site.probe in calls else ()) for site in found]
        for site, key in zip(found, keys, strict=True):
            if key not in verdicts:
                roomy = site._replace(
                    twins={k: partial(_with_room, make, batches, bos) for k, make in site.twins.items()}
                )
                verdicts[key] = verdict(roomy, calls.get(site.probe), inputs[0], trial, timer, plain=plain)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # batches are sized by what is free
    return [verdicts[key] for key in keys]


def verdict(site: Site, call: Call | None, ids: Tensor, trial: Trial, timer: Timer, *, plain: bool) -> Verdict:
    """The fastest twin that agrees with the plain part in this call, or the plain part, timed for the rows ids (B, T).

    A plain core that would read these rows in blocks is not timed.
    """
    if call is None:
        return Verdict("", "it is idle at the start, so that nothing can be tried")
    against = {name: trial.inability(make, site.plain, call) for name, make in site.twins.items()}
    able = {name: make for name, make in site.twins.items() if not against[name]}
    # beyond the longest mask a plain core with masks is never the fastest: it is not timed
    masked = isinstance(site.plain, Sdpa) and len(site.plain.masks) > 0
    if able and plain and not (masked and ids.shape[1] > LONGEST_MASK):
        able["plain"] = lambda module: module
    if not able:
        return Verdict("", "; ".join(_reasons(against)))
    whole = call.enlarged(ids)
    costs = {name: trial.cost(make, site.plain, whole, timer) for name, make in able.items()}
    times = {name: cost for name, cost in costs.items() if isinstance(cost, float)}
    against |= {name: cost for name, cost in costs.items() if isinstance(cost, str)}
    why = "; ".join([*(f"{name} {ms:.3g} ms" for name, ms in times.items()), *_reasons(against)])
    best = min(times, key=times.__getitem__, default="plain")
    if best == "plain":
        return Verdict("", why)
    twin = able[best](site.plain)
    if not isinstance(twin, Segmented) or not twin.caps:
        return Verdict(best, why)
    return Verdict(
        best, f"{why}; room for {twin.room.slots:,} segments of at most {twin.room.longest:,} tokens", twin.room
    )


def _reasons(against: Mapping[str, str]) -> list[str]:
    return [f"{name}: {why}" for name, why in against.items() if why]


def _with_room(make: Make, batches: Sequence[npt.ArrayLike], bos: int, plain: nn.Module) -> nn.Module:
    twin = make(plain)
    SegmentSlots(twin, bos, lambda line: None).reserve(batches)
    return twin


def _uncompiled(plain: Sdpa) -> nn.Module:
    raise Unsupported("it is fast in a compiled graph only")


def _described(core: Sdpa) -> str:
    return f"attention{' with ' * bool(core.parts)}{', '.join(mask.label for mask in core.parts)}"
