"""Low-rank corrections: damaged codes and settings that are refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec, make_node, part
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.lqer_factors import AsymmetricFactors, LowRankFactors, PerRowFactors
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.stats import MatrixStats
from helpers.examples import examples
from helpers.low_rank_corrections import FACTORS, INNER, ExactFactors, weight


def altered(code: dict[str, Any], name: str, value: float) -> dict[str, Any]:
    array = code[name].copy()
    array.reshape(-1)[3 % array.size] = value
    return {**code, name: array}


def test_hostile_codes_are_damage() -> None:
    w = weight(40, 64)
    for factors, ends in ((part(AsymmetricFactors), [(-2, 1), (-8, 7)]), (part(PerRowFactors, bits=3), [(-3, 3)] * 2)):
        codec = LQER(codec=INNER, factors=factors)
        good = codec.encode(w)
        for name, (low, top) in zip(("left", "right"), ends, strict=True):
            for value in (low, top):
                codec.decode(altered(good, name, value), (40, 64))
            for value in (low - 1, top + 1, -128, 127):
                with pytest.raises(CorruptFileError, match="outside"):
                    codec.decode(altered(good, name, value), (40, 64))
        for name in ("left_scales", "right_scales"):
            for value in (np.nan, np.inf, -0.5):
                with pytest.raises(CorruptFileError, match="scale"):
                    codec.decode(altered(good, name, value), (40, 64))
        hostile = [{**good, "left": good["left"][:, :-1]}, {**good, "more": good["left"]}, altered(good, "codes", 99)]
        hostile += [{**good, "right": good["right"].astype(np.int16)}, {k: v for k, v in good.items() if k != "right"}]
        for code in hostile:
            with pytest.raises(CorruptFileError):
                codec.decode(code, (40, 64))
    exact = LQER(codec=INNER, factors=part(ExactFactors))
    for value in (np.nan, np.inf):
        with pytest.raises(CorruptFileError, match="float32"):
            exact.decode(altered(exact.encode(w), "left", value), (40, 64))


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data(), factors=st.sampled_from(FACTORS))
def test_any_bytes_decode_to_finite_weights_or_are_damage(data: st.DataObject, factors: Spec[LowRankFactors]) -> None:
    codec, code = LQER(codec=INNER, rank=2, factors=factors), {}
    for name, (dtype, size) in codec.array_specs((4, 6)).items():
        count = int(np.prod(size)) * dtype.itemsize
        few = st.lists(st.sampled_from([0, 1, 255, 60]), min_size=count, max_size=count).map(bytes)
        raw = data.draw(st.one_of(few, st.binary(min_size=count, max_size=count)))
        code[name] = np.frombuffer(bytearray(raw), dtype).reshape(size)
    with suppress(CorruptFileError):
        assert torch.isfinite(codec.decode(code, (4, 6))).all()


def test_an_error_names_its_matrix() -> None:
    weights = {"fine": weight(8, 8), "bad": weight(8, 8)}
    weights["bad"][2, 3] = float("nan")
    with pytest.raises(BitgolfError, match="bad: a weight is not finite"):
        LQER(codec=INNER).fit_encode(weights, {})
    not_one = MatrixStats(torch.full((8, 8), float("nan")), torch.ones(8), 1)
    with pytest.raises(BitgolfError, match="fine: the Hessian of the calibration is not finite"):
        LQER(codec=INNER, metric="hessian").fit_encode({"fine": weight(8, 8)}, {"fine": not_one})


def test_what_a_recipe_may_say() -> None:
    node = part(LQER, codec=part(TrellisCodec, bits=3.0), rank=2, metric="hessian", factors=part(PerRowFactors, bits=5))
    assert from_json(node.to_json()) == node
    built = node()
    assert built.needs_calibration and "codes" in built.context_coded and "left" in built.context_coded
    assert not LQER(codec=INNER).needs_calibration and LQER(codec=INNER, metric="hessian").needs_calibration
    wrong: list[dict[str, Any]] = [
        {"rank": 0},
        {"top_k": 0},
        {"damping": -1.0},
        {"codec": part(LQER, codec=INNER)},
    ]
    for setting in wrong:
        with pytest.raises(RecipeError):
            LQER(**{"codec": INNER, **setting})
    factors = [
        (PerRowFactors, {"bits": 9}),
        (AsymmetricFactors, {"group_size": 0}),
        (AsymmetricFactors, {"max_code": 0.5}),
    ]
    for cls, values in factors:
        with pytest.raises(RecipeError):
            make_node(cls, values, "factors")


# ---- choice among several rules ----------------------------------------------------------------------------------------
