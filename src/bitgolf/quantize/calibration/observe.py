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
from bitgolf.quantize.stats import Stats

PIECE = 8192
"""Tokens that are passed through a model at a time, or a single row: bounds the memory of logits and activations."""


class Sums:
    """What was seen so far: float32 sums on the model's device, by path: a matrix that blocks share goes by its first one."""

    def __init__(self) -> None:
        self.hessians: dict[str, Tensor] = {}  # by the first of the matrices that read the very same input
        self.reads: dict[str, str] = {}  # path -> that first one
        self.outputs: dict[str, Tensor] = {}
        self.looked_up: dict[str, Tensor] = {}  # how often each token was
        self.stream: dict[str, Tensor] = {}  # gradients of what was looked up, times themselves
        self.tokens = 0
        self._last: tuple[Tensor, str] | None = None

    def inputs(self, path: str, x: Tensor) -> None:
        """(..., C). Matrices that read the very same input one after the other (q, k, v) share one Hessian."""
        if self._last is None or self._last[0] is not x:
            self.hessians[path] = self.hessians.get(path, 0) + _gram(x)
            self._last = x, path
        first = self._last[1]
        if self.reads.setdefault(path, first) != first:
            raise BitgolfError("it shares its input with another matrix in one visit and not in the next", place=path)

    def gradient(self, path: str, g: Tensor) -> None:
        """(..., R), of the sum of all losses."""
        self.outputs[path] = self.outputs.get(path, 0) + g.detach().float().reshape(-1, g.shape[-1]).square().sum(0)

    def lookup(self, path: str, ids: Tensor, rows: int) -> None:
        self.looked_up[path] = self.looked_up.get(path, 0) + torch.bincount(ids.flatten(), minlength=rows).float()

    def lookup_gradient(self, path: str, g: Tensor) -> None:
        self.stream[path] = self.stream.get(path, 0) + _gram(g)

    def forget(self) -> None:
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
) -> Sums:
    """Pass each batch of ids (B, T) through `model` as it is scored. Targets are drawn from the model's own predictions:
    so the gradients' squares are the Fisher information, and the text's next tokens are not needed.

    The forward runs under `autocast`, as many rows at a time as `PIECE` allows; sums are float32.
    Raises `BitgolfError` where an activation or a gradient is not finite.
    """
    sums, device = Sums(), next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    with _watched(model, sums), torch.enable_grad():
        for ids in batches:
            for rows in ids.split(max(1, PIECE // ids.shape[1])):
                _pass(model, rows.to(device), generator, autocast)
                sums.forget()
            sums.tokens += ids.numel()
    return sums


def _pass(
    model: LM, ids: Tensor, generator: torch.Generator, autocast: Callable[[], AbstractContextManager[object]]
) -> None:
    """A function of its own, so that nothing of these rows is left when the next ones come."""
    with autocast():
        logits = model(ids)
    logits = logits.flatten(0, 1).float()
    if not torch.isfinite(logits).all():
        raise BitgolfError("calibration met logits that are not finite", mend="the model has diverged")
    drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
    F.cross_entropy(logits, drawn, reduction="sum").backward()


def means(sums: Sums) -> dict[str, Stats]:
    """The statistics of every matrix that was used. Raises `BitgolfError` where one is not finite."""
    n = max(sums.tokens, 1)
    hessians = {path: (h / n).cpu() for path, h in sums.hessians.items()}
    found = {path: Stats(hessians[first], (sums.outputs[path] / n).cpu(), n) for path, first in sums.reads.items()}
    for path, counts in sums.looked_up.items():
        share, gradient = counts / counts.sum(), sums.stream[path] / n
        found[path] = _with_lookup(found.get(path), share.cpu(), gradient.cpu(), n)
    for path, stats in found.items():
        if not (torch.isfinite(stats.hessian).all() and torch.isfinite(stats.outputs).all()):
            raise BitgolfError("calibration met a number that is not finite", place=path, mend="the model has diverged")
    return found


def _with_lookup(head: Stats | None, share: Tensor, gradient: Tensor, n: int) -> Stats:
    """A table (V, D) that is looked up, and may be the head as well. `share` (V,) of the lookups; `gradient` (D, D), of what
    was looked up, times itself. A head's rows care for its inputs, a lookup's for that: the mean of both stands for all."""
    if head is None:
        return Stats(gradient, share, n)
    inputs = head.hessian * head.outputs.sum() + gradient
    cost = head.outputs * head.hessian.diagonal().sum() + share * gradient.diagonal().sum()
    return Stats(inputs, cost / inputs.diagonal().sum().clamp_min(1e-30), n)


@contextmanager
def _watched(model: LM, sums: Sums) -> Iterator[None]:
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
                handles += _watch_table(module, paths[module.weight], sums)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for p, was in zip(paths, wanted, strict=True):
            p.requires_grad_(was)
        model.train(training)


def _hook(path: str, sums: Sums) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        sums.inputs(path, inputs[0])
        _follow(output, path, sums)

    return hook


def _follow(output: Tensor, path: str, sums: Sums) -> None:
    sums.gradient(path, output.new_zeros(output.shape[-1]))  # also where nothing comes back
    output.register_hook(lambda g: sums.gradient(path, g))


def _watch_table(module: Embedding, path: str, sums: Sums) -> list[RemovableHandle]:
    """Where a table is factored, what is looked up is read by `expand`, and the head reads what `reduce` leaves."""
    factored = isinstance(module, FactoredEmbedding)

    def found(rows: Tensor) -> None:
        sums.lookup_gradient(path, rows.new_zeros(rows.shape[-1]))
        rows.requires_grad_().register_hook(lambda g: sums.lookup_gradient(path, g))

    def lookup(_: nn.Module, inputs: Any, output: Tensor) -> None:
        sums.lookup(path, inputs[0], len(module.weight))
        if not factored:
            found(output)

    handles = [module.register_forward_hook(lookup), module.product.register_forward_hook(_hook(path, sums))]
    if isinstance(module, FactoredEmbedding):
        handles.append(module.expand.register_forward_pre_hook(lambda _, inputs: found(inputs[0])))
    return handles
