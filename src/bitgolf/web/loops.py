"""Loops over strided operands: few dimensions, and the outer ones unrolled."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bitgolf.web.recording import Operand


class Loop(NamedTuple):
    """Two nested loops. counts: (outer, inner).  strides: for each operand (outer, inner).  starts: of each operand."""

    counts: tuple[int, int]
    strides: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]


def broadcast(x: Operand, shape: Sequence[int]) -> Operand:
    """The operand repeated to a shape, by strides of 0."""
    missing = len(shape) - len(x.shape)
    sizes, strides = (1,) * missing + x.shape, (0,) * missing + x.strides
    return x._replace(
        shape=tuple(shape), strides=tuple(0 if a != n else s for a, n, s in zip(sizes, shape, strides, strict=True))
    )


def select(x: Operand, axis: int, index: int) -> Operand:
    """x[…, index, …] on one axis, which is removed."""
    axis %= len(x.shape)
    return x._replace(
        offset=x.offset + index * x.strides[axis], shape=_without(x.shape, axis), strides=_without(x.strides, axis)
    )


def narrow(x: Operand, axis: int, start: int, size: int) -> Operand:
    """x[…, start : start + size, …] on one axis."""
    shape = list(x.shape)
    shape[axis] = size
    return x._replace(offset=x.offset + start * x.strides[axis], shape=tuple(shape))


def move_last(x: Operand, axes: Sequence[int]) -> Operand:
    """The operand with these axes moved to the end."""
    chosen = [axis % len(x.shape) for axis in axes]
    order = [axis for axis in range(len(x.shape)) if axis not in chosen] + chosen
    return x._replace(shape=tuple(x.shape[i] for i in order), strides=tuple(x.strides[i] for i in order))


def is_contiguous(x: Operand) -> bool:
    expected = 1
    for size, stride in zip(reversed(x.shape), reversed(x.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def loops(operands: Sequence[Operand]) -> Iterator[Loop]:
    """Loops over operands of one shape, as few as merged dimensions allow."""
    dims = merged_dimensions(operands)
    while len(dims) < 2:
        dims.insert(0, (1, (0,) * len(operands)))
    *outer, (m, across), (n, along) = dims
    for indices in itertools.product(*(range(size) for size, _ in outer)):
        starts = tuple(
            x.offset + sum(i * strides[k] for i, (_, strides) in zip(indices, outer, strict=True))
            for k, x in enumerate(operands)
        )
        yield Loop((m, n), tuple(zip(across, along, strict=True)), starts)


def merged_dimensions(operands: Sequence[Operand]) -> list[tuple[int, tuple[int, ...]]]:
    """(size, stride of each operand), outermost first, without sizes of 1; neighbours that are one run are merged."""
    dims = list[tuple[int, tuple[int, ...]]]()
    for axis, size in enumerate(operands[0].shape):
        strides = tuple(x.strides[axis] for x in operands)
        if size == 1:
            continue
        if dims and all(outer == size * inner for outer, inner in zip(dims[-1][1], strides, strict=True)):
            dims[-1] = (dims[-1][0] * size, strides)
        else:
            dims.append((size, strides))
    return dims


def flat_rows(x: Operand) -> list[Operand]:
    """The vectors over the last axis of an operand, in order."""
    if len(x.shape) <= 1:
        return [x]
    return [row for i in range(x.shape[0]) for row in flat_rows(select(x, 0, i))]


def elements(x: Operand) -> list[Operand]:
    """The single elements of an operand, in order."""
    return [x] if not x.shape else [e for i in range(x.shape[0]) for e in elements(select(x, 0, i))]


def _without(values: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return values[:axis] + values[axis + 1 :]
