"""Products, reductions and attention equal a plain reference with one rounding at a time, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.portable.functions import PortableFunctions
from bitgolf.portable.kernels import compiled_kernels
from bitgolf.portable.mode import portable_arithmetic
from bitgolf.portable.products import PANEL, pack_columns
from helpers import portable_reference as reference
from helpers.examples import examples

FEW = settings(max_examples=examples(40))
SCALES = st.sampled_from([1e-30, 1e-3, 1.0, 300.0, 1e15])


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Any:
    """Normal numbers of very different sizes."""
    chance = np.random.default_rng(seed)
    return (chance.normal(size=shape) * scale * 10.0 ** chance.integers(-3, 3, shape)).astype(np.float32)


def test_products_and_sums_are_rounded_separately() -> None:
    """(1 + 2^-12)^2 - 1 - 2^-11 is 2^-24, which is lost if the product is rounded, and found by a fused operation."""
    x = np.float32(1 + 2.0**-12)
    a, b = np.array([[np.float32(1 + 2.0**-11), x]], np.float32), np.array([[-1.0], [x]], np.float32)
    with portable_arithmetic():
        assert float(torch.from_numpy(a) @ torch.from_numpy(b)) == 0.0
        q, k, v = torch.zeros(1, 1, 1, 32), torch.zeros(1, 1, 2, 32), torch.tensor([[[[1.0], [0.0]]]])
        q[..., 0], q[..., 16] = 1 + 2.0**-11, float(x)
        k[..., 0, 0], k[..., 0, 16] = -1.0, float(x)  # the same partial sum; the other key is zero
        weight = F.scaled_dot_product_attention(q, k, v, scale=2.0**22)
    assert reference.product(a, b) == 0.0 and float(weight) == 0.5
    assert float(np.float64(x) * np.float64(x) - (1 + 2.0**-11)) == 2.0**-24


@FEW
@given(st.integers(1, 9), st.integers(0, 70), st.integers(1, PANEL + 5), st.integers(0, 999), SCALES)
def test_matrix_products_equal_the_reference(m: int, k: int, n: int, seed: int, scale: float) -> None:
    a, b = numbers(seed, m, k, scale=scale), numbers(seed + 1, k, n)
    out, panels = np.empty((m, n), np.float32), pack_columns(b)
    compiled_kernels().product(a, panels, out, 0, m, 0, len(panels))
    columns = [0, n // 2, n - 1]
    assert out[:, columns].tobytes() == reference.product(a, b[:, columns]).tobytes()


@FEW
@given(st.integers(1, 4), st.integers(1, 41), st.integers(0, 999), SCALES)
def test_reductions_equal_the_reference(rows: int, n: int, seed: int, scale: float) -> None:
    x = numbers(seed, rows, n, scale=scale)
    t, size = torch.from_numpy(x), np.float64(n)
    with portable_arithmetic():
        found = [t.sum(-1), t.mean(1), F.rms_norm(t, (n,)), t.softmax(-1), t.log_softmax(1), t.cumsum(1)]
        norm, transposed = torch.linalg.vector_norm(t, dim=-1), t.T.contiguous().sum(0)
    expected = [
        np.array([np.float32(reference.row_sum(row)) for row in x]),
        np.array([np.float32(reference.row_sum(row) / size) for row in x]),
        reference.rms_norm(x, float(np.finfo(np.float32).eps)),
        reference.softmax(x, logarithm=False),
        reference.softmax(x, logarithm=True),
        np.array([reference.cumulative_sum(row) for row in x]),
    ]
    for result, truth in zip(found, expected, strict=True):
        assert result.numpy().tobytes() == truth.tobytes()
    assert norm.tolist() == [float(np.float32(np.sqrt(reference.row_sum(row, square=True)))) for row in x]
    assert transposed.tolist() == found[0].tolist()


@FEW
@given(
    st.integers(1, 2), st.sampled_from([(1, 1), (2, 1), (4, 2)]), st.integers(1, 4), st.integers(1, 9),
    st.integers(1, 35), st.integers(0, 999), st.sampled_from(["none", "causal", "random", "per head"]),
)  # fmt: skip
def test_attention_equals_the_reference(
    texts: int, heads: tuple[int, int], queries: int, keys: int, width: int, seed: int, kind: str
) -> None:
    q, k, v = (
        numbers(seed + i, texts, h, n, width)
        for i, (h, n) in enumerate([(heads[0], queries), (heads[1], keys), (heads[1], keys)])
    )
    chance, shape = np.random.default_rng(seed), (texts, heads[0], queries, keys)
    mask = {
        "none": np.ones((queries, keys), bool),
        "causal": np.tril(np.ones((queries, keys), bool)),
        "random": chance.random((texts, 1, queries, keys)) < 0.5,
        "per head": chance.random(shape) < 0.5,
    }[kind]
    given_mask = None if kind in ("none", "causal") else torch.from_numpy(mask)
    with portable_arithmetic():
        tensors = [torch.from_numpy(np.ascontiguousarray(x.swapaxes(1, 2))).transpose(1, 2) for x in (q, k, v)]
        found = F.scaled_dot_product_attention(
            *tensors, attn_mask=given_mask, is_causal=kind == "causal", enable_gqa=True, scale=0.7
        )
    expected = reference.attention(q, k, v, np.broadcast_to(mask, shape), 0.7)
    assert found.contiguous().numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_and_batches_change_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is divided by rows for long batches, and by columns or heads otherwise; a row alone gives the same."""
    monkeypatch.setattr("bitgolf.portable.threads.LEAST_WORK", 0)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    x, weight = torch.from_numpy(numbers(0, 1300, 33)), torch.from_numpy(numbers(1, 130, 33))
    q = torch.from_numpy(numbers(2, 5, 4, 7, 20))
    functions = PortableFunctions()
    product, attended = functions.linear(x, weight), functions.attention(q, q, q, None, True, 0.3)
    alone = [functions.linear(x[i : i + 1], weight) for i in (0, 1, 640, 1299)]
    single = functions.attention(q[2:3, :, :4], q[2:3, :, :4], q[2:3, :, :4], None, True, 0.3)
    functions.close()
    assert torch.equal(torch.cat(alone), product[[0, 1, 640, 1299]])
    assert torch.equal(single, attended[2:3, :, :4])
    assert (
        product[::400, ::50].numpy().tobytes() == reference.product(x[::400].numpy(), weight[::50].numpy().T).tobytes()
    )
