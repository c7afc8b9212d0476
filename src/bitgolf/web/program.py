"""One step of a model as a JavaScript program, with the constants that its memory starts with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitgolf.model.lm import LM
from bitgolf.web.integers import IntegerMatrix, TrellisCode
from bitgolf.web.operators import write_operation
from bitgolf.web.recording import Operand, Operation, Recording, recording
from bitgolf.web.step import StepContext
from bitgolf.web.writer import ARRAYS, StepWriter

PAGE_BYTES = 1 << 16
"""Unit of the memory of WebAssembly."""


class StoredArray(NamedTuple):
    """Values that the memory has at a byte address from the start.

    type: of the elements in the memory.  trellis: the form in which integers are stored, if not as they are.
    """

    at: int
    type: str
    values: npt.NDArray[Any]
    trellis: TrellisCode | None = None


class StepProgram(NamedTuple):
    """A step in JavaScript.

    source: functions, `hidden()` and `logits()` for a step of a model, and their helpers.  arrays: constants.  memory_pages: size of the memory.
    matrices: what `product` and `lookup` read, as JSON.  places: addresses of input, output and scratch memory.
    resets: (array, address, count) of states that a new text starts with as zeros.
    """

    source: str
    arrays: list[StoredArray]
    memory_pages: int
    matrices: list[dict[str, Any]]
    places: dict[str, int]
    resets: list[tuple[str, int, int]]


def compile_step(model: LM, window: int, integers: Mapping[str, IntegerMatrix]) -> StepProgram:
    """The program of one step of `model`, for texts of at most `window` tokens.

    integers: parameters by path that the page has as integers; all others are floats. Raises `BitgolfError`, with the
    path of the part, if a part uses an operator that pages do not have.
    """
    with recording(model) as record:
        ids = record.variable("token", (1, 1), torch.int64)
        position = record.variable("position", (1,), torch.int64)
        context = StepContext(ids, model.bos, position, window, record.variable)
        hidden = model.hidden(context)
        until_hidden = len(record.operations)
        logits = model.logits(hidden).contiguous()
    by_storage = {record.storage(p): integers[path] for path, p in model.named_parameters() if path in integers}
    program = compile_recording(
        record,
        {"hidden": record.operations[:until_hidden], "logits": record.operations[until_hidden:]},
        {"token": ids, "position": position, "logits": logits},
        by_storage,
        spare=window,
    )
    return program._replace(places=program.places | {"vocab": logits.shape[-1], "window": window})


def compile_recording(
    record: Recording,
    functions: Mapping[str, Sequence[Operation]],
    places: Mapping[str, Tensor],
    integers: Mapping[int, IntegerMatrix],
    *,
    spare: int = 0,
) -> StepProgram:
    """The program of recorded operations.

    functions: name of a JavaScript function -> what it executes.  places: tensors whose addresses are in `StepProgram.places`.
    integers: by storage.  spare: elements of scratch memory, at least.
    """
    writer, sources = StepWriter(record), list[str]()
    for name, operations in functions.items():
        writer.statements = []
        for operation in operations:
            write_operation(writer, operation)
        sources.append(f"function {name}() {{\n{_lines(writer.statements)}}}")
    helpers = [f"function {name}{source}" for source, name in writer.helpers.items()]
    found = {name: writer.address(record.operand(x)) for name, x in places.items()}
    matrices, arrays = _matrices(writer, integers)
    arrays += [StoredArray(address, _type(x), x.numpy()) for address, x in writer.constants.items()]
    widest = max([spare, *(max(m.rows, m.columns) for m in writer.matrices)])
    found["spare"] = writer.reserve(4 * widest) // 4
    resets = [_reset(writer, record.operand(x)) for key, x in record.states.items() if key not in places]
    pages = -(-writer.bytes // PAGE_BYTES)
    return StepProgram("\n".join([*helpers, *sources]), arrays, pages, matrices, found, resets)


def _lines(statements: Sequence[str]) -> str:
    return "".join(f"  {statement}\n" for statement in statements)


def _type(x: Tensor) -> str:
    return {"F": "f32", "D": "f64", "B": "u8"}[ARRAYS[x.dtype]]


def _reset(writer: StepWriter, x: Operand) -> tuple[str, int, int]:
    return writer.array(x), writer.address(x), int(np.prod(x.shape))


def _matrices(
    writer: StepWriter, integers: Mapping[int, IntegerMatrix]
) -> tuple[list[dict[str, Any]], list[StoredArray]]:
    """The matrices of the program, and the arrays of their elements, steps and corrections."""
    arrays = list[StoredArray]()

    def store(x: Tensor, trellis: TrellisCode | None = None) -> tuple[str, int]:
        """Type and byte address of a new constant."""
        kind = {torch.float32: "f32", torch.int8: "i8", torch.int16: "i16"}[x.dtype]
        at = writer.reserve(x.numel() * x.element_size())
        arrays.append(StoredArray(at, kind, x.detach().contiguous().numpy(), trellis))
        return kind, at

    def floats(x: Tensor | None) -> int | None:
        return None if x is None else store(x)[1] // 4

    described = list[dict[str, Any]]()
    for storage, rows, columns in writer.matrices:
        found = integers.get(storage)
        row: dict[str, Any] = {"rows": rows, "columns": columns, "rowSteps": None, "columnSteps": None, "rank": 0}
        if found is None:
            row["type"], row["at"] = store(writer.record.tensors[storage])
        else:
            row["type"], row["at"] = store(found.integers, found.trellis)
            row |= {"rowSteps": floats(found.rows), "columnSteps": floats(found.columns)}
            if found.left is not None and found.right is not None:
                row |= {"rank": len(found.right), "left": floats(found.left), "right": floats(found.right)}
        described.append(row)
    return described, arrays
