"""Each operator of a page computes what torch does, for operands of any strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.web.operators import EXPRESSIONS, RULES
from helpers.examples import examples
from helpers.javascript import Node
from helpers.web_model import page_results

chance = torch.Generator().manual_seed(0)


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=chance)


def ids(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=chance)


BIG = torch.tensor([[3, 51497 * 65535, 2**40 + 12345, 7]])
MASK = torch.tensor([[[[False, True, True, True, False, False]]]])
TABLE = floats(9, 8)

CASES: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    **{name: (getattr(torch, name), [floats(2, 5)]) for name in (
        "abs", "ceil", "cos", "exp", "floor", "neg", "reciprocal", "relu", "sigmoid", "sign", "sin", "tanh"
    )},
    **{name: (getattr(torch, name), [floats(2, 5).abs() + 0.1]) for name in ("log", "rsqrt", "sqrt")},
    **{name: (getattr(torch, name), [floats(3, 1, 5), floats(4, 1)]) for name in (
        "add", "sub", "mul", "div", "eq", "ge", "gt", "le", "lt", "ne", "maximum", "minimum", "remainder"
    )},
    **{name: (getattr(torch, name), [ids(2, 3, 4) > 0, ids(2, 3, 4) > 0]) for name in (
        "bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or"
    )},
    "bitwise_not": (lambda x: ~x, [ids(2, 3, 4) > 0]),
    "bitwise_not of integers": (lambda x: ~x, [BIG]),
    "bitwise_and of integers": (lambda x, y: x & y, [BIG, -BIG.flip(1)]),
    "bitwise_or of integers": (lambda x, y: x | y, [BIG, BIG.flip(1)]),
    "bitwise_xor of integers": (lambda x, y: x ^ y, [BIG, BIG.flip(1)]),
    "_to_copy to 32 bits": (lambda x: x.int(), [BIG]),
    "_to_copy to integers": (lambda x: x.long(), [3 * floats(2, 5)]),
    "_to_copy to truth values": (lambda x: x.bool(), [ids(2, 3, 4)]),
    "_to_copy to floats": (lambda x: (x > 1).float() + x.double().float(), [ids(3, 3, 4)]),
    "add with a factor": (lambda x, y: torch.add(x, y, alpha=0.3), [floats(4), floats(4)]),
    "sub with a factor": (lambda x, y: torch.sub(x, y, alpha=0.3), [floats(4), floats(4)]),
    "rsub": (lambda x: 2.5 - x, [floats(4)]),
    "a number": (lambda x: 0.1 * x + 0.7, [floats(4)]),
    "a comparison with a number": (lambda x: x < 0.1, [torch.tensor([0.1, 0.2])]),
    "div rounded down": (lambda x: torch.div(x, 3, rounding_mode="floor"), [ids(99, 5) - 50]),
    "div rounded to zero": (lambda x: torch.div(x, 3, rounding_mode="trunc"), [ids(99, 5) - 50]),
    "remainder of integers": (lambda x: x % 1023, [BIG - 2**41]),
    "amax": (lambda x: x.amax(-1), [floats(2, 3, 5)]),
    "bmm": (lambda x, y: torch.bmm(x, y.transpose(1, 2)), [floats(2, 3, 5), floats(2, 4, 5)]),
    "cat": (lambda x, y: torch.cat([x[:, 1:], y.T], -1), [floats(3, 4), floats(2, 3)]),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), [floats(9)]),
    "clamp_max": (lambda x: x.clamp_max(0.5), [floats(9)]),
    "clamp_min": (lambda x: x.clamp_min(0.5), [floats(9)]),
    "clone": (lambda x: x.transpose(0, 2).clone(), [floats(2, 3, 4)]),
    "copy": (lambda x, y: x.copy_(y), [ids(9, 4), floats(4)]),
    "cummax": (lambda x: x.cummax(1).values, [ids(99, 3, 7)]),
    "cumsum": (lambda x: x.transpose(0, 1).cumsum(0), [ids(99, 3, 7)]),
    "embedding": (lambda i: F.embedding(i, TABLE), [ids(9, 2, 3)]),
    "fill": (lambda x: x.fill_(2.5), [floats(3)]),
    "gather": (lambda x, i: x.gather(1, i[..., None].expand(1, 2, 5)), [floats(1, 7, 5), ids(7, 1, 2)]),
    "index_copy": (lambda x, i, y: x.index_copy_(1, i, y), [floats(1, 6, 2, 3), ids(6, 1), floats(1, 1, 2, 3)]),
    "index_select": (lambda x, i: x.index_select(1, i), [floats(2, 6, 3), ids(6, 2)]),
    "leaky_relu": (lambda x: F.leaky_relu(x) + F.leaky_relu(x, 0.5), [floats(9)]),
    "linalg_vector_norm": (lambda x: x.norm(dim=1, keepdim=True), [floats(2, 3, 5)]),
    "linear": (lambda x: F.linear(x.transpose(0, 1), TABLE, TABLE[0, 0]), [floats(8, 3)]),
    "logical_not": (torch.logical_not, [ids(2, 5)]),
    "masked_fill": (lambda x, m: x.masked_fill(m, -7.5), [floats(5), ids(2, 5) > 0]),
    "mean": (lambda x: x.mean((0, 2)) + x.mean(), [floats(2, 3, 5)]),
    "mm": (lambda x, y: x.T @ y, [floats(3, 4), floats(3, 5)]),
    "pow": (lambda x: x.abs() ** 1.5 + x**2 + 2**x, [floats(9)]),
    "rms_norm": (lambda x: F.rms_norm(x.transpose(0, 1), (3,), TABLE[0, :3]), [floats(3, 4)]),
    "scaled_dot_product_attention": (
        lambda q, k, v, m: F.scaled_dot_product_attention(
            q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=m, enable_gqa=True
        ),
        [floats(1, 4, 1, 8), floats(1, 6, 2, 8), floats(1, 6, 2, 5), MASK],
    ),
    "searchsorted": (torch.searchsorted, [torch.tensor([[0, 0, 1, 3, 3]]), torch.tensor([[3]])]),
    "silu": (F.silu, [floats(9)]),
    "stack": (lambda x, y: torch.stack([x, y.T], 1), [floats(2, 3), floats(3, 2)]),
    "sum": (lambda x: x.sum(1) + x.sum(1, keepdim=True)[:, 0], [floats(2, 3, 5)]),
    "where": (torch.where, [ids(2, 5) > 0, floats(5), floats(5)]),
    "zero": (lambda x: x.zero_(), [floats(3)]),
}  # fmt: skip


def test_every_operator_has_a_case() -> None:
    assert {name.partition(" ")[0] for name in CASES} >= EXPRESSIONS.keys() | RULES.keys()


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_torch_does(node: Node, name: str) -> None:
    function, inputs = CASES[name]
    expected = function(*(x.clone() for x in inputs))
    found = page_results(node, function, [x.clone() for x in inputs])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


OPERANDS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=examples(15))
@given(OPERANDS, st.data())
def test_strided_operands_are_read_and_written_where_they_are(node: Node, shape: list[int], data: Any) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    x = torch.arange(float(torch.tensor(shape).prod())).reshape(shape)
    kept = [data.draw(st.booleans()) for _ in shape]
    y = torch.arange(1.0, 1 + float(torch.tensor([n if k else 1 for n, k in zip(shape, kept, strict=True)]).prod()))
    y = y.reshape([n if k else 1 for n, k in zip(shape, kept, strict=True)])
    start = data.draw(st.integers(0, shape[0] - 1))
    axis = data.draw(st.integers(0, len(shape) - 1))

    def function(x: Tensor, y: Tensor) -> Tensor:
        product = (x * y).permute(order)
        product[...] += 1
        total = product.sum(axis, keepdim=True)
        return torch.cat([product, total + product], axis)[..., :] + (x * y)[start].sum()

    if len(shape) == 1 and start:  # a view of one element
        start = 0
    torch.testing.assert_close(page_results(node, function, [x, y]), function(x, y))


def test_an_integer_beyond_the_exact_ones_is_an_error(node: Node) -> None:
    with pytest.raises(AssertionError, match="more than 53 bits"):
        page_results(node, lambda x: x * x, [torch.tensor([2**30])])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.norm(1, dim=0), "norm of order 2"),
        (lambda x: F.rms_norm(x, (2, 3)), "the last axis only"),
        (lambda x: x.double().bfloat16().float(), "torch.bfloat16"),
        (lambda x: F.linear(x, x), "computed for each token"),
        (lambda x: F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]), "with a mask"),
        (lambda x: x.index_copy(0, torch.tensor([0]), x[1:]), "in place only"),
        (lambda x: torch.searchsorted(x, x, right=True), "no such form of searchsorted"),
    ],
)
def test_a_form_that_no_page_has_is_an_error(node: Node, function: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(BitgolfError, match=message):
        page_results(node, function, [floats(2, 3)])
