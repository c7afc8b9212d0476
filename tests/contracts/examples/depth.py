"""Examples of residual topologies, low-rank adapters, factored embeddings and heads for three layers of width 32."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.model.backout import BackoutResidual
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.head import CorrectedTiedHead
from bitgolf.model.logits_transforms import Softcap
from bitgolf.model.residual_topology import ParallelResidual, ParallelTwoLaneResidual, SequentialTwoLaneResidual
from bitgolf.model.weight_sharing import LowRankAdapter

EXAMPLES: dict[type, Spec[Any]] = {
    BackoutResidual: part(BackoutResidual, layers=1),
    ParallelResidual: part(ParallelResidual, layers="1-2"),
    ParallelTwoLaneResidual: part(ParallelTwoLaneResidual, start_layer=1),
    SequentialTwoLaneResidual: part(SequentialTwoLaneResidual, start_layer=1),
    LowRankAdapter: part(LowRankAdapter, rank=3),
    FactoredEmbedding: part(FactoredEmbedding, width=12),
    CorrectedTiedHead: part(CorrectedTiedHead, logits_transforms=(part(Softcap, cap=20.0),)),
}
