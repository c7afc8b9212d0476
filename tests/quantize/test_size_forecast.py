"""The size forecast, against the actual bytes of weights with the distribution it assumes."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from bitgolf.config.rules import Rule
from bitgolf.config.spec import part
from bitgolf.grids.clip import SdClip
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.streams import pack_tensors
from bitgolf.quantize import size_forecast as module
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.lqer_factors import AsymmetricFactors
from bitgolf.quantize.codecs.protected_groups import ProtectedGroups
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import context_models, encode_model
from bitgolf.quantize.size_forecast import forecast_bytes
from bitgolf.quantize.stats import identity_stats

ROWS = part(IntRows, bits=6, clip=part(SdClip, k=10.0))


def test_tables_are_paid_once_however_much_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sample of 1/40, frequency tables are a tenth of the bytes; in the whole model they are negligible."""
    monkeypatch.setattr(module, "SAMPLE_WEIGHTS", 1 << 15)
    shapes = {f"m{i}": (256, 128) for i in range(40)}
    roles, rules, coder = (
        dict.fromkeys(shapes, "matrix"),
        (part(Rule, where="*", use=ROWS),),
        part(RangeCoder, variance_contexts=True),
    )
    generator = torch.Generator().manual_seed(5)
    state = {path: torch.randn(shape, generator=generator) for path, shape in shapes.items()}
    codes = encode_model(state, roles, rules)
    packed = {s.name: len(s.data) for s in pack_tensors(codes, roles, coder, context_models(shapes, roles, rules))}
    found = forecast_bytes(shapes, roles, rules, coder)
    assert found.keys() == packed.keys()
    assert found["matrix.codes"] == pytest.approx(packed["matrix.codes"], rel=0.005)


def test_a_rule_for_one_matrix_of_many_is_sampled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_WEIGHTS", 1 << 16)
    shapes = {f"blocks.{i}.w": (128, 128) for i in range(8)}
    roles, groups = dict.fromkeys(shapes, "matrix"), {path: "a" if path[7] == "5" else "b" for path in shapes}
    fine = ROWS.set("clip.k", 5.0)
    rules = (part(Rule, where="@blocks.6.w", use=fine), part(Rule, where="*", use=ROWS))
    found = forecast_bytes(shapes, roles, rules, part(RangeCoder), groups)
    bits = {section: 8 * found[section] / 128**2 for section in ("a.codes", "b.codes")}
    assert bits["a.codes"] == pytest.approx(3.68, abs=0.05)
    assert bits["b.codes"] == pytest.approx(6 * 3.68 + 4.68, rel=0.03), "one has a bit more, and they share a table"


def test_what_allocation_says_of_rows_and_columns_is_counted() -> None:
    shapes = {f"m{i}": (512, 256) for i in range(6)}
    rules = (part(Rule, where="*", use=part(TrellisCodec, bits=3.0, states=4)),)
    found = forecast_bytes(shapes, dict.fromkeys(shapes, "matrix"), rules, part(RangeCoder, variance_contexts=True))
    assert found["matrix.codes"] == pytest.approx(6 * 512 * 256 * 3.0 / 8, rel=0.03)
    for name, count in (("matrix.rows", 6 * 512), ("matrix.columns", 6 * 256)):
        assert 0.3 * count < found[name] < 0.8 * count, f"steps that differ by half an octave or so, {name}"


@pytest.mark.parametrize(("bits", "tolerance"), [(1.5, 0.01), (3.0, 0.002), (5.0, 0.001)])
def test_few_states_forecast_what_many_states_store(bits: float, tolerance: float) -> None:
    """The sample is encoded with few states; a change of the rules that forgets to reduce them only takes longer."""
    shapes = {f"m{i}": (256, 128) for i in range(4)}
    found: dict[int, int] = {}
    for states in (module.FORECAST_STATES, 256):
        rules = (part(Rule, where="*", use=part(TrellisCodec, bits=bits, states=256)),)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "FORECAST_STATES", states)
            roles = dict.fromkeys(shapes, "matrix")
            found[states] = sum(forecast_bytes(shapes, roles, rules, part(RangeCoder)).values())
    assert found[256] != found[module.FORECAST_STATES] == pytest.approx(found[256], rel=tolerance)


@pytest.mark.parametrize("scope", ["rule", "recipe"])
def test_corrections_and_protected_groups_are_those_of_a_few_matrices(scope: Literal["rule", "recipe"]) -> None:
    """They do not grow with the model: the forecast is near the bytes of the file, as is that of all other streams."""
    groups = part(ProtectedGroups, codec=ROWS, group_size=32, max_unprotected=0, scope=scope)
    use = part(LQER, codec=groups, rank=4, top_k=2, scope=scope, factors=part(AsymmetricFactors))
    shapes = {f"m{i}": (384, 128) for i in range(20)} | {"large": (1024, 256)}
    roles, coder = dict.fromkeys(shapes, "matrix"), part(RangeCoder)
    generator = torch.Generator().manual_seed(1)
    state = {path: torch.randn(shape, generator=generator) for path, shape in shapes.items()}
    stats = {path: identity_stats(*shape) for path, shape in shapes.items()}
    rules = (part(Rule, where="*", use=use),)
    codes = encode_model(state, roles, rules, stats)
    packed = {s.name: len(s.data) for s in pack_tensors(codes, roles, coder, context_models(shapes, roles, rules))}
    plain = encode_model(state, roles, (part(Rule, where="*", use=ROWS),))
    without = sum(len(s.data) for s in pack_tensors(plain, roles, coder, {}))
    found = forecast_bytes(shapes, roles, rules, coder)
    extra = found["LQER"] + found["ProtectedGroups"]
    assert 0.6 * extra < sum(packed.values()) - without < 1.4 * extra
    assert sum(found.values()) == pytest.approx(sum(packed.values()), rel=0.01)
