"""Accumulates the inputs and output gradients of a model's matrices, with hooks on its ordinary forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bitgolf.errors import BitgolfError
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.grouped_linear import GroupedLinear
from bitgolf.model.linear import Embedding, HeadLinear, Linear
from bitgolf.model.lm import LM
from bitgolf.quantize.calibration.hessians import HessianKind
from bitgolf.quantize.calibration.row_usage import lookup_sensitivity, row_fisher
from bitgolf.quantize.calibration.weighted_sums import WeightedSums, weighted_stats
from bitgolf.quantize.stats import MatrixStats

NOT_FINITE_HINT = "training has diverged: train again with lower learning rates or with train.grad_clip"
TOKENS_PER_FORWARD = 8192
"""Most tokens of one forward pass (but at least one row), which bounds the memory of logits and activations."""


class StatsAccumulator:
    """Float32 sums on the device of the model, by path. A matrix that blocks share has the path in the first block.

    kind: further Hessians to measure, None for those of the inputs alone.
    """

    def __init__(self, kind: HessianKind | None = None) -> None:
        self.weighted = WeightedSums(kind) if kind else None
        self.hessians: dict[str, Tensor] = {}  # (C, C), by the first of the matrices that share an input
        self.hessian_owner: dict[str, str] = {}  # path -> key in `hessians`
        self.output_fisher: dict[str, Tensor] = {}  # (R,)
        self.lookup_counts: dict[str, Tensor] = {}  # (V,), occurrences of each token
        self.lookup_gradients: dict[str, Tensor] = {}  # (D, D), outer products of the gradients of looked-up rows
        self.lookup_squares: dict[str, Tensor] = {}  # (V,), squared norms of these gradients, by row
        self.tokens = 0
        self._last: tuple[Tensor, str] | None = None

    def add_inputs(self, path: str, x: Tensor) -> None:
        """Add inputs (..., C). Consecutive matrices that read the same tensor (q, k, v) share one Hessian.

        Raises `BitgolfError` if a matrix shares its input in one call and not in another.
        """
        if self._last is None or self._last[0] is not x:
            self.hessians[path] = self.hessians.get(path, 0) + _gram(x)
            self._last = x, path
        first = self._last[1]
        if self.hessian_owner.setdefault(path, first) != first:
            other = self.hessian_owner[path] if first == path else first
            raise BitgolfError(f"the matrix shares its input with {other} in one call but not in another", where=path)

    def add_output_gradient(self, path: str, g: Tensor) -> None:
        """Add gradients (..., R) of the summed loss with respect to the outputs."""
        self.output_fisher[path] = self.output_fisher.get(path, 0) + g.detach().float().reshape(
            -1, g.shape[-1]
        ).square().sum(0)

    def add_lookups(self, path: str, ids: Tensor, rows: int) -> None:
        """Count ids of any shape in a table of `rows` rows."""
        self.lookup_counts[path] = (
            self.lookup_counts.get(path, 0) + torch.bincount(ids.flatten(), minlength=rows).float()
        )

    def add_lookup_gradient(self, path: str, ids: Tensor, g: Tensor) -> None:
        """Add gradients (..., D) of the summed loss with respect to the rows `ids` (...). Call `add_lookups` before."""
        self.lookup_gradients[path] = self.lookup_gradients.get(path, 0) + _gram(g)
        squares = torch.zeros_like(self.lookup_counts[path])
        squares.index_add_(0, ids.flatten(), g.detach().float().square().sum(-1).flatten())
        self.lookup_squares[path] = self.lookup_squares.get(path, 0) + squares

    def clear_last_input(self) -> None:
        """Release the input tensor of the last matrix."""
        self._last = None


def _gram(x: Tensor) -> Tensor:
    """Gram matrix xᵀx (C, C) of (..., C), in float32 even under autocast."""
    flat = x.detach().float().reshape(-1, x.shape[-1])
    with torch.autocast(x.device.type, enabled=False):
        return flat.T @ flat


def observe(
    model: LM,
    batches: Iterable[Tensor],
    *,
    seed: int = 0,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    kind: HessianKind | None = None,
) -> StatsAccumulator:
    """Run forward and backward of `model` on batches of ids (B, T), int64, and accumulate statistics of its matrices.

    The model runs in evaluation mode under `autocast`, at most `TOKENS_PER_FORWARD` tokens at a time. Targets are
    sampled from its own predictions (`seed`), so that squared gradients estimate the Fisher information; the next
    tokens of the text are not used. Parameters get no gradients, and the state of the model is restored.
    kind: further Hessians to measure.
    Raises `BitgolfError` if logits are not finite.
    """
    sums, device = StatsAccumulator(kind), next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    with _hooked(model, sums), torch.enable_grad():
        for ids in batches:
            for rows in ids.split(max(1, TOKENS_PER_FORWARD // ids.shape[1])):
                _forward_backward(model, rows.to(device), generator, autocast)
                sums.clear_last_input()
            sums.tokens += ids.numel()
    return sums


def _forward_backward(
    model: LM, ids: Tensor, generator: torch.Generator, autocast: Callable[[], AbstractContextManager[object]]
) -> None:
    """One forward and backward pass. A separate function, so that its tensors are freed before the next rows."""
    with autocast():
        logits = model(ids)
    logits = logits.flatten(0, 1).float()
    if not torch.isfinite(logits).all():
        raise BitgolfError("logits are not finite during calibration", hint=NOT_FINITE_HINT)
    drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
    F.cross_entropy(logits, drawn, reduction="sum").backward()


def matrix_stats(sums: StatsAccumulator, usage: Mapping[str, Tensor] | None = None) -> dict[str, MatrixStats]:
    """Path -> mean statistics, on the CPU, of each used matrix. Raises `BitgolfError` if one is not finite.

    usage: path -> uses of each row in the training text (`row_usage`), the prior of tables and heads; without one, rows
    that the calibration text does not use have no sensitivity.
    """
    n, known = max(sums.tokens, 1), usage or {}
    hessians = {path: (h / n).cpu() for path, h in sums.hessians.items()}
    found = dict[str, MatrixStats]()
    for path, first in sums.hessian_owner.items():
        fisher = (sums.output_fisher[path] / n).cpu()
        if path in known:
            fisher = row_fisher(known[path], fisher, n)
        found[path] = MatrixStats(hessians[first], fisher, n)
    if sums.weighted:
        found |= {path: weighted_stats(sums.weighted, path, found[path]) for path in sums.weighted.inputs}
    for path, counts in sums.lookup_counts.items():
        share, gradient = (counts / counts.sum()).cpu(), (sums.lookup_gradients[path] / n).cpu()
        if path in known:
            share = lookup_sensitivity(known[path], counts.cpu(), sums.lookup_squares[path].cpu())
        found[path] = _merge_tied_embedding(found.get(path), share, gradient, n)
    for path, stats in found.items():
        if not all(torch.isfinite(tensor).all() for tensor in stats.tensors().values()):
            raise BitgolfError("calibration statistics are not finite", where=path, hint=NOT_FINITE_HINT)
    return found


def _merge_tied_embedding(head: MatrixStats | None, share: Tensor, gradient: Tensor, n: int) -> MatrixStats:
    """Statistics of an embedding table (V, D), combined with those of its use as output head if it is tied.

    share: (V,), frequency of each row among the lookups, times its relative squared gradient.  gradient: (D, D), mean outer product of the gradients of
    looked-up rows, which acts as the Hessian of the lookup.  n: number of tokens.
    The Kronecker products of both uses are approximated by one: each of its factors is the sum of theirs, weighted by
    the traces of the other factors.
    """
    if head is None:
        return MatrixStats(gradient, share, n)
    inputs = head.hessian * head.output_fisher.sum() + gradient
    cost = head.output_fisher * head.hessian.diagonal().sum() + share * gradient.diagonal().sum()
    return MatrixStats(inputs, cost / inputs.diagonal().sum().clamp_min(1e-30), n)


@contextmanager
def _hooked(model: LM, sums: StatsAccumulator) -> Iterator[None]:
    """Hooks on every `Linear`, on the matrix product of a tied head, and on embedding lookups, for the whole block.

    Looked-up rows require gradients instead of the weights: all later activations then have gradients, and none are
    computed for weights.
    """
    paths = {p: path for path, p in model.named_parameters()}
    required, training = [p.requires_grad for p in paths], model.training
    handles = list[RemovableHandle]()
    model.eval().requires_grad_(False)
    try:
        for module in model.modules():
            if isinstance(module, Linear):
                weighted = None if isinstance(module, HeadLinear | GroupedLinear) else sums.weighted
                hook = _hook(paths[module.weight], sums, weighted, row_inputs=module.row_inputs)
                handles.append(module.register_forward_hook(hook))
            if isinstance(module, Embedding):
                handles += _hook_embedding(module, paths[module.weight], sums)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for p, was in zip(paths, required, strict=True):
            p.requires_grad_(was)
        model.train(training)


def _hook(
    path: str,
    sums: StatsAccumulator,
    weighted: WeightedSums | None = None,
    *,
    row_inputs: Callable[[Tensor], Tensor] = lambda x: x,
) -> Callable[..., None]:
    """A forward hook that records the inputs of a matrix's rows and the output gradient, and both in `weighted`."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        x = inputs[0].detach()
        sums.add_inputs(path, row_inputs(inputs[0]))
        _hook_output_gradient(output, path, sums)
        if kinds := weighted:
            kinds.start(path, x, output.shape[-1])
            output.register_hook(lambda g: kinds.add(path, x, g))

    return hook


def _hook_output_gradient(output: Tensor, path: str, sums: StatsAccumulator) -> None:
    sums.add_output_gradient(
        path, output.new_zeros(output.shape[-1])
    )  # zeros, so that an output without gradient has an entry
    output.register_hook(lambda g: sums.add_output_gradient(path, g))


def _hook_embedding(module: Embedding, path: str, sums: StatsAccumulator) -> list[RemovableHandle]:
    """Hooks on lookups and on the tied head. The looked-up rows of a factored table are the inputs of its `expand`."""
    looked_up: list[Tensor] = []  # the rows of the current lookup

    def track_gradient(rows: Tensor) -> None:
        ids = looked_up.pop()
        sums.add_lookup_gradient(path, ids, torch.zeros_like(rows))
        rows.requires_grad_().register_hook(lambda g: sums.add_lookup_gradient(path, ids, g))

    def count(_: nn.Module, inputs: Any) -> None:
        sums.add_lookups(path, inputs[0], len(module.weight))
        looked_up[:] = [inputs[0]]

    def found(_: nn.Module, inputs: Any, output: Tensor) -> None:
        track_gradient(output)

    handles = [module.register_forward_pre_hook(count), module.product.register_forward_hook(_hook(path, sums))]
    if isinstance(module, FactoredEmbedding):
        handles.append(module.expand.register_forward_pre_hook(lambda _, inputs: track_gradient(inputs[0])))
    else:
        handles.append(module.register_forward_hook(found))
    return handles
