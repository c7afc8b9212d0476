"""Coding with contexts: round trips, contents of the streams, and damaged data."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import CorruptFileError
from bitgolf.grids.trellis import TrellisGrid
from bitgolf.pack import contexts
from bitgolf.pack.byte_coders import Brotli, Zlib
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.contexts import ContextModel, NoContext
from bitgolf.pack.frequency_tables import read_leb128, write_leb128
from bitgolf.quantize.codecs.trellis import TrellisContext
from helpers.examples import examples

INT8 = np.dtype(np.int8)
CODERS: dict[str, Coder] = {
    "range": RangeCoder(),
    "levels": RangeCoder(variance_contexts=True),
    "zlib": Zlib(level=1),
    "brotli": Brotli(quality=3),
}
Shapes = list[tuple[int, int]]
SHAPES = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4)
STATES = [0, 1, 4, 8, 256]


def walks(shapes: Shapes, states: list[int]) -> list[ContextModel]:
    """One context model per matrix: `TrellisContext`, or `NoContext` for 0 states."""
    return [
        TrellisContext(TrellisGrid(s), shape[1]) if s else NoContext(shape[1])
        for s, shape in zip(states, shapes, strict=True)
    ]


def drawn(shapes: Shapes, seed: int, scale: float) -> list[Array]:
    """Matrices whose rows and columns differ in variance."""
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Array:
        spread = scale * np.exp(generator.standard_normal((rows, 1))) * np.exp(generator.standard_normal(columns))
        return np.clip(np.rint(generator.standard_normal((rows, columns)) * spread), -128, 127).astype(np.int8)

    return [matrix(*shape) for shape in shapes]


def same(found: list[Array], wanted: list[Array]) -> bool:
    return len(found) == len(wanted) and all(
        a.dtype == b.dtype and a.shape == b.shape and (a == b).all() for a, b in zip(found, wanted, strict=True)
    )


@settings(max_examples=examples(100), deadline=None)
@given(
    data=st.data(),
    coder=st.sampled_from(sorted(CODERS)),
    shapes=SHAPES,
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.0, 0.1, 3.0, 300.0]),
)
def test_round_trip(data: st.DataObject, coder: str, shapes: Shapes, seed: int, scale: float) -> None:
    states = data.draw(st.lists(st.sampled_from(STATES), min_size=len(shapes), max_size=len(shapes)))
    matrices = drawn(shapes, seed, scale)
    packed = contexts.encode(matrices, walks(shapes, states), CODERS[coder])
    assert same(contexts.decode(packed, shapes, walks(shapes, states), INT8, CODERS[coder]), matrices)
    assert contexts.encode(matrices, walks(shapes, states), CODERS[coder]) == packed


@given(states=st.sampled_from([1, 4, 8, 256]), shape=SHAPES.map(lambda shapes: shapes[0]), seed=st.integers(0, 99))
def test_a_walk_down_knows_the_halves(states: int, shape: tuple[int, int], seed: int) -> None:
    indices, grid = drawn([shape], seed, 5.0)[0], TrellisGrid(states)
    walk = TrellisContext(grid, shape[1])
    for row, halves in zip(indices, grid.half_offsets(indices), strict=True):
        assert walk.next_row().tolist() == halves.tolist() and halves.max() < walk.context_count
        walk.update(row)


def read_heads(packed: bytes, contexts: int) -> tuple[list[tuple[int, int]], int]:
    """(count, size) of each context for data without variance classes, and the offset of the first stream."""
    at, found = 1, []
    for _ in range(contexts):
        count, at = read_leb128(packed, at)
        length, at = read_leb128(packed, at) if count else (0, at)
        found.append((count, length))
    return found, at


def test_streams_are_those_of_the_contexts() -> None:
    """Each stream has the symbols of its context in row order. Zlib at level 0 does not compress."""
    grid, coder = TrellisGrid(8), Zlib(level=0)
    matrices = drawn([(20, 7), (5, 3)], 0, 4.0)
    packed = contexts.encode(matrices, walks([(20, 7), (5, 3)], [8, 8]), coder)
    heads, at = read_heads(packed, 2)
    for half, (count, length) in enumerate(heads):
        wanted = np.concatenate([m[grid.half_offsets(m) == half] for m in matrices])
        assert count == wanted.size > 0
        assert coder.decode(packed[at : at + length], INT8, count).tolist() == wanted.tolist()
        at += length
    assert packed[0] == 0 and at == len(packed)


def test_levels_are_used_where_they_pay() -> None:
    generator, shape = np.random.default_rng(0), (256, 256)
    flat = np.rint(generator.standard_normal(shape) * 3).astype(np.int8)
    spread = np.exp(0.8 * generator.standard_normal((256, 1)) + 0.5 * generator.standard_normal(256))
    steep = np.clip(np.rint(generator.standard_normal(shape) * 3 * spread), -127, 127).astype(np.int8)
    for matrix, leveled in ((flat, False), (steep, True)):
        plain = contexts.encode([matrix], walks([shape], [0]), RangeCoder())
        packed = contexts.encode([matrix], walks([shape], [0]), RangeCoder(variance_contexts=True))
        assert packed[0] == leveled and plain[0] == 0
        assert len(packed) < 0.95 * len(plain) if leveled else packed == plain
        assert same(
            contexts.decode(packed, [shape], walks([shape], [0]), INT8, RangeCoder(variance_contexts=True)), [matrix]
        )


def test_a_trellis_gains_from_its_walk() -> None:
    """Symbols of the lower half of the points are centred at 0, those of the upper half at -1/2."""
    shape, grid = (400, 64), TrellisGrid(8)
    steps = 0.6 * np.random.default_rng(0).standard_normal(shape)
    indices, walk = np.empty(shape, np.int8), TrellisContext(grid, 64)
    for i in range(400):
        indices[i] = np.rint(steps[i] - 0.5 * walk.next_row())
        walk.update(indices[i])
    known = contexts.encode([indices], walks([shape], [8]), RangeCoder())
    assert len(known) < 0.97 * len(contexts.encode([indices], walks([shape], [0]), RangeCoder()))


# ---- damage --------------------------------------------------------------------------------------------------------

SHAPE: Shapes = [(30, 9), (8, 17)]


@pytest.mark.parametrize("coder", sorted(CODERS))
@pytest.mark.parametrize("states", [[8, 4], [0, 0]])
def test_what_is_cut_or_goes_on_is_damage(coder: str, states: list[int]) -> None:
    packed = contexts.encode(drawn(SHAPE, 1, 3.0), walks(SHAPE, states), CODERS[coder])
    cut = [packed[:n] for n in range(0, len(packed), 7)]
    for wrong in (*cut, packed[:-1], packed + b"\0", packed + packed, packed[1:], b"\2" + packed[1:]):
        with pytest.raises(CorruptFileError):
            contexts.decode(wrong, SHAPE, walks(SHAPE, states), INT8, CODERS[coder])


@pytest.mark.parametrize("coder", sorted(CODERS))
@settings(max_examples=examples(30), deadline=None)
@given(at=st.integers(0, 1 << 16), bit=st.integers(0, 7), other=st.booleans(), scale=st.sampled_from([1.0, 40.0]))
def test_a_flipped_bit_is_damage_or_other_symbols_of_these_shapes(
    coder: str, at: int, bit: int, other: bool, scale: float
) -> None:
    matrices, states = drawn(SHAPE, 2, scale), [0, 0] if other else [8, 4]
    packed = bytearray(contexts.encode(matrices, walks(SHAPE, states), CODERS[coder]))
    packed[(at % 60 if at & 1 else at) % len(packed)] ^= 1 << bit  # half of the flips are in the counts and sizes
    with suppress(CorruptFileError):
        found = contexts.decode(bytes(packed), SHAPE, walks(SHAPE, states), INT8, CODERS[coder])
        assert [(m.dtype, m.shape) for m in found] == [(INT8, shape) for shape in SHAPE]


@pytest.mark.parametrize("coder", sorted(CODERS))
@settings(max_examples=examples(150), deadline=None)
@given(data=st.binary(max_size=200), shapes=SHAPES, leveled=st.sampled_from([b"", b"\0", b"\1"]))
def test_any_bytes_decode_or_are_damage(coder: str, data: bytes, shapes: Shapes, leveled: bytes) -> None:
    with suppress(CorruptFileError):
        found = contexts.decode(leveled + data, shapes, walks(shapes, [8] * len(shapes)), INT8, CODERS[coder])
        assert [(m.dtype, m.shape) for m in found] == [(INT8, shape) for shape in shapes]


@pytest.mark.parametrize("coder", sorted(CODERS))
@settings(max_examples=examples(100), deadline=None)
@given(counts=st.lists(st.integers(0, (1 << 32) - 1), min_size=4, max_size=4), right=st.booleans())
def test_counts_that_lie_are_damage_and_take_no_memory(coder: str, counts: list[int], right: bool) -> None:
    """`right`: the sum of the counts is correct, so only the contexts reveal the error."""
    matrices = drawn(SHAPE, 3, 3.0)
    packed = contexts.encode(matrices, walks(SHAPE, [8, 8]), CODERS["zlib"])
    ((first, _), (rest, _)), at = read_heads(packed, 2)
    if right:
        counts[0] %= first + rest + 1
        counts[2] = first + rest - counts[0]
    if counts[0] == first:
        return
    lied = packed[:1] + b"".join(map(write_leb128, counts)) + packed[at:]
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError):
            contexts.decode(lied, SHAPE, walks(SHAPE, [8, 8]), INT8, CODERS[coder])
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_symbols_in_the_wrong_context_are_damage() -> None:
    """Counts with the correct sum and matching streams, which contradict the contexts of the decoded symbols."""
    coder = Zlib(level=1)
    streams = [np.zeros(n, np.int8) for n in (300, 106)]  # zeros only occur in the lower half
    coded = [coder.encode(stream) for stream in streams]
    heads = b"".join(write_leb128(s.size) + write_leb128(len(c)) for s, c in zip(streams, coded, strict=True))
    with pytest.raises(CorruptFileError, match="ends before"):
        contexts.decode(b"\0" + heads + b"".join(coded), SHAPE, walks(SHAPE, [8, 8]), INT8, coder)


@pytest.mark.parametrize("surplus", [1, 1 << 24])
@pytest.mark.parametrize("coder", ["range", "zlib"])
def test_more_symbols_than_the_matrices_hold_are_damage_before_they_are_decoded(coder: str, surplus: int) -> None:
    """A few bytes can encode millions of zeros, so the count is checked first."""
    stream = np.zeros(sum(r * c for r, c in SHAPE) + surplus, np.int8)
    coded = CODERS[coder].encode(stream)
    bomb = b"\0" + write_leb128(stream.size) + write_leb128(len(coded)) + coded
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError):
            contexts.decode(bomb, SHAPE, walks(SHAPE, [0, 0]), INT8, CODERS[coder])
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
