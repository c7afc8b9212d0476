"""Column-major order and row sorting, groups of a recipe, and reports on coders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.artifact.container import write_artifact
from bitgolf.artifact.ledger import coder_reports
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.pack.byte_coders import Brotli, Raw, Zlib
from bitgolf.pack.byte_planes import Array, entropy_bits
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.column_major import ColumnMajor, similarity_order
from bitgolf.pack.settings import Pack, StreamGroup
from bitgolf.pack.streams import EncodedTensor, pack_tensors, unpack_tensors
from helpers.examples import examples

RAW, RANGE = part(ColumnMajor, coder=part(Raw), permutation_coder=part(Raw)), part(ColumnMajor, coder=part(RangeCoder))
WRAPPED: list[Spec[Coder]] = [
    RAW,
    RANGE,
    part(ColumnMajor, coder=part(Zlib), sort_rows=False),
    part(ColumnMajor, coder=part(ColumnMajor, coder=part(Raw))),
    part(SmallestCoder, coders=(part(Zlib), RANGE)),
]


@st.composite
def streams(draw: st.DrawFn) -> list[Array]:
    """A few arrays of one dtype: matrices, vectors, scalars and empty arrays."""
    dtype = draw(st.sampled_from([np.int8, np.uint8, np.float16, np.int32]))
    shapes = draw(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    return [np.abs(generator.standard_normal(shape) * 9).astype(dtype).reshape(shape) for shape in shapes]


@pytest.mark.parametrize("coder", [spec() for spec in WRAPPED], ids=map(repr, WRAPPED))
@settings(max_examples=examples(80), deadline=None)
@given(arrays=streams())
def test_arrays_come_back_in_place(coder: Coder, arrays: list[Array]) -> None:
    data = coder.encode_arrays(arrays)
    back = coder.decode_arrays(data, arrays[0].dtype, [array.shape for array in arrays])
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(arrays, back, strict=True))


def test_matrices_are_coded_column_by_column() -> None:
    codes = np.arange(12, dtype=np.float16).reshape(3, 4)
    assert (
        part(
            ColumnMajor,
            coder=part(
                Raw,
            ),
        )().encode_arrays([codes])[4:]
        == codes.T.tobytes()
    )


def test_rows_stand_beside_the_nearest_that_is_left() -> None:
    levels = np.array([0, 50, 10, 40, 20, 30, 11, 120])
    codes = np.repeat(levels[:, None], 5, 1).astype(np.int8)
    assert levels[similarity_order(codes)].tolist() == [0, 10, 11, 20, 30, 40, 50, 120]
    far = np.array([[-128, -128], [127, 127], [-1, -1]], np.int8)  # their differences exceed the range of int8
    assert similarity_order(far).tolist() == [0, 2, 1]


@settings(max_examples=examples(60), deadline=None)
@given(rows=st.integers(1, 30), seed=st.integers(0, 99))
def test_the_walk_is_the_plain_greedy_one(rows: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 256, (rows, 6)).astype(np.uint8)
    order, left = [0], set(range(1, rows))
    for at in similarity_order(codes).tolist()[1:]:
        distance = {i: int(np.abs(codes[i].astype(int) - codes[order[-1]].astype(int)).sum()) for i in left}
        assert at in left and distance[at] == min(distance.values())
        order.append(at)
        left.remove(at)
    assert not left


def test_order_helps_where_rows_repeat() -> None:
    generator = np.random.default_rng(0)
    kinds = generator.integers(-30, 30, (4, 300))
    codes = (kinds[generator.integers(0, 4, 400)] + generator.integers(-1, 2, (400, 300))).astype(np.int8)
    sizes = [
        len(part(ColumnMajor, coder=part(Brotli, quality=9), sort_rows=s)().encode_arrays([codes]))
        for s in (True, False)
    ]
    assert sizes[0] < 0.75 * sizes[1]


def test_damage_to_the_order_is_found() -> None:
    codes = np.random.default_rng(0).integers(0, 9, (6, 4)).astype(np.int8)
    coder, shapes = RAW(), [codes.shape]
    good = coder.encode_arrays([codes])
    assert good[:4] == bytes([12, 0, 0, 0])
    twice = good[:4] + good[4:6] * 2 + good[8:]
    beyond = good[:4] + bytes([6, 0]) + good[6:]
    wrong = [
        good[:3],
        good[:10],
        good[:-1],
        good + b"\0",
        twice,
        beyond,
        bytes([255] * 4) + good[4:],
        bytes([10]) + good[1:],
    ]
    for data in wrong:
        with pytest.raises(CorruptFileError):
            coder.decode_arrays(data, codes.dtype, shapes)
    with pytest.raises(CorruptFileError, match="no matrix has sorted rows"):
        coder.decode_arrays(good, codes.dtype, [(24,)])


@pytest.mark.parametrize("coder", [spec() for spec in WRAPPED], ids=map(repr, WRAPPED))
@settings(max_examples=examples(100), deadline=None)
@given(data=st.binary(max_size=120), shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=3))
def test_any_bytes_decode_or_are_damage(coder: Coder, data: bytes, shapes: list[tuple[int, int]]) -> None:
    try:
        arrays = coder.decode_arrays(data, np.dtype(np.int8), shapes)
    except CorruptFileError:
        return
    assert [a.shape for a in arrays] == shapes


def test_levels_inside_columns_are_refused() -> None:
    with pytest.raises(RecipeError, match="RangeCoder with variance_contexts=true"):
        part(ColumnMajor, coder=part(RangeCoder, variance_contexts=True))()


# ---- groups of a recipe ----------------------------------------------------------------------------------------------

ROLES = {"embed": "embedding", "b.0.q": "matrix", "b.0.up": "matrix", "b.1.q": "matrix", "gain": "scale"}
GROUPS = (part(StreamGroup, where="matrix@b.*.q", name="c_q"), part(StreamGroup, where="matrix", name="others"))


def codes_of(roles: dict[str, str]) -> dict[str, EncodedTensor]:
    generator = np.random.default_rng(0)
    return {path: {"codes": (generator.standard_normal((20, 8)) * 3).astype(np.int8)} for path in roles}


def test_groups_are_named_by_the_recipe_and_by_role_otherwise() -> None:
    groups = part(Pack, coder=part(Raw), groups=GROUPS)().groups_by_path(ROLES)
    assert groups == {"embed": "embedding", "b.0.q": "c_q", "b.0.up": "others", "b.1.q": "c_q", "gain": "scale"}
    assert part(Pack, coder=part(Raw))().groups_by_path(ROLES) == ROLES
    every = part(Pack, coder=part(Raw), groups=(part(StreamGroup, where="*", name="all"),))()
    assert set(every.groups_by_path(ROLES).values()) == {"all"}
    with pytest.raises(RecipeError, match="has no effect"):
        part(Pack, coder=part(Raw), groups=GROUPS[::-1])().groups_by_path(ROLES)
    with pytest.raises(RecipeError, match="matches no parameter"):
        part(Pack, coder=part(Raw), groups=(part(StreamGroup, where="gate", name="g"),))().groups_by_path(ROLES)
    with pytest.raises(RecipeError, match=r"'attn\.proj' may contain only"):
        part(StreamGroup, where="*", name="attn.proj")()


def test_coder_rules_name_groups() -> None:
    codes, groups = codes_of(ROLES), part(Pack, coder=part(Raw), groups=GROUPS)().groups_by_path(ROLES)
    rules = (
        part(Rule, where="c_q", use=RANGE),
        part(Rule, where="@others.codes", use=part(Zlib)),
        part(Rule, where="*", use=part(Raw)),
    )
    sections = {s.name: s for s in pack_tensors(codes, groups, rules)}
    assert {n: s.codec for n, s in sections.items()} == {
        "c_q.codes": "columns.range", "others.codes": "zlib", "embedding.codes": "raw", "scale.codes": "raw",
    }  # fmt: skip
    layout = {path: {name: (a.dtype, a.shape) for name, a in code.items()} for path, code in codes.items()}
    back = unpack_tensors(sections, layout, groups, rules)
    assert all(np.array_equal(back[path]["codes"], codes[path]["codes"]) for path in codes)


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_choices_are_said_against_the_entropy(tmp_path: Path) -> None:
    codes, coder = codes_of(ROLES), part(SmallestCoder, coders=(part(Raw), part(RangeCoder)))
    artifact = write_artifact(tmp_path / "a.bg", recipe={}, meta={}, sections=pack_tensors(codes, ROLES, coder))
    found = coder_reports(artifact, codes, ROLES)
    assert [c.bytes for c in found] == sorted((len(s.data) for s in artifact.sections.values()), reverse=True)
    matrix = next(c for c in found if c.name == "matrix.codes")
    joined = np.concatenate([codes[p]["codes"].reshape(-1) for p in ROLES if ROLES[p] == "matrix"])
    assert matrix.entropy_bytes == round(entropy_bits(joined) / 8) and matrix.raw_bytes == 480
    assert 0 < matrix.bytes - matrix.entropy_bytes < 20 and matrix.coder == "range"
    over = matrix.bytes - matrix.entropy_bytes
    assert str(matrix) == (
        f"matrix.codes: range, {matrix.bytes} bytes (uncoded 480), "
        f"+{over} bytes (+{over / matrix.entropy_bytes:.2%}) relative to the order-0 entropy"
    )
    assert "%" not in str(matrix._replace(entropy_bytes=0))  # no percentage of an entropy of 0
