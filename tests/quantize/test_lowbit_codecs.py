"""Low-bit codecs: round trips, consistency with weight transforms, refusal of invalid codes, size forecast."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.parse import from_json
from bitgolf.config.registry import lookup
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.qat import FakeQuant
from bitgolf.model.qat_lowbit import FakeBinary, FakeFloat8, FakeTernary
from bitgolf.pack.byte_coders import LZMA
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.streams import pack_tensors, unpack_tensors
from bitgolf.quantize.codecs.bit_packing import TRITS
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.lowbit import FP8, BinaryGroups, PackedInt4, TernaryGroups
from bitgolf.quantize.encoding import decode_model, encode_model, layout
from bitgolf.quantize.size_forecast import forecast_bytes
from helpers.examples import examples
from helpers.toy import VOCAB, built, toy_model

SHAPES = [(), (1,), (7,), (128,), (4, 6), (3, 64), (20, 33), (2, 3, 5)]
SHAPE = st.sampled_from(SHAPES)
GROUP = st.sampled_from([1, 5, 64, 128])
SCALE = st.sampled_from([0.0, 1e-3, 1.0, 100.0])
CODECS = [
    TernaryGroups(group_size=20),
    BinaryGroups(group_size=20),
    FP8(),
    TernaryGroups(group_size=20, packing="bitmask"),
    PackedInt4(),
    TernaryGroups(group_size=5, padded_rows=True),
]


def weight(shape: tuple[int, ...], *, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kept(codec: Codec, w: Tensor) -> Tensor:
    """The decoded weights, after checking the contract of all codecs."""
    code = codec.encode(w)
    assert {name: (a.dtype, a.shape) for name, a in code.items()} == codec.array_specs(tuple(w.shape))
    back = codec.decode(code, tuple(w.shape))
    assert back.dtype == torch.float32 and back.shape == w.shape
    again = codec.encode(back)
    assert all(code[name].tobytes() == again[name].tobytes() for name in code), "a code of what it decodes to"
    return back


@settings(max_examples=examples(80), deadline=None)
@given(shape=SHAPE, group=GROUP, scale=SCALE, seed=st.integers(0, 1000))
def test_a_ternary_view_finds_the_trained_weights_again(
    shape: tuple[int, ...], group: int, scale: float, seed: int
) -> None:
    w = weight(shape, scale=scale, seed=seed)
    trained = part(FakeTernary, group_size=group)(BuildContext(vocab=9))
    back = kept(TernaryGroups(group_size=group), w)
    seen, wanted = trained(back), trained(w)
    assert torch.equal(seen.sign(), wanted.sign()) and torch.equal(back.sign(), wanted.sign())
    assert ((seen - wanted).abs() <= 2.0**-11 * 1.001 * wanted.abs() + 2.0**-25).all()


@settings(max_examples=examples(80), deadline=None)
@given(shape=SHAPE, group=GROUP, scale=SCALE, seed=st.integers(0, 1000))
def test_a_binary_view_finds_exactly_what_was_stored(
    shape: tuple[int, ...], group: int, scale: float, seed: int
) -> None:
    w = weight(shape, scale=scale, seed=seed)
    trained = part(FakeBinary, group_size=group)(BuildContext(vocab=9))
    if not w.any():
        return  # the least scale is below float16
    back = kept(BinaryGroups(group_size=group), w)
    assert torch.equal(trained(back), back) and torch.equal(back.sign(), trained(w).sign())
    assert ((back - trained(w)).abs() <= 2.0**-11 * trained(w).abs() + 2.0**-25).all()


@settings(max_examples=examples(60), deadline=None)
@given(shape=SHAPE, scale=SCALE, seed=st.integers(0, 1000))
def test_eight_bit_floats_are_the_view_bit_for_bit(shape: tuple[int, ...], scale: float, seed: int) -> None:
    w = weight(shape, scale=scale, seed=seed).clamp(-448, 448)
    view = part(FakeFloat8)(BuildContext(vocab=9))
    back = kept(FP8(), w)
    assert torch.equal(view(w), back) and torch.equal(view(back), back)


@settings(max_examples=examples(60), deadline=None)
@given(shape=SHAPE, scale=SCALE, seed=st.integers(0, 1000))
def test_four_bit_integers_are_the_view_bit_for_bit(shape: tuple[int, ...], scale: float, seed: int) -> None:
    w = weight(shape, scale=scale, seed=seed)
    back = kept(PackedInt4(), w)
    rows = part(IntRows, bits=4, clip=part(MaxClip), scale_rounding="after")
    assert torch.equal(back, rows().fake_quantize(w))
    if len(shape) == 2:
        assert torch.equal(part(FakeQuant, codec=rows)(BuildContext(vocab=9))(w), back)


@settings(max_examples=examples(60), deadline=None)
@given(shape=SHAPE, group=GROUP, scale=SCALE, seed=st.integers(0, 1000))
def test_both_forms_of_ternary_decode_identically(shape: tuple[int, ...], group: int, scale: float, seed: int) -> None:
    w = weight(shape, scale=scale, seed=seed)
    digits, bitmask = (kept(TernaryGroups(group_size=group, packing=form), w) for form in ("digits", "bitmask"))
    assert torch.equal(digits, bitmask)


@settings(max_examples=80, deadline=None)
@given(shape=SHAPE, group=GROUP, packing=st.sampled_from(["digits", "bitmask"]), seed=st.integers(0, 1000))
def test_padded_rows_are_the_published_format(
    shape: tuple[int, ...], group: int, packing: Literal["digits", "bitmask"], seed: int
) -> None:
    """Written out: zeros after each row, float16 means of groups, rounding, and division by the mean of the codes."""
    w = weight(shape, seed=seed)
    back = kept(TernaryGroups(group_size=group, packing=packing, padded_rows=True), w)
    columns = shape[-1] if shape else 1
    for row, found in zip(w.reshape(-1, columns), back.reshape(-1, columns), strict=True):
        for start in range(0, columns, group):
            own = row[start : start + group]
            scale = (own.abs().sum() / group).half().float()
            codes = (own / scale).round().clamp(-1, 1)
            expected = codes * (scale / (codes.abs().sum() / group).clamp(min=1e-8))
            assert torch.allclose(found[start : start + group], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [128, 384])
def test_padding_changes_nothing_but_rounding_where_groups_divide_the_rows(width: int) -> None:
    w = weight((6, width))
    padded, plain = (kept(TernaryGroups(padded_rows=rows), w) for rows in (True, False))
    assert torch.equal(padded.sign(), plain.sign()) and torch.allclose(padded, plain, rtol=2.0**-10)


def test_codes_beyond_a_row_are_refused() -> None:
    codec = TernaryGroups(group_size=5, padded_rows=True)
    code = codec.encode(weight((2, 3)))
    codes = TRITS.unpack(code["codes"], 10)
    codes[4] = 1
    with pytest.raises(CorruptFileError, match="beyond the end of a row"):
        codec.decode(code | {"codes": TRITS.pack(codes)}, (2, 3))


# ---- bytes -----------------------------------------------------------------------------------------------------------


def test_bits_per_weight() -> None:
    w = weight((256, 320))
    for codec, bits in ((TernaryGroups(), 1.6), (BinaryGroups(), 1.0), (TernaryGroups(packing="bitmask"), 2.0)):
        code = codec.encode(w)
        assert 8 * code["codes"].nbytes / w.numel() == bits
        assert 8 * code["scales"].nbytes / w.numel() == 16 / 128
    assert 8 * PackedInt4().encode(w)["codes"].nbytes / w.numel() == 4


@pytest.mark.parametrize("form", ["digits", "bitmask"])
def test_ternary_codes_pack_to_their_entropy(form: Literal["digits", "bitmask"]) -> None:
    """Within 4 % of h(z) + 1 - z bits per weight, with z the share of zeros; also the padded bitmask."""
    w = weight((512, 512)) ** 3
    codec = TernaryGroups(packing=form)
    code = codec.encode(w)
    z = float((codec.decode(code, (512, 512)) == 0).float().mean())
    entropy = -z * math.log2(z) - (1 - z) * math.log2(1 - z) + 1 - z
    assert 0.6 < z < 0.7 and 1 < 8 * len(LZMA().encode(code["codes"])) / w.numel() / entropy < 1.04


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
def test_what_no_code_can_hold_is_an_error(codec: Codec, bad: float) -> None:
    w = weight((4, 6))
    w[2, 3] = bad
    with pytest.raises(BitgolfError, match=r"finite|beyond") as caught:
        codec.encode(w)
    assert caught.value.hint and not isinstance(caught.value, CorruptFileError)


def altered(code: dict[str, Any], name: str, index: int, value: float) -> dict[str, Any]:
    array = code[name].copy()
    array.reshape(-1)[index] = value
    return {**code, name: array}


def test_hostile_codes_are_damage() -> None:
    """Includes codes that would decode to the same weights: each tensor has exactly one valid code."""
    shape, good = (4, 6), [codec.encode(weight((4, 6))) for codec in CODECS]
    last_trits, last_bits = (
        int(good[0]["codes"][-1]),
        int(BinaryGroups(group_size=20).encode(weight((3,)))["codes"][-1]),
    )
    hostile = [
        (0, altered(good[0], "codes", 0, 243)),
        (0, altered(good[0], "codes", -1, last_trits + 81)),
        (1, {"codes": good[0]["codes"], "scales": good[0]["scales"]}),
        (2, altered(good[2], "values", 5, 0x7F)),
        (2, altered(good[2], "values", 5, 0xFF)),
        (2, {"values": good[2]["values"].astype(np.int8)}),
    ]
    hostile += [(4, altered(good[4], "codes", 3, value)) for value in (0x70, 0x07)]
    hostile += [(4, altered(good[4], "scales", 1, 0.0))]
    for i in (0, 1, 3, 4, 5):
        hostile += [(i, altered(good[i], "scales", 1, value)) for value in (np.nan, np.inf, -0.5)]
        hostile += [(i, {**good[i], "codes": good[i]["codes"][:-1]}), (i, {"codes": good[i]["codes"]})]
        hostile += [(i, {**good[i], "scales": good[i]["scales"].astype(np.float32)})]
    for i, code in hostile:
        CODECS[i].decode(good[i], shape)
        with pytest.raises(CorruptFileError):
            CODECS[i].decode(code, shape)
    bits = BinaryGroups(group_size=20).encode(weight((3,)))
    with pytest.raises(CorruptFileError, match=r"more codes"):
        BinaryGroups(group_size=20).decode(altered(bits, "codes", -1, last_bits + 8), (3,))


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data(), which=st.integers(0, 5))
def test_any_bytes_decode_to_finite_weights_or_are_damage(data: st.DataObject, which: int) -> None:
    codec, shape = CODECS[which], (4, 6)
    code = {}
    for name, (dtype, size) in codec.array_specs(shape).items():
        count = math.prod(size) * dtype.itemsize
        code[name] = np.frombuffer(bytearray(data.draw(st.binary(min_size=count, max_size=count))), dtype).reshape(size)
    with suppress(CorruptFileError):
        assert torch.isfinite(codec.decode(code, shape)).all()


# ---- a whole model ---------------------------------------------------------------------------------------------------

RULES = (
    part(Rule, where="matrix@**.mixer.**", use=part(TernaryGroups)),
    part(Rule, where="matrix", use=part(BinaryGroups)),
    part(Rule, where="embedding", use=part(FP8)),
    part(Rule, where="*", use=part(Float, dtype="float16")),
)


def test_a_model_of_few_bits_reads_back_as_it_was_trained() -> None:
    """After packing and unpacking, logits agree up to the float16 rounding of scales."""
    spec = toy_model().edit("block.mixer.linear", append(weight_transforms=part(FakeTernary)))
    spec = spec.edit("block.mlp.linear", append(weight_transforms=part(FakeBinary))).edit(
        "embed", append(weight_transforms=part(FakeFloat8))
    )
    model = built(spec)
    ids = torch.randint(2, VOCAB, (2, 16), generator=torch.Generator().manual_seed(0))
    before, kinds, state = model(ids), parameter_roles(model), dict(model.named_parameters())
    shapes = {path: tuple(p.shape) for path, p in state.items()}
    coder = part(SmallestCoder, coders=(part(RangeCoder), part(LZMA)))
    sections = {s.name: s for s in pack_tensors(encode_model(state, kinds, RULES), kinds, coder)}
    codes = unpack_tensors(sections, layout(shapes, kinds, RULES), kinds, coder)
    model.load_state_dict(decode_model(codes, shapes, kinds, RULES))
    assert (model(ids) - before).abs().max() < 0.02 * before.abs().max()


@pytest.mark.parametrize("codec", [TernaryGroups, BinaryGroups, FP8, PackedInt4])
def test_the_forecast_knows_these_codecs(codec: type[Codec]) -> None:
    """More weights than are sampled, in shapes not divisible by the group size, against the actual bytes."""
    shapes = {f"m{i}": (700, 301) for i in range(5)}
    kinds = dict.fromkeys(shapes, "matrix")
    rules, coder = (part(Rule, where="*", use=part(codec)),), part(RangeCoder)
    found = forecast_bytes(shapes, kinds, rules, coder)
    state = {path: weight(shape, scale=0.3, seed=i) for i, (path, shape) in enumerate(shapes.items())}
    packed = {s.name: len(s.data) for s in pack_tensors(encode_model(state, kinds, rules), kinds, coder)}
    assert found.keys() == packed.keys()
    assert sum(found.values()) == pytest.approx(sum(packed.values()), rel=0.01)


def test_these_codecs_can_be_named_in_a_recipe() -> None:
    for node in (
        part(TernaryGroups, group_size=64, packing="bitmask"),
        part(BinaryGroups),
        part(FP8),
        part(PackedInt4),
        part(IntRows, clip=part(SdClip)),
    ):
        built_again: Spec[Any] = from_json(node.to_json())
        assert built_again == node
    assert lookup("TernaryGroups") is TernaryGroups
