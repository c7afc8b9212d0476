"""Codecs and the encoding of a model: round trips, fake quantization that matches bit for bit, exact cover, files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.build_context import BuildContext
from bitgolf.config.parse import from_json
from bitgolf.config.registry import lookup
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError
from bitgolf.grids.clip import Clip, MaxClip, QuantileClip, SdClip, SearchClip
from bitgolf.grids.scales import MIN_STEP, Float16Scale, LogScale, ScaleFormat
from bitgolf.model.qat import FakeQuant
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.encoding import decode_model, encode_model, layout, load_encoded, save_encoded, tensor_reports
from bitgolf.recipes import get_recipe
from helpers.examples import examples

CLIPS: list[Spec[Clip]] = [
    part(MaxClip),
    part(QuantileClip),
    part(SdClip),
    part(SearchClip),
    part(SearchClip, per_row=False),
]
SHAPES = [(), (1,), (7,), (4, 6), (3, 1), (2, 3, 5)]


@settings(max_examples=examples(120), deadline=None)
@given(
    clip=st.sampled_from(CLIPS),
    bits=st.integers(2, 8),
    full=st.booleans(),
    legacy=st.booleans(),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([0.0, 1e-9, 1e-2, 1.0, 1e3]),
    multiple=st.sampled_from([1, 1, 3, 4]),
    scales=st.sampled_from([part(Float16Scale), part(LogScale, steps_per_doubling=4)]),
    rounding=st.sampled_from(["before", "after"]),
    prune=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 1000),
)
def test_fake_quantization_is_the_export_bit_for_bit(
    clip: Spec[Clip],
    bits: int,
    full: bool,
    legacy: bool,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    scale: float,
    multiple: int,
    scales: Spec[ScaleFormat],
    rounding: Literal["before", "after"],
    prune: float,
    seed: int,
) -> None:
    reach = 2 ** (bits - 1) - 1
    floor, multiple = 1 / reach if legacy else MIN_STEP, min(multiple, reach)
    grid = {"bits": bits, "clip": clip, "min_step": floor, "full_range": full, "multiple": multiple, "scales": scales}
    grid |= {"scale_rounding": rounding}
    codec = IntRows(**grid, prune=prune)
    w = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype).requires_grad_()
    code, fake = codec.encode(w), codec.fake_quantize(w)
    back = codec.decode(code, shape)
    assert back.dtype == torch.float32 and back.shape == shape and not fake.requires_grad
    assert back.numpy().tobytes() == fake.numpy().tobytes()
    if len(shape) == 2 and not prune:
        view = part(FakeQuant, codec=part(IntRows, **grid))(BuildContext(vocab=9))
        assert torch.equal(view(w.float()), back), "what training felt"
    assert {name: (a.dtype, a.shape) for name, a in code.items()} == codec.array_specs(shape)
    again = codec.encode(w)
    assert all(code[name].tobytes() == again[name].tobytes() for name in code)


def test_int8_of_the_baseline_rounds_the_scale_after_the_codes() -> None:
    """The published formula, written out; the other order gives other codes for a few weights."""
    w = torch.randn(200, 300, generator=torch.Generator().manual_seed(0)) * 30
    clip = torch.quantile(w.abs(), 0.9999984, dim=1)
    scale = (clip / 127.0).clamp_min(1.0 / 127.0)
    codes = (w.clamp(-clip[:, None], clip[:, None]) / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    rule: Spec[IntRows] = get_recipe("baseline")["quantize.1.use"]
    code = rule().encode(w)
    assert np.array_equal(code["codes"], codes.numpy()) and np.array_equal(code["scales"], scale.half().numpy())
    other = rule.replace(scale_rounding="before")().encode(w)
    assert (other["codes"] != code["codes"]).any() and np.array_equal(other["scales"], code["scales"])


def test_error_feedback_needs_the_stored_scale() -> None:
    with pytest.raises(RecipeError, match="rounded before"):
        IntRows(scale_rounding="after", solver=part(GPTQ))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_float_codecs_keep_exactly_the_rounded_weights(
    dtype: Literal["float32", "float16", "bfloat16"], shape: tuple[int, ...]
) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    codec = Float(dtype=dtype)
    code = codec.encode(w)
    assert codec.array_specs(shape) == {"values": (code["values"].dtype, shape)}
    assert torch.equal(codec.decode(code, shape), w.to(getattr(torch, dtype)).float())


def test_an_encoded_float_does_not_alias_the_weight() -> None:
    w = torch.ones(3)
    code = Float(dtype="float32").encode(w)
    w[0] = 5
    assert code["values"][0] == 1


def test_a_matrix_in_three_dimensions_is_rows_of_its_last_axis() -> None:
    w = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    codec = IntRows()
    assert torch.equal(codec.fake_quantize(w), codec.fake_quantize(w.reshape(6, 5)).reshape(2, 3, 5))
    assert codec.array_specs((2, 3, 5))["scales"][1] == (6,)


# ---- a whole model -------------------------------------------------------------------------------------------------

ROLES = {
    "embed.weight": "embedding",
    "blocks.0.q.weight": "matrix",
    "blocks.10.q.weight": "matrix",
    "blocks.0.gain": "scale",
}
SHAPE_OF = {"embed.weight": (16, 8), "blocks.0.q.weight": (8, 8), "blocks.10.q.weight": (8, 8), "blocks.0.gain": (8,)}
RULES = (
    part(Rule, where="matrix", use=part(IntRows, bits=6)),
    part(Rule, where="scale", use=part(Float, dtype="float16")),
    part(Rule, where="*", use=part(IntRows, bits=8, clip=part(MaxClip))),
)


def model_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {path: torch.randn(shape, generator=generator) for path, shape in SHAPE_OF.items()}


def test_a_model_is_encoded_laid_out_and_decoded_by_rules() -> None:
    state = model_state()
    codes = encode_model(state, ROLES, RULES)
    assert list(codes) == list(ROLES)
    assert {p: {n: (a.dtype, a.shape) for n, a in c.items()} for p, c in codes.items()} == layout(
        SHAPE_OF, ROLES, RULES
    )
    back = decode_model(codes, SHAPE_OF, ROLES, RULES)
    assert torch.equal(back["blocks.0.q.weight"], IntRows(bits=6).fake_quantize(state["blocks.0.q.weight"]))
    assert torch.equal(back["blocks.0.gain"], state["blocks.0.gain"].half().float())
    assert torch.equal(back["embed.weight"], IntRows(bits=8, clip=part(MaxClip)).fake_quantize(state["embed.weight"]))


def test_the_report_measures_each_tensor() -> None:
    state = model_state()
    rows = {row.path: row for row in tensor_reports(state, encode_model(state, ROLES, RULES), ROLES, RULES)}
    row = rows["blocks.0.q.weight"]
    codec = IntRows(bits=6)
    error = (codec.fake_quantize(state[row.path]) - state[row.path]).numpy().astype(np.float64)
    assert (row.role, row.codec, row.elements) == ("matrix", "IntRows", 64)
    assert row.max_error == np.abs(error).max() > 0
    assert row.rms_error == pytest.approx(np.sqrt((error**2).mean()))
    codes = codec.encode(state[row.path])["codes"]
    frequency = np.unique(codes, return_counts=True)[1] / codes.size
    bits_of_codes = -(frequency * np.log2(frequency)).sum()
    assert bits_of_codes < row.bits_per_weight <= bits_of_codes + 16 * 8 / 64
    assert rows["blocks.0.gain"].rms_error < 1e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e7])
def test_what_no_code_can_hold_is_an_error_that_names_the_tensor(bad: float) -> None:
    for path in ("blocks.10.q.weight", "blocks.0.gain"):
        state = model_state()
        state[path].view(-1)[3] = bad
        with pytest.raises(BitgolfError, match=path) as caught:
            encode_model(state, ROLES, RULES)
        assert caught.value.hint


def test_exact_cover_and_the_right_tensors() -> None:
    state = model_state()
    with pytest.raises(RecipeError, match=r"embed.weight"):
        encode_model(state, ROLES, RULES[:2])
    with pytest.raises(RecipeError, match="matches no parameter"):
        encode_model(state, ROLES, (part(Rule, where="gate", use=part(Float, dtype="float32")), *RULES))
    with pytest.raises(RecipeError, match="not a codec"):
        encode_model(state, ROLES, (part(Rule, where="*", use=part(MaxClip)),))  # pyright: ignore[reportArgumentType]
    del state["blocks.0.gain"]
    with pytest.raises(RecipeError, match=r"blocks.0.gain"):
        encode_model(state, ROLES, RULES)


def test_codes_that_do_not_fit_are_damage() -> None:
    codes = encode_model(model_state(), ROLES, RULES)
    path = "blocks.0.q.weight"
    good = codes[path]
    beyond, narrow = good["codes"].copy(), good["codes"][:, :-1]
    beyond[2, 2] = -32
    none = good["scales"].copy()
    none[1] = np.nan
    for wrong in (
        {**good, "codes": beyond},
        {**good, "codes": narrow},
        {**good, "scales": none},
        {**good, "scales": good["scales"].astype(np.float32)},
        {"codes": good["codes"]},
        {**good, "more": none},
    ):
        with pytest.raises(CorruptFileError, match=path):
            decode_model({**codes, path: wrong}, SHAPE_OF, ROLES, RULES)
    with pytest.raises(CorruptFileError, match=path):
        decode_model({p: c for p, c in codes.items() if p != path}, SHAPE_OF, ROLES, RULES)


def test_codes_survive_the_run_folder(tmp_path: Path) -> None:
    rules = (part(Rule, where="scale", use=part(Float, dtype="bfloat16")), *RULES[:1], *RULES[2:])
    codes = encode_model(model_state(), ROLES, rules)
    file = tmp_path / "codes" / "codes.safetensors"
    save_encoded(file, codes)
    loaded = load_encoded(file)
    for path, tensor in decode_model(codes, SHAPE_OF, ROLES, rules).items():
        assert torch.equal(decode_model(loaded, SHAPE_OF, ROLES, rules)[path], tensor)
    first = file.read_bytes()
    save_encoded(file, dict(reversed(codes.items())))
    assert file.read_bytes() == first
    for damaged in (first[:50], b"", first[:-1], b"\xff" * 100):
        file.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=r"codes\.safetensors"):
            load_encoded(file)
    with pytest.raises(CorruptFileError, match="absent"):
        load_encoded(tmp_path / "absent")


def test_codecs_can_be_named_in_a_recipe() -> None:
    node = part(IntRows, bits=5, clip=part(SearchClip, per_row=False), scales=part(LogScale, steps_per_doubling=8))
    assert from_json(node.to_json()) == node and lookup("Float") is Float
    with pytest.raises(RecipeError):
        from_json({"part": "Float", "dtype": "float64"})
