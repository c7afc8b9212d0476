"""Zeros that make a file smaller: weights before they are rounded, and codes of one step until all fits a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.pack.streams import Code
from bitgolf.quantize.stats import Calibration, Stats

Codes = Mapping[str, Code]
Cost = Literal["true", "step"]


def keep_largest(w: Tensor, prune: float) -> Tensor:
    """bool, shaped as `w`: all but the share `prune` of smallest magnitudes, rounded up to whole weights.

    Source: openai/parameter-golf, pull requests 503 and 1001: 2 to 5 %. More does much harm (spec, 3.2).
    """
    kept = torch.ones_like(w, dtype=torch.bool)
    if prune:
        smallest = w.abs().flatten().argsort(stable=True)[: math.ceil(prune * w.numel())]
        kept.view(-1)[smallest] = False
    return kept


def prune_to(
    codes: Codes,
    weights: Mapping[str, Tensor],
    steps: Mapping[str, Tensor],
    stats: Calibration,
    size_of: Callable[[Codes], int],
    cap: int,
    *,
    cost: Cost = "true",
) -> dict[str, Code]:
    """`codes` with the least number of codes of 1 and -1 set to zero, cheapest first, with which they take `cap` bytes.

    codes: path -> code of every tensor; those under `weights` have int8 "codes" (R, C), and may be pruned.
    weights, steps: path -> what was rounded (R, C), and what a code of 1 stands for (R,).
    stats: what calibration knows of them. An error in a matrix that it does not know counts as it is, which compares with
    the others' only by luck: give statistics of all or of none.
    size_of: bytes of all codes, packed; called about 25 times. The number is the least in that one code fewer does not
    fit: of several such numbers, if zeros can also make a file larger, the one that bisection meets.
    cap: decimal bytes (the source's target was in units of 1,048,576).
    cost: "step" is that of the source, the step's square; "true" see `costs`.

    Raises `BitgolfError` where even without any of them the codes do not fit.
    Source: openai/parameter-golf, pull requests 609 and 1019.
    """
    if size_of(codes) <= cap:
        return dict(codes)
    order = _cheapest({p: costs(codes[p]["codes"], weights[p], steps[p], stats.get(p), cost) for p in sorted(weights)})
    few, enough = 0, len(order)
    if (least := size_of(_without(codes, weights, order))) > cap:
        raise BitgolfError(
            f"without any of the {enough:,} codes of 1 and -1 it still takes {least:,} bytes, {cap:,} are there",
            place="prune",
            mend="larger steps (a larger k of SdClip), fewer bits, or a smaller model",
        )
    while enough - few > 1:
        middle = (few + enough) // 2
        fits = size_of(_without(codes, weights, order[:middle])) <= cap
        few, enough = (few, middle) if fits else (middle, enough)
    return _without(codes, weights, order[:enough])


def costs(codes: NDArray[np.int8], w: Tensor, step: Tensor, stats: Stats | None, cost: Cost = "true") -> Tensor:
    """float32 (R, C): what it costs to set a code of 1 or -1 to zero; infinite for all other codes.

    "true": by how much outputs_i (E H Eᵀ)_ii grows, E the error, all else as it is. Where inputs are uncorrelated that
    is outputs_i h_j (w² - (w - q s)²), and without statistics w² - (w - q s)². It is negative where the error shrinks.
    After `Gptq` the correlations decide, since errors make up for one another: the diagonal alone, as good as it sounds,
    picks the worst ones first.
    """
    q, step = torch.from_numpy(codes).float(), step[:, None]
    if cost == "step":
        found = step.square().expand_as(q)
    else:
        error = q * step - w.detach().cpu().float().reshape(q.shape)
        hessian, outputs = (stats.hessian, stats.outputs) if stats else (None, torch.ones(len(q)))
        slope = error if hessian is None else error @ hessian
        bend = 1.0 if hessian is None else hessian.diagonal()
        found = outputs[:, None] * (step * step * bend - 2 * q * step * slope)
    return torch.where(q.abs() == 1, found, torch.inf)


def _cheapest(costs: Mapping[str, Tensor]) -> NDArray[np.int64]:
    """Where the finite costs stand, all matrices flattened after one another, in ascending order."""
    flat = np.concatenate([np.empty(0, np.float32), *(cost.numpy().reshape(-1) for cost in costs.values())])
    places = np.flatnonzero(np.isfinite(flat))
    return places[np.argsort(flat[places], kind="stable")]


def _without(codes: Codes, paths: Mapping[str, Tensor], places: NDArray[np.int64]) -> dict[str, Code]:
    """`codes` with zeros at these places of the tensors at `paths`."""
    flat = np.concatenate([np.empty(0, np.int8), *(codes[path]["codes"].reshape(-1) for path in sorted(paths))])
    flat[places] = 0
    pruned, start = dict(codes), 0
    for path in sorted(paths):
        old = codes[path]["codes"]
        pruned[path] = {**codes[path], "codes": flat[start : start + old.size].reshape(old.shape)}
        start += old.size
    return pruned
