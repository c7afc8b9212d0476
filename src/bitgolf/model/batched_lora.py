"""Adapters with numbers of their own for each row of a batch: what a model learns of a document while it is scored.

Low rank: Hu and others, arXiv 2106.09685. A set for each row of a batch: Parameter Golf, 2026-03-17 (record "LoRA TTT").
A set for each visit of a looped layer, and one beside the MLP: Parameter Golf #1530.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.block import Block
from bitgolf.model.interfaces import OutputAdapter
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM


class AdapterSite(NamedTuple):
    """Where something may be attached: a chain of `OutputAdapter`, and how wide what it adds to is; 0: as wide as its input."""

    adapters: nn.ModuleList
    fan_out: int


def adapter_sites(model: LM, name: str) -> list[AdapterSite]:
    """`head`: the logits before the caps; `mlp`: beside the MLPs, D -> D; else the blocks' matrices of that name."""
    if name == "head":
        return [AdapterSite(model.head.adapters, len(model.embed.weight))]
    if name == "mlp":
        return [AdapterSite(cast(Block, block).parallel_adapters, 0) for block in model.blocks]
    found = [m for path, m in model.blocks.named_modules() if path.rpartition(".")[2] == name and isinstance(m, Linear)]
    return [AdapterSite(linear.adapters, len(linear.weight)) for linear in found]


class BatchedLoRA:
    """What is attached to a model: `values` (rows, P), one row of numbers for each row of a batch.

    At every site that `targets` names, and for each of its calls in a forward (a looped layer has several):
    y += scale * (x A^T) B^T with A (rank, in) ~ U(-1/sqrt(in), 1/sqrt(in)) and B (out, rank) = 0. With rank 0 it is a
    bias alone, y += b with b (out) = 0. So P is the sum over calls of rank * (in + out), or of out.
    A depends on the seed and the call, not on the row: a document's score is the same in whichever row it is read.

    The model's own parameters and their paths stay as they are. `detach` leaves the model as it was.
    Raises `RecipeError` where a name of `targets` finds nothing.
    """

    def __init__(
        self, model: LM, rows: int, targets: Sequence[str], *, rank: int, scale: float = 1.0, seed: int = 0
    ) -> None:
        if not targets or len(set(targets)) < len(targets):
            raise RecipeError(f"{targets} does not name each place to adapt once", where="score.target_modules")
        self.model, self.rows, self.scale = model, rows, scale
        called = [(site, widths) for name in targets for site, widths in _input_widths_per_call(model, name)]
        calls = [(fan_in, site.fan_out or fan_in) for site, widths in called for fan_in in widths]
        begun = [_initial_factors(rank, *widths, seed, number) for number, widths in enumerate(calls)]
        pieces = [piece for call in begun for piece in call]
        own = model.embed.weight
        self.initial = torch.cat([p.flatten() for p in pieces])
        self.initial = self.initial.to(own.device, torch.promote_types(own.dtype, torch.float32))
        inner = [torch.full((p.numel(),), p is call[0] and rank > 0) for call in begun for p in call]
        self.is_factor_a = torch.cat(inner).to(own.device)  # which of the P numbers are of an A
        self.values = self.initial.repeat(rows, 1)
        self.active_rows: Tensor | None = None  # the rows that a batch holds, where it does not hold all
        cut = self.values.split([p.numel() for p in pieces], 1)
        self.leaves = [v.unflatten(1, p.shape).detach().requires_grad_() for v, p in zip(cut, pieces, strict=True)]
        leaves = iter(self.leaves)
        slots = iter([tuple(next(leaves) for _ in call) for call in begun])
        self.attached = [
            (site.adapters, BatchedLoRAAdapter(self, [next(slots) for _ in widths])) for site, widths in called
        ]
        self.attach()

    def attach(self) -> None:
        for chain, part in self.attached:
            chain.append(part)
        self.reset_hook = self.model.embed.register_forward_pre_hook(
            self._reset_call_index
        )  # a forward begins with the lookup

    def detach(self) -> None:
        """The model as it was. What was learned is kept, for `attach`."""
        self.reset_hook.remove()
        for chain, part in self.attached:
            for i in [i for i, other in enumerate(chain) if other is part]:
                chain.pop(i)

    def _reset_call_index(self, *call: object) -> None:
        for _, part in self.attached:
            part.call_index = 0

    @contextmanager
    def restrict_rows(self, rows: Tensor) -> Iterator[None]:
        """Batches within hold these rows alone, a boolean (rows,) on the CPU."""
        self.active_rows = None if bool(rows.all()) else rows.nonzero()[:, 0].to(self.values.device)
        try:
            yield
        finally:
            self.active_rows = None

    def gradients(self, loss: Tensor) -> Tensor:
        """Of a scalar, (rows, P)."""
        return torch.cat([g.flatten(1) for g in torch.autograd.grad(loss, self.leaves)], 1)

    def reset(self, rows: Tensor, *, keep_a: bool = False) -> None:
        """Where `rows`, boolean (rows,) on the CPU, is true, the numbers are those of the start; `keep_a` keeps each A."""
        chosen = rows.nonzero()[:, 0].to(self.values.device, non_blocking=True)
        self.values[chosen] = (
            torch.where(self.is_factor_a, self.values[chosen], self.initial) if keep_a else self.initial
        )


class BatchedLoRAAdapter(OutputAdapter):
    """The adapters of one site: for each call in a forward factors (rows, rank, in) and (rows, out, rank)."""

    def __init__(self, owner: BatchedLoRA, factors: Sequence[tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.owner, self.factors, self.call_index = (
            owner,
            factors,
            0,
        )  # no parameters of the model: rules must not see them

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.owner.active_rows
        factors = self.factors[self.call_index % len(self.factors)]
        self.call_index += 1
        if chosen is not None:
            factors = tuple(f.index_select(0, chosen) for f in factors)
        if len(x) != len(factors[0]):
            cause = f"a batch of {len(x)} rows, but adapters for {len(factors[0])}"
            raise BitgolfError(cause, where="adapters", hint="detach them, or say which rows the batch holds")
        if len(factors) == 1:
            return factors[0][:, None].to(x.dtype)
        a, b = (f.to(x.dtype).transpose(1, 2) for f in factors)
        return torch.bmm(self.owner.scale * torch.bmm(x, a), b)


class _InputWidthProbe(OutputAdapter):
    """Adds nothing; notes how wide each call's input is."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.widths.append(x.shape[-1])
        return x.new_zeros(())


@torch.no_grad()
def _input_widths_per_call(model: LM, name: str) -> list[tuple[AdapterSite, list[int]]]:
    """The sites of that name, each with the widths of its inputs in one forward: of a single token."""
    probes = [(site, _InputWidthProbe()) for site in adapter_sites(model, name)]
    for site, probe in probes:
        site.adapters.append(probe)
    try:
        model(torch.full((1, 1), model.bos, device=model.embed.weight.device))
    finally:
        for site, _ in probes:
            del site.adapters[-1]
    found = [(site, probe.widths) for site, probe in probes if probe.widths]
    if not found:
        hint = "head, mlp, or matrices of the blocks: q, k, v, out, up, down"
        raise RecipeError(f"the model has no {name!r} to adapt", where="score.target_modules", hint=hint)
    return found


def _initial_factors(rank: int, fan_in: int, fan_out: int, seed: int, call_index: int) -> tuple[Tensor, ...]:
    """A (rank, in) and B (out, rank) of a call, or b (out); float64.

    A is counted out (Philox) and not drawn from a state, so it is the same on every machine.
    """
    if not rank:
        return (torch.zeros(fan_out, dtype=torch.float64),)
    generator = np.random.Generator(np.random.Philox(key=[seed, call_index]))
    a = torch.from_numpy(generator.uniform(-1, 1, (rank, fan_in))) * fan_in**-0.5
    return a, torch.zeros(fan_out, rank, dtype=torch.float64)
