"""Protected groups of columns: limiting cases, choice of the groups, error, composition, and damaged codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.grids.clip import SdClip
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.protected_groups import ProtectedGroups, choose_groups
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import MatrixStats, identity_stats

ROWS = part(IntRows, bits=4, clip=part(SdClip, k=3.0), solver=part(GPTQ))
SHAPES = st.sampled_from([(1, 1), (3, 8), (9, 20), (20, 9), (2, 3, 12), (7,)])


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stats(rows: int, columns: int, *, seed: int = 0) -> MatrixStats:
    """Statistics of correlated inputs with different scales."""
    inputs = weight(3 * columns, columns, seed=seed) @ weight(columns, columns, seed=seed + 1)
    inputs = inputs * weight(columns, seed=seed + 2).exp()
    return MatrixStats(inputs.T @ inputs / len(inputs), torch.ones(rows), len(inputs))


def protected(*, size: int = 4, count: int = 1, codec: Spec[IntRows] = ROWS) -> ProtectedGroups:
    return ProtectedGroups(codec=codec, group_size=size, top_k=count, max_unprotected=0)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, count=st.integers(1, 4), size=st.sampled_from([1, 4, 5, 64]), seed=st.integers(0, 99))
def test_round_trip_and_without_groups_it_is_gptq_bit_for_bit(
    shape: tuple[int, ...], count: int, size: int, seed: int
) -> None:
    w, codec = weight(*shape, seed=seed), protected(size=size, count=count)
    known = stats(w.numel() // shape[-1], shape[-1], seed=seed)
    code = codec.encode(w, known)
    assert {name: (a.dtype, a.shape) for name, a in code.items()} == codec.array_specs(shape)
    starts = [start for start in code["starts"].tolist() if start >= 0]
    assert len(starts) == min(count, shape[-1] // size)
    decoded, plain = codec.decode(code, shape), ROWS()
    assert decoded.shape == w.shape and decoded.dtype == torch.float32
    none = ProtectedGroups(codec=ROWS, top_k=count, max_unprotected=w.numel()).encode(w, known)
    for name, array in plain.encode(w, known).items():
        assert none[name].tobytes() == array.tobytes()
    if not starts:
        assert torch.equal(decoded, plain.decode(plain.encode(w, known), shape))


@pytest.mark.parametrize("known", [identity_stats(9, 20), None])
def test_without_correlations_protected_columns_are_rounded_to_nearest_in_8_bits(known: MatrixStats | None) -> None:
    w, codec = weight(9, 20), protected(size=5, count=2)
    code = codec.encode_groups(w, known, [5, 15])
    wide = IntRows(bits=8, clip=part(SdClip, k=3.0))
    columns = [*range(5, 10), *range(15, 20)]
    rest = [j for j in range(20) if j not in columns]
    decoded = codec.decode(code, (9, 20))
    assert torch.equal(decoded[:, columns], wide.fake_quantize(w)[:, columns])
    assert torch.equal(decoded[:, rest], IntRows(bits=4, clip=part(SdClip, k=3.0)).fake_quantize(w)[:, rest])


def test_the_error_in_the_metric_falls() -> None:
    w, known = weight(40, 64), stats(40, 64)

    def cost(codec: IntRows | ProtectedGroups) -> float:
        return float(known.cost(w - codec.decode(codec.encode(w, known), (40, 64))).sum())

    costs = [cost(ROWS()), *(cost(protected(size=8, count=count)) for count in (1, 4, 8))]
    assert costs == sorted(costs, reverse=True) and costs[-1] < 0.05 * costs[0]


def scores(w: Tensor, known: MatrixStats, size: int) -> list[float]:
    """The published score, written out: a sum over columns of root mean square times mean magnitude."""
    found = []
    for group in range(w.shape[1] // size):
        columns = range(group * size, (group + 1) * size)
        found.append(sum(float(known.hessian[j, j]) ** 0.5 * float(w[:, j].abs().mean()) for j in columns))
    return found


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_groups_are_the_best_of_all_matrices(count: int, seed: int) -> None:
    weights = {name: weight(5, columns, seed=seed + columns) for name, columns in (("a", 12), ("b", 9), ("c", 3))}
    known = {name: stats(5, w.shape[1], seed=seed + i) for i, (name, w) in enumerate(weights.items())}
    ranked = sorted(
        ((score, name, 4 * i) for name, w in weights.items() for i, score in enumerate(scores(w, known[name], 4))),
        reverse=True,
    )
    expected: dict[str, list[int]] = {}
    for _, name, start in ranked[:count]:
        expected.setdefault(name, []).append(start)
    chosen = choose_groups([(protected(count=count), weights)], known)
    assert chosen == {name: sorted(starts) for name, starts in expected.items()}
    encoding = protected(count=count).fit_encode(weights, known, EncodingSession())
    codes = dict(encoding.codes)
    assert codes.keys() == weights.keys() and all(f"{name}" in encoding.summary for name in chosen)
    for name, code in codes.items():
        starts = chosen.get(name, [])
        assert code["starts"].tolist() == [*starts, *[-1] * (count - len(starts))]
        assert code["wide_scales"].any() == bool(starts)


def test_a_scaled_column_scales_its_part_of_the_score() -> None:
    w, known = weight(9, 8).abs() + 1, identity_stats(9, 8)
    assert choose_groups([(protected(), {"w": w})], {"w": known}) != {}
    w[:, :4] = 1.0
    w[:, 4:] = 1.01
    assert choose_groups([(protected(), {"w": w})], {"w": known}) == {"w": [4]}
    w[:, 0] *= 1.1
    assert choose_groups([(protected(), {"w": w})], {"w": known}) == {"w": [0]}
    louder = known._replace(hessian=torch.diag(torch.tensor([1.0] * 7 + [4.0])))
    assert choose_groups([(protected(), {"w": w})], {"w": louder}) == {"w": [4]}


def test_small_matrices_have_no_groups() -> None:
    w = weight(256, 256)
    assert choose_groups([(ProtectedGroups(codec=ROWS), {"w": w})], {}) == {}
    assert choose_groups([(ProtectedGroups(codec=ROWS), {"w": weight(257, 256)})], {}) != {}


def test_a_correction_is_of_the_error_that_the_groups_leave() -> None:
    w, known = weight(20, 32), stats(20, 32)
    inner = part(ProtectedGroups, codec=ROWS, group_size=8, max_unprotected=0)
    codec = LQER(codec=inner, rank=2, top_k=1)
    code = codec.encode(w, known)
    plain = inner().encode(w, known)
    assert all(code[name].tobytes() == array.tobytes() for name, array in plain.items())
    errors = [w - codec.decode(code, (20, 32)), w - inner().decode(plain, (20, 32))]
    assert errors[0].norm() < errors[1].norm()
    assert codec.int_grid_and_steps(code) is None


def test_its_json_form() -> None:
    node = part(ProtectedGroups, codec=ROWS, group_size=32)
    assert from_json(node.to_json()) == node


@pytest.mark.parametrize(
    "starts", [[1, -1], [4, 4], [8, 4], [-1, 4], [16, -1], [-2, -1], [20, -1], [0, 18]], ids=lambda s: str(s)
)
def test_damaged_starts_are_refused(starts: Sequence[int]) -> None:
    w, codec = weight(3, 18), protected(count=2)
    code = codec.encode_groups(w, None, [4, 8])
    assert codec.decode(code, (3, 18)).shape == (3, 18)
    with pytest.raises(CorruptFileError):
        codec.decode(code | {"starts": np.array(starts, np.int16)}, (3, 18))


def test_damaged_codes_and_scales_are_refused() -> None:
    codec = protected()
    code = codec.encode_groups(weight(3, 18), None, [4])
    for name, value in (
        ("codes", -128),
        ("codes", 90),
        ("wide_scales", 0.0),
        ("wide_scales", -1.0),
        ("scales", np.nan),
    ):
        damaged = code[name].copy()
        damaged.reshape(-1)[5 if value == -128 else 0] = value
        with pytest.raises(CorruptFileError):
            codec.decode(code | {name: damaged}, (3, 18))
    unprotected = code | {"starts": np.full(1, -1, np.int16)}
    with pytest.raises(CorruptFileError):
        codec.decode(unprotected, (3, 18))


def test_settings_that_mean_nothing_are_refused() -> None:
    wrong: list[dict[str, Any]] = [{"bits": 4}, {"bits": 3}, {"top_k": 0}]
    for settings_ in wrong:
        with pytest.raises(RecipeError):
            part(ProtectedGroups, codec=ROWS, **settings_)()
