"""Which fused kernels run, and why: chosen by agreement and by measured speed, before the graph is compiled.

A recipe names plain parts only. Where a fast twin of a part agrees with it on this device and is the fastest, it takes
the part's place in the model at hand, in training and in scoring alike; `KernelSelection.restore` puts the plain parts back.
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
from bitgolf.model.attention.cores.chunked import MAX_DENSE_MASK_LENGTH
from bitgolf.model.attention.cores.flash_attention import FlashAttentionCore
from bitgolf.model.attention.cores.flex_attention import FlexAttentionCore
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.attention.cores.sdpa_backend import SDPABackendCore
from bitgolf.model.attention.cores.segment_capacity import SegmentCapacity, SegmentCapacityManager, SegmentedCore
from bitgolf.model.attention.cores.varlen import VarlenCore
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.attention.gates import AttentionGate
from bitgolf.model.logits_transforms import Softcap
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.model.objectives import CrossEntropy
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext, broadcast_json
from bitgolf.train.kernels.fused import (
    FusedExclusiveGate,
    FusedMLP,
    FusedSoftcappedCrossEntropy,
    ReferenceExclusiveGate,
)
from bitgolf.train.kernels.parity import (
    KernelTrial,
    ModuleFactory,
    RecordedCall,
    Timer,
    measure_milliseconds,
    record_calls,
)
from bitgolf.train.loss_module import LossModule

PARITY_TOKENS = 4096
"""Tokens of one row on which twins are compared with plain parts, which make masks of that many times as many."""

FLASH_ATTENTION: dict[str, ModuleFactory] = {
    f"FlashAttention {n}": partial(FlashAttentionCore, version=n) for n in (4, 3)
}
FUSED_MLPS: dict[str, ModuleFactory] = {"fused": FusedMLP, "fused with TMA": partial(FusedMLP, tma=True)}
SDPA_BACKENDS: dict[str, ModuleFactory] = {
    "FlashAttention of PyTorch": partial(SDPABackendCore, backend=SDPBackend.FLASH_ATTENTION),
    "cuDNN": partial(SDPABackendCore, backend=SDPBackend.CUDNN_ATTENTION),
}

LogLine = Callable[[str], object]


class KernelCandidate(NamedTuple):
    """A plain part, what it is called, and its twins by name; and where in the model all of this is.

    probe: the module whose first call the part is tried with. place: the module that makes way, for `wrap(twin)`.
    """

    label: str
    reference: nn.Module
    fused: Mapping[str, ModuleFactory]
    recorded: nn.Module
    target: nn.Module
    wrap: Callable[[nn.Module], nn.Module] = lambda twin: twin

    @classmethod
    def for_module(cls, what: str, module: nn.Module, twins: Mapping[str, ModuleFactory]) -> KernelCandidate:
        """A single module of the model."""
        return cls(what, module, twins, module, module)


class KernelDecision(NamedTuple):
    """What runs in the place of a part: a twin's name ("": the plain part), why, and its room for segments."""

    implementation: str
    reason: str
    capacity: SegmentCapacity = SegmentCapacity(0, 0)


class KernelSelection:
    """The twins in a model: `summary` say what was chosen and why, `segment_capacity.ensure` makes room for each batch's segments."""

    def __init__(
        self,
        root: nn.Module,
        found: Sequence[KernelCandidate],
        decisions: Sequence[KernelDecision],
        bos: int,
        log: LogLine,
    ) -> None:
        self.root, self.decisions, self.replaced = root, decisions, dict[str, nn.Module]()
        paths = list(root.named_modules(remove_duplicate=False))  # a module that blocks share has several
        for site, verdict in zip(found, decisions, strict=True):
            if verdict.implementation:
                twin = site.fused[verdict.implementation](site.reference)
                if isinstance(twin, SegmentedCore) and twin.segment_lengths:
                    twin.set_capacity(verdict.capacity)
                for path in [path for path, module in paths if module is site.target]:
                    self.replaced[path] = site.target
                    root.set_submodule(path, site.wrap(twin))
        described = [
            f"{site.label}: {verdict.implementation or 'plain'}{f' ({verdict.reason})' * bool(verdict.reason)}"
            for site, verdict in zip(found, decisions, strict=True)
        ]
        self.summary = list(dict.fromkeys(described))
        self.segment_capacity = SegmentCapacityManager(root, bos, log)

    def restore(self) -> None:
        """Put the plain parts back: the model is as it was found."""
        for path, plain in self.replaced.items():
            self.root.set_submodule(path, plain)
        self.replaced, self.segment_capacity.cores = {}, []


def select_kernels(
    root: nn.Module,
    inputs: Sequence[Tensor],
    device: Device,
    *,
    mode: str,
    compiled: bool,
    bos: int,
    backward: bool = True,
    distributed: DistributedContext = SINGLE_PROCESS,
    sample_batches: Iterable[npt.ArrayLike] = (),
    log: LogLine = print,
) -> KernelSelection:
    """Put fast twins in the place of plain parts of a `LossModule`, or of an `LM` that is scored.

    inputs: rows as `root` will be called with, ids (B, T) first. mode: `train.kernels` of the recipe. compiled: whether
    the graph will be. backward: whether gradients are wanted. look: ids (B, T) of the first batches, on the host. say:
    where a change during the run is logged. Every process takes the choice of rank 0. Raises `RecipeError` where the
    mode is `fast` and a part must stay plain, and `BitgolfError` where the device runs out of memory.
    """
    found = list(kernel_candidates(root, compiled=compiled))
    if mode == "plain" or device.torch_device.type != "cuda":
        reason = "train.kernels says so" if mode == "plain" else "there is no CUDA device here"
        decisions = [KernelDecision("", reason) for _ in found]
    else:
        own: list[KernelDecision] = []
        if distributed.rank == 0:
            trial = KernelTrial(device, compiled, backward)
            batches = [inputs[0].cpu().numpy(), *sample_batches]
            own = evaluate_candidates(root, found, inputs, trial, batches, bos, allow_reference=mode == "auto")
        shared = broadcast_json(own, distributed)
        decisions = [KernelDecision(name, reason, SegmentCapacity(*capacity)) for name, reason, capacity in shared]
    if mode == "fast":
        _require_fused(found, decisions)
    return KernelSelection(root, found, decisions, bos, log)


def _require_fused(found: Sequence[KernelCandidate], decisions: Sequence[KernelDecision]) -> None:
    """Raise `RecipeError` for the first candidate that keeps its reference module."""
    for candidate, decision in zip(found, decisions, strict=True):
        if not decision.implementation:
            message = f"{candidate.label} must stay plain: {decision.reason}"
            raise RecipeError(message, where="train.kernels", hint="set it to 'auto'")


def kernel_candidates(root: nn.Module, *, compiled: bool) -> Iterator[KernelCandidate]:
    """Every plain part of a task or model that has a fast twin."""
    if isinstance(root, LossModule):
        caps = list(root.model.head.logits_transforms)
        if type(root.objective) is CrossEntropy and len(caps) == 1 and isinstance(caps[0], Softcap):
            cap = caps[0].cap
            yield KernelCandidate.for_module(
                "softcapped cross-entropy", root.objective, {"fused": lambda _: FusedSoftcappedCrossEntropy(cap)}
            )
    for module in root.modules():
        if type(module) is MLP and type(module.act) is SquaredLeakyReLU:
            yield KernelCandidate.for_module(f"MLP with {type(module.act).__name__}", module, FUSED_MLPS)
        elif type(module) is SDPACore:
            yield KernelCandidate.for_module(
                _attention_label(module), module, fused_attention_cores(module, compiled=compiled)
            )
        elif isinstance(module, Attention):
            yield from _gated_exclusive_attention(module.post_attention)


def fused_attention_cores(plain: SDPACore, *, compiled: bool) -> dict[str, ModuleFactory]:
    """The fast twins of a core by name."""
    if not len(plain.masks):
        return FLASH_ATTENTION | SDPA_BACKENDS
    return FLASH_ATTENTION | {
        "variable-length of PyTorch": VarlenCore,
        "FlexAttention": FlexAttentionCore if compiled else _requires_compilation,
    }


def _gated_exclusive_attention(after: nn.ModuleList) -> Iterator[KernelCandidate]:
    """Exclusive self-attention that a gate follows, in a chain on attention's output."""
    for i, (part, gate) in enumerate(pairwise(after)):
        if type(part) is ExclusiveSelfAttention and isinstance(gate, AttentionGate):

            def fill(twin: nn.Module, i: int = i) -> nn.Module:
                return nn.ModuleList([*after[:i], twin, *after[i + 2 :]])

            what, plain = f"ExclusiveSelfAttention, {type(gate).__name__}", ReferenceExclusiveGate(part, gate)
            yield KernelCandidate(what, plain, {"fused": FusedExclusiveGate}, part, after, fill)


def evaluate_candidates(
    root: nn.Module,
    candidates: Sequence[KernelCandidate],
    inputs: Sequence[Tensor],
    trial: KernelTrial,
    batches: Sequence[npt.ArrayLike],
    bos: int,
    *,
    allow_reference: bool = True,
    timer: Timer = measure_milliseconds,
) -> list[KernelDecision]:
    """A verdict for each site, by trying the twins on a call of its own; sites with equal calls are tried once.

    plain: whether the plain part may win. batches: ids on the host, whose segments the twins must have room for.
    """
    device = trial.device.torch_device
    verdicts: dict[tuple[object, ...], KernelDecision] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        short = [x[:1, :PARITY_TOKENS] for x in inputs]
        calls = record_calls(root, [site.recorded for site in candidates], trial.device, short)
        keys = [(site.label, calls[site.recorded].signature if site.recorded in calls else ()) for site in candidates]
        for site, key in zip(candidates, keys, strict=True):
            if key not in verdicts:
                roomy = site._replace(
                    fused={k: partial(_with_capacity, make, batches, bos) for k, make in site.fused.items()}
                )
                verdicts[key] = evaluate_candidate(
                    roomy, calls.get(site.recorded), inputs[0], trial, timer, plain=allow_reference
                )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # batches are sized by what is free
    return [verdicts[key] for key in keys]


def evaluate_candidate(
    site: KernelCandidate, call: RecordedCall | None, ids: Tensor, trial: KernelTrial, timer: Timer, *, plain: bool
) -> KernelDecision:
    """The fastest twin that agrees with the plain part in this call, or the plain part, timed for the rows ids (B, T).

    A plain core that would read these rows in blocks is not timed.
    """
    if call is None:
        return KernelDecision("", "it is idle at the start, so that nothing can be tried")
    against = {name: trial.parity_check(make, site.reference, call) for name, make in site.fused.items()}
    able = {name: make for name, make in site.fused.items() if not against[name]}
    # beyond the longest mask a plain core with masks is never the fastest: it is not timed
    masked = isinstance(site.reference, SDPACore) and len(site.reference.masks) > 0
    if able and plain and not (masked and ids.shape[1] > MAX_DENSE_MASK_LENGTH):
        able["plain"] = lambda module: module
    if not able:
        return KernelDecision("", "; ".join(_rejections(against)))
    whole = call.tiled_to(ids)
    costs = {name: trial.benchmark(make, site.reference, whole, timer) for name, make in able.items()}
    times = {name: cost for name, cost in costs.items() if isinstance(cost, float)}
    against |= {name: cost for name, cost in costs.items() if isinstance(cost, str)}
    why = "; ".join([*(f"{name} {ms:.3g} ms" for name, ms in times.items()), *_rejections(against)])
    best = min(times, key=times.__getitem__, default="plain")
    if best == "plain":
        return KernelDecision("", why)
    twin = able[best](site.reference)
    if not isinstance(twin, SegmentedCore) or not twin.segment_lengths:
        return KernelDecision(best, why)
    return KernelDecision(
        best,
        f"{why}; room for {twin.capacity.max_segments:,} segments of at most {twin.capacity.max_seqlen:,} tokens",
        twin.capacity,
    )


def _rejections(against: Mapping[str, str]) -> list[str]:
    return [f"{name}: {why}" for name, why in against.items() if why]


def _with_capacity(make: ModuleFactory, batches: Sequence[npt.ArrayLike], bos: int, plain: nn.Module) -> nn.Module:
    twin = make(plain)
    SegmentCapacityManager(twin, bos, lambda line: None).reserve(batches)
    return twin


def _requires_compilation(plain: SDPACore) -> nn.Module:
    raise Unsupported("it is fast in a compiled graph only")


def _attention_label(core: SDPACore) -> str:
    return f"attention{' with ' * bool(core.mask_list)}{', '.join(mask.label for mask in core.mask_list)}"
