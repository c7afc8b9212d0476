"""LoRA adapters with separate factors for each row of a batch, for adaptation to documents during scoring.

LoRA: Hu et al., arXiv 2106.09685. Factors for each row of a batch: Parameter Golf, 2026-03-17 (record "LoRA TTT").
Factors for each visit of a looped layer, and adapters parallel to attention and to the MLP: Parameter Golf #1530.
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
    """A module to which adapters can be attached: its chain of `OutputAdapter`s, and its output width.

    fan_out: 0 means that the output is as wide as the input.
    """

    adapters: nn.ModuleList
    fan_out: int


def adapter_sites(model: LM, name: str) -> list[AdapterSite]:
    """Sites by name, empty if the model has none.

    `head`: the logits before the logits transforms.  `mixer` and `mlp`: parallel to the token mixer and to the MLP of
    each block, D -> D, from the normalized input of the branch to its output before the residual scale.  Any other
    name: the matrices of that name in the blocks; the adapter reads the input of the matrix.
    """
    if name == "head":
        return [AdapterSite(model.head.adapters, len(model.embed.weight))]
    if name == "mixer":
        return [AdapterSite(cast(Block, block).mixer_adapters, 0) for block in model.blocks]
    if name == "mlp":
        return [AdapterSite(cast(Block, block).mlp_adapters, 0) for block in model.blocks]
    found = [m for path, m in model.blocks.named_modules() if path.rpartition(".")[2] == name and isinstance(m, Linear)]
    return [AdapterSite(linear.adapters, len(linear.weight)) for linear in found]


class BatchedLoRA:
    """Adapters attached to a model. `values` (rows, P) holds the P numbers of each row of a batch.

    Every site in `targets` gets an adapter for each of its calls in a forward pass (a looped layer has several): y +=
    scale * (x A^T) B^T with A (rank, in) ~ U(-1/sqrt(in), 1/sqrt(in)) and B (out, rank) = 0. With rank 0 it is a bias
    instead: y += b with b (out,) = 0. P is the sum over calls of rank * (in + out), or of out for rank 0. The initial A
    depends on the seed and the call but not on the row, so the score of a document does not depend on its row.

    The parameters of the model and their paths do not change; `detach` restores the model. Raises `RecipeError` if
    `targets` is empty, has duplicates, or names nothing in the model.
    """

    def __init__(
        self, model: LM, rows: int, targets: Sequence[str], *, rank: int, scale: float = 1.0, seed: int = 0
    ) -> None:
        if not targets or len(set(targets)) < len(targets):
            raise RecipeError(
                f"must list at least one name, each once, got {list(targets)}", where="score.target_modules"
            )
        self.model, self.rows, self.scale = model, rows, scale
        sites = [(site, widths) for name in targets for site, widths in _input_widths_per_call(model, name)]
        calls = [(fan_in, site.fan_out or fan_in) for site, widths in sites for fan_in in widths]
        initial = [_initial_factors(rank, *widths, seed, number) for number, widths in enumerate(calls)]
        factors = [factor for call in initial for factor in call]
        weight = model.embed.weight
        self.initial = torch.cat([f.flatten() for f in factors])
        self.initial = self.initial.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        is_a = [torch.full((f.numel(),), f is call[0] and rank > 0) for call in initial for f in call]
        self.is_factor_a = torch.cat(is_a).to(weight.device)  # which of the P numbers belong to a factor A
        self.values = self.initial.repeat(rows, 1)
        self.active_rows: Tensor | None = None  # indices of the rows in the batch; None for all
        views = self.values.split([f.numel() for f in factors], 1)
        self.leaves = [v.unflatten(1, f.shape).detach().requires_grad_() for v, f in zip(views, factors, strict=True)]
        leaves = iter(self.leaves)
        per_call = iter([tuple(next(leaves) for _ in call) for call in initial])
        self.attached = [
            (site.adapters, BatchedLoRAAdapter(self, [next(per_call) for _ in widths])) for site, widths in sites
        ]
        self.attach()

    def attach(self) -> None:
        """Attach the adapters to the model."""
        for chain, part in self.attached:
            chain.append(part)
        # a forward pass begins with the embedding
        self.reset_hook = self.model.embed.register_forward_pre_hook(self._reset_call_index)

    def detach(self) -> None:
        """Remove the adapters from the model. Their values are kept and can be attached again."""
        self.reset_hook.remove()
        for chain, part in self.attached:
            for i in [i for i, other in enumerate(chain) if other is part]:
                chain.pop(i)

    def _reset_call_index(self, *call: object) -> None:
        for _, part in self.attached:
            part.call_index = 0

    @contextmanager
    def restrict_rows(self, rows: Tensor) -> Iterator[None]:
        """Within the context, batches consist of the selected rows only; `rows` is boolean, (rows,), on the CPU."""
        self.active_rows = None if bool(rows.all()) else rows.nonzero()[:, 0].to(self.values.device)
        try:
            yield
        finally:
            self.active_rows = None

    def gradients(self, loss: Tensor) -> Tensor:
        """Gradient of a scalar loss with respect to the values, (rows, P)."""
        return torch.cat([g.flatten(1) for g in torch.autograd.grad(loss, self.leaves)], 1)

    def reset(self, rows: Tensor, *, keep_a: bool = False) -> None:
        """Reset the selected rows to their initial values; `rows` is boolean, (rows,), on the CPU.

        keep_a: do not reset the factors A.
        """
        chosen = rows.nonzero()[:, 0].to(self.values.device, non_blocking=True)
        self.values[chosen] = (
            torch.where(self.is_factor_a, self.values[chosen], self.initial) if keep_a else self.initial
        )


class BatchedLoRAAdapter(OutputAdapter):
    """The adapters of one site: factors A (rows, rank, in) and B (rows, out, rank) for each call in a forward pass."""

    def __init__(self, owner: BatchedLoRA, factors: Sequence[tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.owner, self.call_index = owner, 0
        self.factors = factors  # not registered as parameters, so that rules do not match them

    def forward(self, x: Tensor) -> Tensor:
        rows = self.owner.active_rows
        factors = self.factors[self.call_index % len(self.factors)]
        self.call_index += 1
        if rows is not None:
            factors = tuple(f.index_select(0, rows) for f in factors)
        if len(x) != len(factors[0]):
            message = f"the batch has {len(x)} rows, but there are adapters for {len(factors[0])}"
            raise BitgolfError(message, where="adapters", hint="detach them, or select the rows with `restrict_rows`")
        if len(factors) == 1:
            return factors[0][:, None].to(x.dtype)
        a, b = (f.to(x.dtype).transpose(1, 2) for f in factors)
        return torch.bmm(self.owner.scale * torch.bmm(x, a), b)


class _InputWidthProbe(OutputAdapter):
    """Adds zero, and records the input width of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.widths.append(x.shape[-1])
        return x.new_zeros(())


@torch.no_grad()
def _input_widths_per_call(model: LM, name: str) -> list[tuple[AdapterSite, list[int]]]:
    """Sites of that name with the input width of each call, from a forward pass over a single token.

    Raises `RecipeError` if none is called.
    """
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
        hint = "choose head, mixer, mlp, or matrices of the blocks: q, k, v, out, up, down"
        raise RecipeError(f"the model has no {name!r} to adapt", where="score.target_modules", hint=hint)
    return found


def _initial_factors(rank: int, fan_in: int, fan_out: int, seed: int, call_index: int) -> tuple[Tensor, ...]:
    """Initial A (rank, in) and B (out, rank) of a call, or b (out,) for rank 0, in float64.

    A is drawn from a counter-based generator (Philox) with the seed and the call as its key, so that it is the same on
    every machine.
    """
    if not rank:
        return (torch.zeros(fan_out, dtype=torch.float64),)
    generator = np.random.Generator(np.random.Philox(key=[seed, call_index]))
    a = torch.from_numpy(generator.uniform(-1, 1, (rank, fan_in))) * fan_in**-0.5
    return a, torch.zeros(fan_out, rank, dtype=torch.float64)
