"""Sums over tokens of products of a matrix's inputs and output gradients, for Hessians that depend on both."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.quantize.calibration.hessians import HessianKind
from bitgolf.quantize.stats import MatrixStats, group_slices


class WeightedSums:
    """Float32 sums on the device of the model, by path. For a token, x are the inputs (C,), g the gradients (R,)."""

    def __init__(self, kind: HessianKind) -> None:
        self.kind = kind
        self.inputs: dict[str, Tensor] = {}  # (G, C, C): x xᵀ, weighted by the sum of squares of g in each group
        self.outputs: dict[str, Tensor] = {}  # (R, R): g gᵀ, weighted by the sum of squares of x

    def start(self, path: str, x: Tensor, outputs: int) -> None:
        """Add an entry for a matrix with inputs like x (..., C) and that many outputs, unless it has one."""
        columns, groups = x.shape[-1], len(group_slices(outputs, self.kind.row_groups))
        self.inputs.setdefault(path, torch.zeros(groups, columns, columns, device=x.device))
        if self.kind.outputs:
            self.outputs.setdefault(path, torch.zeros(outputs, outputs, device=x.device))

    def add(self, path: str, x: Tensor, g: Tensor) -> None:
        """Add inputs (..., C) and gradients (..., R) of the summed loss to an entry, in float32 even under autocast."""
        x, g = (t.detach().float().reshape(-1, t.shape[-1]) for t in (x, g))
        groups = [g[:, rows].square().sum(1) for rows in group_slices(g.shape[1], self.kind.row_groups)]
        with torch.autocast(x.device.type, enabled=False):
            self.inputs[path] += torch.stack([x.T @ (weight[:, None] * x) for weight in groups])
            if self.kind.outputs:
                self.outputs[path] += g.T @ (x.square().sum(1)[:, None] * g)


def weighted_stats(sums: WeightedSums, path: str, plain: MatrixStats) -> MatrixStats:
    """The statistics of a matrix with weighted Hessians, on the CPU. plain: those without."""
    totals, tokens = sums.inputs[path].cpu(), plain.tokens
    rows = group_slices(len(plain.output_fisher), sums.kind.row_groups)
    weights = torch.stack([plain.output_fisher[each].sum() for each in rows]) * tokens
    # A group whose outputs have no gradient weighs all tokens alike.
    hessians = [h / weight if weight > 0 else plain.hessian for h, weight in zip(totals, weights, strict=True)]
    single = len(rows) == 1
    found = plain._replace(hessian=hessians[0]) if single else plain._replace(row_hessians=torch.stack(hessians))
    if path not in sums.outputs:
        return found
    outputs = sums.outputs[path].cpu()
    # The traces of the two factors have the product that the trace of the Fisher information has.
    trace = found.hessian.diagonal().sum() * tokens
    return found._replace(output_hessian=outputs / trace.clamp_min(1e-30))
