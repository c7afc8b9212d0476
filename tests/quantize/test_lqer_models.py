"""Low-rank corrections in whole models: packing, forecast, and the choice among several rules."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.streams import pack_tensors, unpack_tensors
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.lqer_factors import AsymmetricFactors, LowRankFactors, PerRowFactors
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import context_models, decode_model, encode_model, layout
from bitgolf.quantize.size_forecast import forecast_bytes
from helpers.low_rank_corrections import INNER, ExactFactors, known, weight

SHAPES = {"a": (96, 64), "b": (64, 96), "c": (31, 17), "v": (64,)}
KINDS = {"a": "matrix", "b": "matrix", "c": "matrix", "v": "scale"}


def rules(codec: Spec[Codec]) -> tuple[Spec[Rule], ...]:
    return part(Rule, where="matrix", use=codec), part(Rule, where="*", use=part(Float, dtype="float16"))


INNERS = (INNER, part(TrellisCodec, bits=2.0, states=4))
FACTORS_OF_PATHS = (part(AsymmetricFactors, group_size=6), part(PerRowFactors), part(ExactFactors))
PACKERS = (part(RangeCoder, variance_contexts=True), part(SmallestCoder, coders=(part(RangeCoder), part(Brotli))))


@pytest.mark.parametrize(
    ("inner", "factors", "coder"),
    [  # each of the factors once, and with them each of the others
        pytest.param(
            INNERS[i], FACTORS_OF_PATHS[j], PACKERS[k], marks=[] if i == k == j % 2 else [pytest.mark.exhaustive]
        )
        for i, j, k in itertools.product(range(2), range(3), range(2))
    ],
)
def test_a_model_with_repairs_survives_packing(
    inner: Spec[Codec], factors: Spec[LowRankFactors], coder: Spec[Coder]
) -> None:
    use = rules(part(LQER, codec=inner, top_k=2, metric="hessian", factors=factors))
    state = {path: weight(*shape, seed=i) for i, (path, shape) in enumerate(SHAPES.items())}
    stats = {path: known(*shape, spread=0.5) for path, shape in SHAPES.items() if len(shape) == 2}
    codes = encode_model(state, KINDS, use, stats)
    assert sum(codes[path]["left"].any() for path in "abc") == 2
    found = context_models(SHAPES, KINDS, use)
    sections = {s.name: s for s in pack_tensors(codes, KINDS, coder, found)}
    back = unpack_tensors(sections, layout(SHAPES, KINDS, use), KINDS, coder, found)
    before, after = decode_model(codes, SHAPES, KINDS, use), decode_model(back, SHAPES, KINDS, use)
    assert all(torch.equal(before[path], after[path]) for path in SHAPES)
    plain = decode_model(encode_model(state, KINDS, rules(inner), stats), SHAPES, KINDS, rules(inner))
    assert sum(not torch.equal(plain[path], after[path]) for path in SHAPES) == 2


@pytest.mark.parametrize("factors", [part(AsymmetricFactors), part(PerRowFactors)])
def test_matrices_without_repair_cost_next_to_nothing(factors: Spec[LowRankFactors]) -> None:
    """67 matrices of 512 x 512, 3 of them corrected, against those 3 alone."""
    codec = part(LQER, codec=INNER, top_k=3, factors=factors)
    weights = {f"m{i:02}": weight(512, 512, seed=i) for i in (7, 30, 66)}
    alone = dict(codec().fit_encode(weights, {}).codes)
    nothing = {name: np.zeros(size, kind) for name, (kind, size) in codec().array_specs((512, 512)).items()}
    paths = [f"m{i:02}" for i in range(67)]

    def bytes_of(codes: dict[str, Any]) -> int:
        kinds, shapes = dict.fromkeys(codes, "matrix"), dict.fromkeys(codes, (512, 512))
        known = context_models(shapes, kinds, (part(Rule, where="*", use=codec),))
        found = pack_tensors(codes, kinds, part(RangeCoder), known)
        return sum(
            len(s.data) for s in found if s.name.split(".")[1] in ("left", "right", "left_scales", "right_scales")
        )

    assert all(code["left"].any() for code in alone.values())
    few, all_of_them = bytes_of(alone), bytes_of({path: alone.get(path, nothing) for path in paths})
    assert few > 3000 and all_of_them < 1.02 * few + 150, (few, all_of_them)


def test_the_forecast_counts_the_factors() -> None:
    """They do not grow with the number of matrices; the forecast is compared with the actual bytes."""
    shapes = {f"m{i}": (1024, 256) for i in range(3)}
    kinds, coder = dict.fromkeys(shapes, "matrix"), part(RangeCoder)
    for choose in ("frobenius", "hessian"):
        use = (part(Rule, where="*", use=part(LQER, codec=part(IntRows), metric=choose, top_k=2)),)
        found = forecast_bytes(shapes, kinds, use, coder)
        state = {path: 0.3 * weight(*shape, seed=i) for i, (path, shape) in enumerate(shapes.items())}
        packed = pack_tensors(encode_model(state, kinds, use), kinds, coder, context_models(shapes, kinds, use))
        factors = sum(len(s.data) for s in packed if s.name not in ("matrix.codes", "matrix.scales"))
        assert 0.6 * found["LQER"] < factors < found["LQER"], "before entropy coding"


# ---- refusals --------------------------------------------------------------------------------------------------------
