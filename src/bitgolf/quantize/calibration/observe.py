"""Watching a model: the inputs of its matrices, and the gradients of their outputs, through the forward that was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bitgolf.errors import BitgolfError
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.linear import Embedding, Linear
from bitgolf.model.lm import LM
from bitgolf.quantize.stats import MatrixStats

TOKENS_PER_FORWARD = 8192
"""Tokens that are passed through a model at a time, or a single row: bounds the memory of logits and activations."""


class StatsAccumulator:
    """What was seen so far: float32 sums on the model's device, by path: a matrix that blocks share goes by its first one."""

    def __init__(self) -> None:
        self.hessians: dict[str, Tensor] = {}  # by the first of the matrices that read the very same input
        self.hessian_owner: dict[str, str] = {}  # path -> that first one
        self.output_fisher: dict[str, Tensor] = {}
        self.lookup_counts: dict[str, Tensor] = {}  # how often each token was
        self.lookup_gradients: dict[str, Tensor] = {}  # gradients of what was looked up, times themselves
        self.tokens = 0
        self._last: tuple[Tensor, str] | None = None

    def add_inputs(self, path: str, x: Tensor) -> None:
        """(..., C). Matrices that read the very same input one after the other (q, k, v) share one Hessian."""
        if self._last is None or self._last[0] is not x:
            self.hessians[path] = self.hessians.get(path, 0) + _gram(x)
            self._last = x, path
        first = self._last[1]
        if self.hessian_owner.setdefault(path, first) != first:
            raise BitgolfError("it shares its input with another matrix in one visit and not in the next", where=path)

    def add_output_gradient(self, path: str, g: Tensor) -> None:
        """(..., R), of the sum of all losses."""
        self.output_fisher[path] = self.output_fisher.get(path, 0) + g.detach().float().reshape(
            -1, g.shape[-1]
        ).square().sum(0)

    def add_lookups(self, path: str, ids: Tensor, rows: int) -> None:
        self.lookup_counts[path] = (
            self.lookup_counts.get(path, 0) + torch.bincount(ids.flatten(), minlength=rows).float()
        )

    def add_lookup_gradient(self, path: str, g: Tensor) -> None:
        self.lookup_gradients[path] = self.lookup_gradients.get(path, 0) + _gram(g)

    def clear_last_input(self) -> None:
        self._last = None


def _gram(x: Tensor) -> Tensor:
    """xᵀx (C, C) of (..., C), in float32 also under autocast."""
    flat = x.detach().float().reshape(-1, x.shape[-1])
    with torch.autocast(x.device.type, enabled=False):
        return flat.T @ flat


def observe(
    model: LM,
    batches: Iterable[Tensor],
    *,
    seed: int = 0,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> StatsAccumulator:
    """Pass each batch of ids (B, T) through `model` as it is scored. Targets are drawn from the model's own predictions:
    so the gradients' squares are the Fisher information, and the text's next tokens are not needed.

    The forward runs under `autocast`, as many rows at a time as `TOKENS_PER_FORWARD` allows; sums are float32.
    Raises `BitgolfError` where an activation or a gradient is not finite.
    """
    sums, device = StatsAccumulator(), next(model.parameters()).device
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
    """A function of its own, so that nothing of these rows is left when the next ones come."""
    with autocast():
        logits = model(ids)
    logits = logits.flatten(0, 1).float()
    if not torch.isfinite(logits).all():
        raise BitgolfError("calibration met logits that are not finite", hint="the model has diverged")
    drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
    F.cross_entropy(logits, drawn, reduction="sum").backward()


def matrix_stats(sums: StatsAccumulator) -> dict[str, MatrixStats]:
    """The statistics of every matrix that was used. Raises `BitgolfError` where one is not finite."""
    n = max(sums.tokens, 1)
    hessians = {path: (h / n).cpu() for path, h in sums.hessians.items()}
    found = {
        path: MatrixStats(hessians[first], (sums.output_fisher[path] / n).cpu(), n)
        for path, first in sums.hessian_owner.items()
    }
    for path, counts in sums.lookup_counts.items():
        share, gradient = counts / counts.sum(), sums.lookup_gradients[path] / n
        found[path] = _merge_tied_embedding(found.get(path), share.cpu(), gradient.cpu(), n)
    for path, stats in found.items():
        if not (torch.isfinite(stats.hessian).all() and torch.isfinite(stats.output_fisher).all()):
            raise BitgolfError("calibration met a number that is not finite", where=path, hint="the model has diverged")
    return found


def _merge_tied_embedding(head: MatrixStats | None, share: Tensor, gradient: Tensor, n: int) -> MatrixStats:
    """A table (V, D) that is looked up, and may be the head as well. `share` (V,) of the lookups; `gradient` (D, D), of what
    was looked up, times itself. A head's rows care for its inputs, a lookup's for that: the mean of both stands for all."""
    if head is None:
        return MatrixStats(gradient, share, n)
    inputs = head.hessian * head.output_fisher.sum() + gradient
    cost = head.output_fisher * head.hessian.diagonal().sum() + share * gradient.diagonal().sum()
    return MatrixStats(inputs, cost / inputs.diagonal().sum().clamp_min(1e-30), n)


@contextmanager
def _hooked(model: LM, sums: StatsAccumulator) -> Iterator[None]:
    """Hooks on every Linear, on the product of a tied head, and on the lookup of its table, which counts what an error in
    a token's row does to the stream. What is looked up asks for gradients, so all that follows does, and the weights
    need none."""
    paths = {p: path for path, p in model.named_parameters()}
    wanted, training = [p.requires_grad for p in paths], model.training
    handles = list[RemovableHandle]()
    model.eval().requires_grad_(False)
    try:
        for module in model.modules():
            if isinstance(module, Linear):
                handles.append(module.register_forward_hook(_hook(paths[module.weight], sums)))
            if isinstance(module, Embedding):
                handles += _hook_embedding(module, paths[module.weight], sums)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for p, was in zip(paths, wanted, strict=True):
            p.requires_grad_(was)
        model.train(training)


def _hook(path: str, sums: StatsAccumulator) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        sums.add_inputs(path, inputs[0])
        _hook_output_gradient(output, path, sums)

    return hook


def _hook_output_gradient(output: Tensor, path: str, sums: StatsAccumulator) -> None:
    sums.add_output_gradient(path, output.new_zeros(output.shape[-1]))  # also where nothing comes back
    output.register_hook(lambda g: sums.add_output_gradient(path, g))


def _hook_embedding(module: Embedding, path: str, sums: StatsAccumulator) -> list[RemovableHandle]:
    """Where a table is factored, what is looked up is read by `expand`, and the head reads what `reduce` leaves."""
    factored = isinstance(module, FactoredEmbedding)

    def found(rows: Tensor) -> None:
        sums.add_lookup_gradient(path, rows.new_zeros(rows.shape[-1]))
        rows.requires_grad_().register_hook(lambda g: sums.add_lookup_gradient(path, g))

    def lookup(_: nn.Module, inputs: Any, output: Tensor) -> None:
        sums.add_lookups(path, inputs[0], len(module.weight))
        if not factored:
            found(output)

    handles = [module.register_forward_hook(lookup), module.product.register_forward_hook(_hook(path, sums))]
    if isinstance(module, FactoredEmbedding):
        handles.append(module.expand.register_forward_pre_hook(lambda _, inputs: found(inputs[0])))
    return handles
