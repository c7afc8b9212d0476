"""Selection of fused kernels by parity and measured speed, before the graph is compiled.

A recipe names reference modules only. A fused module replaces one if it agrees with it on this device and is the
fastest candidate, in training and in scoring. `KernelSelection.restore` undoes the replacement.
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
from bitgolf.training.kernels.fused import (
    FusedExclusiveGate,
    FusedMLP,
    FusedSoftcappedCrossEntropy,
    ReferenceExclusiveGate,
)
from bitgolf.training.kernels.parity import (
    KernelTrial,
    ModuleFactory,
    RecordedCall,
    Timer,
    measure_milliseconds,
    record_calls,
)
from bitgolf.training.loss_module import LossModule

PARITY_TOKENS = 4096
"""Tokens of the row of a parity check, which limits the (T, T) masks of reference modules."""

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
    """A reference module that fused modules can replace.

    label: name for the log.  fused: name -> factory of a fused module.  recorded: module whose first call gives the
    test inputs.  target: module of the model that is replaced by `wrap(fused module)`.
    """

    label: str
    reference: nn.Module
    fused: Mapping[str, ModuleFactory]
    recorded: nn.Module
    target: nn.Module
    wrap: Callable[[nn.Module], nn.Module] = lambda fused: fused

    @classmethod
    def for_module(cls, label: str, module: nn.Module, fused: Mapping[str, ModuleFactory]) -> KernelCandidate:
        """A candidate that is a single module of the model."""
        return cls(label, module, fused, module, module)


class KernelDecision(NamedTuple):
    """The chosen fused module ("": the reference), the reason, and its capacity for document segments."""

    implementation: str
    reason: str
    capacity: SegmentCapacity = SegmentCapacity(0, 0)


class KernelSelection:
    """The fused modules in a model. summary: log lines.  segment_capacity: adapts their capacity to each batch."""

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
        lines: list[str] = []
        for candidate, (name, reason, capacity) in zip(found, decisions, strict=True):
            lines.append(f"{candidate.label}: {name or 'plain'}{f' ({reason})' * bool(reason)}")
            if name:
                module = candidate.fused[name](candidate.reference)
                if isinstance(module, SegmentedCore) and module.segment_limits:
                    module.set_capacity(capacity)
                for path in [path for path, own in paths if own is candidate.target]:
                    self.replaced[path] = candidate.target
                    root.set_submodule(path, candidate.wrap(module))
        self.summary = list(dict.fromkeys(lines))
        self.segment_capacity = SegmentCapacityManager(root, bos, log)

    def restore(self) -> None:
        """Put the reference modules back into the model."""
        for path, reference in self.replaced.items():
            self.root.set_submodule(path, reference)
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
    """Replace reference modules in a `LossModule`, or in an `LM` for scoring, by fused modules. Rank 0 decides for all.

    inputs: arguments of `root` in the run, ids (B, T) first.  mode: `train.kernels`.  compiled, backward: whether the
    run compiles, and needs gradients.  sample_batches: ids (B, T) of the first batches, on the host.  log: receives
    later changes of capacity.  Raises `RecipeError` if the mode is `fast` and a candidate keeps its reference module,
    and `BitgolfError` if the device runs out of memory.
    """
    found = list(kernel_candidates(root, compiled=compiled))
    if mode == "plain" or device.torch_device.type != "cuda":
        reason = "train.kernels is 'plain'" if mode == "plain" else "no CUDA device"
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
            message = f"no fused kernel for {candidate.label}: {decision.reason}"
            raise RecipeError(message, where="train.kernels", hint="set train.kernels to 'auto'")


def kernel_candidates(root: nn.Module, *, compiled: bool) -> Iterator[KernelCandidate]:
    """The reference modules of a `LossModule` or `LM` for which there are fused modules."""
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
    """Name -> factory of the fused modules for a reference attention core."""
    if not len(plain.masks):
        return FLASH_ATTENTION | SDPA_BACKENDS
    return FLASH_ATTENTION | {
        "variable-length of PyTorch": VarlenCore,
        "FlexAttention": FlexAttentionCore if compiled else _requires_compilation,
    }


def _gated_exclusive_attention(after: nn.ModuleList) -> Iterator[KernelCandidate]:
    """Candidates for pairs of exclusive self-attention and a gate in the chain after attention."""
    for i, (part, gate) in enumerate(pairwise(after)):
        if type(part) is ExclusiveSelfAttention and isinstance(gate, AttentionGate):

            def wrap(fused: nn.Module, i: int = i) -> nn.Module:
                return nn.ModuleList([*after[:i], fused, *after[i + 2 :]])

            label, reference = f"ExclusiveSelfAttention, {type(gate).__name__}", ReferenceExclusiveGate(part, gate)
            yield KernelCandidate(label, reference, {"fused": FusedExclusiveGate}, part, after, wrap)


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
    """A decision for each candidate, from a trial on its recorded call. Candidates with equal calls share a trial.

    batches: ids (B, T) on the host, for whose segments the fused modules need capacity.
    allow_reference: whether the reference module may be chosen for its speed.
    """
    device = trial.device.torch_device
    decisions: dict[tuple[object, ...], KernelDecision] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        short = [x[:1, :PARITY_TOKENS] for x in inputs]
        calls = record_calls(root, [one.recorded for one in candidates], trial.device, short)
        keys = [(one.label, calls[one.recorded].signature if one.recorded in calls else ()) for one in candidates]
        for candidate, key in zip(candidates, keys, strict=True):
            if key not in decisions:
                fused = {k: partial(_with_capacity, make, batches, bos) for k, make in candidate.fused.items()}
                call, sized = calls.get(candidate.recorded), candidate._replace(fused=fused)
                decisions[key] = evaluate_candidate(sized, call, inputs[0], trial, timer, plain=allow_reference)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # micro-batches are sized by the free memory
    return [decisions[key] for key in keys]


def evaluate_candidate(
    candidate: KernelCandidate, call: RecordedCall | None, ids: Tensor, trial: KernelTrial, timer: Timer, *, plain: bool
) -> KernelDecision:
    """The fastest module that agrees with the reference on `call`, timed on rows of the shape of ids (B, T).

    plain: whether the reference is timed as well, unless it is a core that would process these rows in chunks.
    """
    if call is None:
        return KernelDecision("", "does not run at the start, so it cannot be tested")
    reference = candidate.reference
    rejected = {name: trial.parity_check(make, reference, call) for name, make in candidate.fused.items()}
    usable = {name: make for name, make in candidate.fused.items() if not rejected[name]}
    # a reference core with masks that processes rows in chunks is never the fastest
    masked = isinstance(reference, SDPACore) and len(reference.masks) > 0
    if usable and plain and not (masked and ids.shape[1] > MAX_DENSE_MASK_LENGTH):
        usable["plain"] = lambda module: module
    if not usable:
        return KernelDecision("", "; ".join(_rejections(rejected)))
    whole = call.tiled_to(ids)
    costs = {name: trial.benchmark(make, reference, whole, timer) for name, make in usable.items()}
    times = {name: cost for name, cost in costs.items() if isinstance(cost, float)}
    rejected |= {name: cost for name, cost in costs.items() if isinstance(cost, str)}
    reason = "; ".join([*(f"{name} {ms:.3g} ms" for name, ms in times.items()), *_rejections(rejected)])
    best = min(times, key=times.__getitem__, default="plain")
    if best == "plain":
        return KernelDecision("", reason)
    fused = usable[best](reference)
    if not isinstance(fused, SegmentedCore) or not fused.segment_limits:
        return KernelDecision(best, reason)
    segments, length = fused.capacity
    reason = f"{reason}; capacity of {segments:,} segments of at most {length:,} tokens"
    return KernelDecision(best, reason, fused.capacity)


def _rejections(rejected: Mapping[str, str]) -> list[str]:
    return [f"{name}: {reason}" for name, reason in rejected.items() if reason]


def _with_capacity(make: ModuleFactory, batches: Sequence[npt.ArrayLike], bos: int, plain: nn.Module) -> nn.Module:
    """The fused module, with capacity for the segments of these batches."""
    fused = make(plain)
    SegmentCapacityManager(fused, bos, lambda line: None).reserve(batches)
    return fused


def _requires_compilation(plain: SDPACore) -> nn.Module:
    raise Unsupported("needs a compiled graph")


def _attention_label(core: SDPACore) -> str:
    return f"attention{' with ' * bool(core.mask_list)}{', '.join(mask.label for mask in core.mask_list)}"
