"""Matrices, statistics and codecs for tests of low-rank corrections."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.lqer_factors import AsymmetricFactors, LowRankFactors, PerRowFactors
from bitgolf.quantize.stats import MatrixStats

INNER = part(IntRows, bits=3, clip=part(MaxClip))


class ExactFactors(LowRankFactors):
    """A test double that stores factors in float32, the best case of a correction."""

    def __init__(self) -> None:
        pass

    def arrays(self, rows: int, columns: int, rank: int) -> dict[str, Any]:
        return {"left": (np.dtype(np.float32), (rows, rank)), "right": (np.dtype(np.float32), (columns, rank))}

    def bits(self, rows: int, columns: int, rank: int) -> int:
        return 32 * rank * (rows + columns)

    def quantize(self, left: Tensor, right: Tensor, solve: Any = None) -> dict[str, Any]:
        return {"left": left.float().numpy(), "right": right.float().T.contiguous().numpy()}

    def dequantize(self, code: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(code["left"]), torch.from_numpy(code["right"]).T


FACTORS: list[Spec[LowRankFactors]] = [
    part(AsymmetricFactors),
    part(AsymmetricFactors, group_size=6, max_code=2.5),
    part(PerRowFactors),
    part(PerRowFactors, bits=2),
    part(ExactFactors),
]


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def known(rows: int, columns: int, *, seed: int = 0, spread: float = 1.0) -> MatrixStats:
    """Statistics with inputs in few directions and of different scales, and outputs likewise."""
    inputs = weight(2 * columns, columns, seed=seed) @ (weight(columns, columns, seed=seed + 1) / columns**0.5)
    inputs = inputs * (spread * weight(columns, seed=seed + 2)).exp()
    return MatrixStats(inputs.T @ inputs / len(inputs), (spread * weight(rows, seed=seed + 3)).exp(), len(inputs))


def error(codec: Codec, w: Tensor, stats: MatrixStats | None = None) -> Tensor:
    return w - codec.decode(codec.encode(w, stats), tuple(w.shape))


# ---- the repair itself -----------------------------------------------------------------------------------------------
