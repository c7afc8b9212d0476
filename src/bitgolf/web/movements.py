"""Operators that move elements: concatenation, selection by index, lookups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bitgolf.errors import BitgolfError
from bitgolf.web.loops import elements, flat_rows, is_contiguous, loops, narrow, select
from bitgolf.web.recording import Operand
from bitgolf.web.writer import StepWriter


def cat(writer: StepWriter, out: Operand, parts: Sequence[Operand], dim: int = 0) -> None:
    axis, start = dim % len(out.shape), 0
    for x in parts:
        if x.shape != (0,):  # torch skips empty vectors
            size = x.shape[axis]
            writer.elementwise("{0}", narrow(out, axis, start, size), x)
            start += size


def stack(writer: StepWriter, out: Operand, parts: Sequence[Operand], dim: int = 0) -> None:
    for i, x in enumerate(parts):
        writer.elementwise("{0}", select(out, dim, i), x)


def _element(writer: StepWriter, index: Operand, number: int) -> str:
    """JavaScript of one element of a vector of integers."""
    x = select(index, 0, number) if index.shape else index
    return f"D[{writer.placed(x).offset}]"


def index_select(writer: StepWriter, out: Operand, x: Operand, dim: int, index: Operand) -> None:
    stride = writer.placed(x).strides[dim]
    for i in range(out.shape[dim]):
        moved = f"{stride} * {_element(writer, index, i)}"
        writer.elementwise("{0}", select(out, dim, i), select(x, dim, 0), extra=("", moved))


def index_copy(writer: StepWriter, out: Operand, _: Operand, dim: int, index: Operand, source: Operand) -> None:
    """The rows of `source` to the places of `index`, in place: a buffer of a state, whose other rows stay."""
    if writer.placed(out) != writer.placed(_):
        raise BitgolfError("index_copy is available in place only")
    for i in range(source.shape[dim]):
        moved = f"{out.strides[dim]} * {_element(writer, index, i)}"
        writer.elementwise("{0}", select(out, dim, 0), select(source, dim, i), extra=(moved,))


def gather(writer: StepWriter, out: Operand, x: Operand, dim: int, index: Operand) -> None:
    """Elements of x at `index` on one axis and at the element's own place on the others."""
    axis, source = dim % len(out.shape), writer.placed(x)
    strides = tuple(0 if i == axis else s for i, s in enumerate(source.strides))
    array = writer.array(x)
    places = writer.scratch(index.shape, torch.int64)
    writer.elementwise("{0} * {1}", places, index, source.strides[axis])
    chosen = [writer.placed(out), source._replace(shape=index.shape, strides=strides), writer.placed(places)]
    for loop in loops(chosen):
        (y, a, b), starts = loop.strides, loop.starts
        writer.call("gather", writer.array(out), array, *loop.counts, *(
            f"{start}, {across}, {along}" for start, (across, along) in zip(starts, (y, a, b), strict=True)
        ))  # fmt: skip


def embedding(writer: StepWriter, out: Operand, weight: Operand, ids: Operand, *_: Any) -> None:
    number, flat = writer.matrix(weight), flat_rows(out)
    for row, place in zip(flat, elements(ids), strict=True):
        target = writer.placed(row)
        if not is_contiguous(row):
            raise BitgolfError("rows of a lookup must be contiguous")
        writer.call("lookup", number, f"D[{writer.placed(place).offset}]", target.offset)
