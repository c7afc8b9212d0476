"""Weights in a page: integers as codecs store them, constants in as few bytes, and products of both."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.lowbit import FP8, PackedInt4
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.web.integers import integer_matrix
from bitgolf.web.page import packed_arrays
from bitgolf.web.program import StepProgram, StoredArray
from bitgolf.web.webassembly import export_functions, webassembly_module
from helpers.examples import examples
from helpers.javascript import Node
from helpers.toy import built, toy_model
from helpers.web_model import page_logits, run_program

CODECS: dict[str, tuple[Spec[Codec], bool]] = {
    "int8": (part(IntRows, bits=8), True),
    "int4": (part(PackedInt4), True),
    "low rank": (part(LQER, codec=part(IntRows, bits=3), rank=2), True),
    "trellis": (part(TrellisCodec, bits=4.0, states=8), True),
    "fine trellis": (part(TrellisCodec, bits=6.9, states=16), True),
    "no trellis": (part(TrellisCodec, bits=4.0, states=1), True),
    "low rank and trellis": (part(LQER, codec=part(TrellisCodec, bits=2.0, states=4), rank=2), True),
    "float16": (part(Float, dtype="float16"), False),
    "float8": (part(FP8), False),
}
"""Name -> codec, and whether pages have its weights as integers."""


def encoded(spec: Spec[Codec], shape: tuple[int, int]) -> tuple[Codec, EncodedTensor, Tensor]:
    """A codec, the code of a matrix that has a part of low rank, and the decoded matrix."""
    chance = torch.Generator().manual_seed(0)
    rows, columns = shape
    w = torch.randn(shape, generator=chance) * torch.rand(columns, generator=chance)
    w += torch.randn(rows, 2, generator=chance) @ torch.randn(2, columns, generator=chance)
    codec = spec()
    code = dict(codec.fit_encode({"w": w}, {}).codes)["w"]
    return codec, code, codec.decode(code, shape)


@pytest.mark.parametrize("name", CODECS)
def test_decoded_weights_are_integers_times_steps(name: str) -> None:
    spec, stored = CODECS[name]
    codec, code, w = encoded(spec, (24, 32))
    found = integer_matrix(codec, code, w)
    assert (found is not None) == stored
    if found is None:
        return
    again = found.integers * found.rows[:, None] * (1.0 if found.columns is None else found.columns)
    if found.left is not None and found.right is not None:
        again = again + found.left @ found.right
    assert ("low rank" in name) == (found.left is not None)
    torch.testing.assert_close(again, w, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernels", [True, False], ids=["webassembly", "javascript"])
@pytest.mark.parametrize("name", [name for name, (_, stored) in CODECS.items() if stored])
def test_a_page_with_integers_computes_what_decoded_weights_do(node: Node, name: str, kernels: bool) -> None:
    model, integers = built(toy_model().set("layers", 1)), dict[str, Any]()
    for path in ("embed.weight", "blocks.0.mlp.up.weight"):
        p = model.get_parameter(path)
        codec, code, w = encoded(CODECS[name][0], (p.shape[0], p.shape[1]))
        p.data.copy_(w)
        integers[path] = integer_matrix(codec, code, w)
    ids = [1, 7, 30, 63, 2]
    found = page_logits(node, model, ids, 8, integers, kernels=kernels)
    torch.testing.assert_close(found, model(torch.tensor([ids]))[0], rtol=1e-4, atol=2e-5)


def test_an_integer_that_needs_more_than_two_bytes_is_a_float() -> None:
    codec, code, w = encoded(part(IntRows, bits=8), (4, 8))
    assert integer_matrix(codec, code, w * 2**13) is None
    assert integer_matrix(codec, code, w + 1e-3) is None


# ---- constants -------------------------------------------------------------------------------------------------------

HALVES = st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)
SINGLES = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)
SHORTS = st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=20)
ARRAYS = st.lists(
    HALVES.map(lambda x: ("f32", np.array(x, np.float32)))
    | SINGLES.map(lambda x: ("f32", np.array(x, np.float32)))
    | SHORTS.map(lambda x: ("i16", np.array(x, np.int16)))
    | SHORTS.map(lambda x: ("i8", np.array(x).astype(np.int8)))
    | SHORTS.map(lambda x: ("u8", np.array(x) > 0))
    | SHORTS.map(lambda x: ("f64", np.array(x, np.int64) * 2**37)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=examples(40))
@given(ARRAYS)
def test_constants_are_loaded_as_they_were(node: Node, arrays: list[tuple[str, Any]]) -> None:
    stored = [StoredArray(256 * i, kind, values) for i, (kind, values) in enumerate(arrays)]
    program = StepProgram("", stored, 1, [], {"spare": 0}, [])
    read = f"""return {json.dumps([[a.at, a.type, a.values.size] for a in stored])}.map(
        ([at, type, count]) => Array.from(new ELEMENT_TYPES[type](memory.buffer, at, count)));"""
    for found, (_, values) in zip(run_program(node, program, read), arrays, strict=True):
        assert np.array(found, np.float64).tolist() == values.astype(np.float64).tolist()


def test_floats_of_half_precision_take_two_bytes() -> None:
    chance = np.random.default_rng(0)
    halves = chance.normal(size=4000).astype(np.float16).astype(np.float32)
    described, data = packed_arrays([StoredArray(0, "f32", halves)])
    assert described == [[0, "f32", 4000, "f16"]]
    assert len(data) < 8000 < len(packed_arrays([StoredArray(0, "f32", halves / 3)])[1])


# ---- WebAssembly -----------------------------------------------------------------------------------------------------


@settings(max_examples=examples(30))
@given(st.integers(1, 9), st.integers(1, 70), st.integers(0, 3))
def test_products_in_webassembly_are_those_of_javascript(node: Node, rows: int, columns: int, gap: int) -> None:
    body = f"""
const results = [];
for (const type of ["i8", "i16", "f32"]) {{
  const W = new ELEMENT_TYPES[type](memory.buffer, 4096, {rows * (columns + gap)});
  for (let i = 0; i < W.length; i++) W[i] = (i * 37) % 201 - 100;
  for (let i = 0; i < {columns}; i++) F[i] = (i % 7) - 3;
  dotRows(type, 4096, 0, 512, {rows}, {columns}, {columns + gap});
  results.push(Array.from(F.subarray(512, 512 + {rows})));
}}
weightRows(1024, 512, 640, {rows}, {columns}, {columns + gap});
return [kernels !== null, results, Array.from(F.subarray(640, 640 + {columns}))];"""
    program = StepProgram("", [], 1, [], {"spare": 0}, [])
    fast, slow = (run_program(node, program, body, kernels=kernels) for kernels in (True, False))
    assert (fast[0], slow[0]) == (True, False)
    assert fast[1:] == slow[1:]  # integers below 2^24: every order of summation is exact


def test_the_module_exports_its_functions_and_imports_its_memory() -> None:
    module = webassembly_module()
    assert module and module.startswith(b"\0asm") and len(module) < 3000
    assert webassembly_module() is module


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 0, 10, 11]), st.binary(max_size=300)), max_size=6))
def test_an_object_file_keeps_all_sections_but_those_for_linkers(sections: list[tuple[int, bytes]]) -> None:
    def section(kind: int, body: bytes) -> bytes:
        n = len(body)
        return bytes([kind]) + (bytes([n]) if n < 128 else bytes([n & 127 | 128, n >> 7])) + body

    start = b"\0asm\1\0\0\0"
    before = [s for s in sections if s[0] in (1, 2, 3)]
    after = [s for s in sections if s[0] in (10, 11)]
    exported = section(7, b"\1\1f\0\0")
    expected = start + b"".join([section(*s) for s in before] + [exported] + [section(*s) for s in after])
    assert export_functions(start + b"".join(section(*s) for s in sections), ["f"]) == expected
