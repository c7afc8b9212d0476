"""The rotary table: a custom operator, called once per forward pass, equal to the formula bit for bit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.rope import RoPE, cos_sin_table_op
from bitgolf.model.attention.rope_scaling import NTKScaling, RoPEScaling, YaRNScaling
from bitgolf.model.decoding.context import DecodingContext
from bitgolf.model.decoding.kv_cache import KVCache
from bitgolf.model.forward_context import ForwardContext
from helpers.toy import VOCAB, built, toy_model


def plain_forward(rope: RoPE, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
    """The formula: cos and sin in the dtype of the angles, rounded to float32, then to the dtype of q and k."""
    angle = context.rotary_angles(rope.frequencies(context.ids.device))[..., None, :]
    cos, sin = angle.cos().float(), angle.sin().float()
    return rope.rotate(q, cos.to(q.dtype), sin.to(q.dtype)), rope.rotate(k, cos.to(k.dtype), sin.to(k.dtype))


def contexts() -> dict[str, ForwardContext]:
    """Contexts of a whole text, of a text that is continued, and of rows at different positions."""
    ids = torch.full((3, 7), 5)
    aligned, ragged = KVCache(3, 200, ids.device), KVCache(3, 200, ids.device)
    aligned.lengths += 90
    ragged.lengths += torch.tensor([3, 150, 17])
    return {
        "whole": ForwardContext(ids),
        "on": DecodingContext(ids, 1, aligned),
        "rows": DecodingContext(ids, 1, ragged),
    }


@pytest.mark.parametrize(
    "scaling", [None, part(NTKScaling, length=4096), part(YaRNScaling)], ids=["plain", "ntk", "yarn"]
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("where", ["whole", "on", "rows"])
def test_rotation_is_that_of_the_plain_formula_bit_for_bit(
    where: str, kind: torch.dtype, scaling: Spec[RoPEScaling] | None
) -> None:
    rope = RoPE(BuildContext(vocab=8, dim=64, heads=4), dims=12, scaling=scaling)
    q, k = torch.randn(3, 7, 4, 16, dtype=kind), torch.randn(3, 7, 2, 16, dtype=kind)
    ours, plain = rope(q, k, contexts()[where]), plain_forward(rope, q, k, contexts()[where])
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == kind and torch.equal(a, b)


def test_a_graph_calls_the_operator_once_and_holds_no_cosine() -> None:
    """Three layers share one table. As an operator, the compiler can neither inline nor repeat it."""
    calls: Counter[str] = Counter()

    def count(graph: Any, inputs: list[Tensor]) -> nn.Module:
        calls.update(str(node.target) for node in graph.graph.nodes)
        return graph

    model = built(toy_model())
    torch._dynamo.reset()
    torch.compile(model, fullgraph=True, backend=count)(torch.randint(2, VOCAB, (2, 12)))  # type: ignore[arg-type]
    assert sum(n for name, n in calls.items() if "rotary_table" in name) == 1, calls
    assert not [name for name in calls if name.endswith(("cos", "sin"))]


def test_two_bases_have_two_tables() -> None:
    context = ForwardContext(torch.zeros(1, 5, dtype=torch.int64))
    q, k = torch.randn(1, 5, 2, 8), torch.randn(1, 5, 2, 8)
    one, other = (RoPE(BuildContext(vocab=8, dim=16, heads=2), base=base) for base in (1e4, 1e3))
    assert not torch.equal(one(q, k, context)[0], other(q, k, context)[0])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_operator_keeps_its_promises_to_the_compiler(kind: torch.dtype) -> None:
    torch.library.opcheck(cos_sin_table_op, (torch.randn(2, 7, 1, 6), kind))
