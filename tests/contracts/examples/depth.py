"""Wirings, low rank and factored embeddings at the size of the toy model: three layers of width 32."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.residual_topology import Parallel, TwoLanes, TwoLanesInTurn
from bitgolf.model.weight_sharing import LowRank

EXAMPLES: dict[type, Spec[Any]] = {
    Parallel: part(Parallel, layers="1-2"),
    TwoLanes: part(TwoLanes, start=1),
    TwoLanesInTurn: part(TwoLanesInTurn, start=1),
    LowRank: part(LowRank, rank=3),
    FactoredEmbedding: part(FactoredEmbedding, width=12),
}
