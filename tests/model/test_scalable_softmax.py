"""Scalable softmax: the scale of the queries against the formula."""

from __future__ import annotations

import math

import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.model.attention.scalable_softmax import ScalableSoftmax
from bitgolf.model.forward_context import ForwardContext


def test_queries_grow_with_the_logarithm_of_the_keys_they_see() -> None:
    scale = ScalableSoftmax(BuildContext(vocab=8, heads=2), init=0.5)
    scale.weight.data[1] = 2.0
    q, k = torch.randn(1, 5, 2, 3, generator=torch.Generator().manual_seed(0)), torch.ones(1, 5, 1, 3)
    grown, same = scale(q, k, ForwardContext(torch.zeros(1, 5, dtype=torch.int64)))
    assert same is k
    for t in range(5):
        for head, s in ((0, 0.5), (1, 2.0)):
            assert torch.allclose(grown[0, t, head], s * math.log(t + 1) * q[0, t, head], atol=1e-6)
