"""Codecs against codes of the published quantizers: GPTQ, protected groups of columns, low-rank corrections, int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.pack.column_major import similarity_order
from bitgolf.quantize.codecs import protected_groups
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.lqer_factors import AsymmetricFactors
from bitgolf.quantize.codecs.protected_groups import ProtectedGroups
from bitgolf.quantize.encoding import decode_model, encode_model
from bitgolf.quantize.stats import MatrixStats

# name -> (bits, standard deviations of the clip)
MATRICES = {"blocks.0.attn.c_q.weight": (6, 13.0), "blocks.0.mlp.fc.weight": (6, 11.5), "tok_emb.weight": (7, 14.0)}
GROUPS = {"p64x96": (32, 1), "p48x320": (64, 2)}  # case -> (columns of a group, protected groups)


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles" / "quant_awq_lqer.safetensors")


def rows(bits: int, k: float = 12.85) -> Spec[IntRows]:
    return part(IntRows, bits=bits, clip=part(SdClip, k=k), solver=part(GPTQ))


def stats_of(oracle: dict[str, Tensor], prefix: str, matrix: Tensor) -> MatrixStats:
    return MatrixStats(oracle[f"{prefix}/H"], torch.ones(len(matrix)), 1)


def equal(found: np.ndarray, expected: Tensor) -> bool:
    return np.array_equal(found, expected.numpy())


@pytest.mark.parametrize("case", GROUPS)
def test_gptq(oracle: dict[str, Tensor], case: str) -> None:
    w = oracle[f"{case}/W"]
    code = rows(6)().encode(w, stats_of(oracle, case, w))
    assert equal(code["codes"], oracle[f"{case}/int6_plain/codes"])
    assert equal(code["scales"], oracle[f"{case}/int6_plain/scale"])


@pytest.mark.parametrize(("bits", "k"), [(6, 12.85), (7, 14.0)])
@pytest.mark.parametrize("case", GROUPS)
def test_protected_groups(oracle: dict[str, Tensor], case: str, bits: int, k: float) -> None:
    (size, count), prefix = GROUPS[case], f"{case}/int{bits}_prot8"
    w, starts = oracle[f"{case}/W"], oracle[f"{prefix}/starts"].tolist()
    codec = ProtectedGroups(codec=rows(bits, k), group_size=size, top_k=count, max_unprotected=0)
    code = codec.encode_groups(w, stats_of(oracle, case, w), starts)
    assert equal(code["codes"], oracle[f"{prefix}/codes"]) and code["starts"].tolist() == starts
    assert equal(code["scales"], oracle[f"{prefix}/scale"]) and equal(code["wide_scales"], oracle[f"{prefix}/s_hi"])
    assert torch.equal(codec.decode(code, tuple(w.shape)), oracle[f"{prefix}/recon"])


@pytest.mark.parametrize("case", GROUPS)
def test_the_best_groups(oracle: dict[str, Tensor], case: str) -> None:
    (size, _), w = GROUPS[case], oracle[f"{case}/W"]
    inputs = MatrixStats(torch.diag(oracle[f"{case}/act_rms"].square()), torch.ones(len(w)), 1)
    best = (size * oracle[f"{case}/group_scores"].argsort(descending=True)).tolist()
    for count in range(1, len(best) + 1):
        codec = ProtectedGroups(codec=rows(6), group_size=size, top_k=count, max_unprotected=0)
        assert protected_groups.choose_groups([(codec, {"w": w})], {"w": inputs}) == {"w": sorted(best[:count])}


def inputs(oracle: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, MatrixStats]]:
    """The three matrices of the whole quantizer, and the root mean squares of their inputs as statistics."""
    weights = {name: oracle[f"e2e/in/{name}/W"] for name in MATRICES}
    known = {
        name: MatrixStats(torch.diag(oracle[f"e2e/in/{name}/act_rms"].square()), torch.ones(len(w)), 1)
        for name, w in weights.items()
    }
    return weights, known


CASES = {
    "awq1_lqer2_g64": (1, 2, 64),
    "awq3_lqer2_g64": (3, 2, 64),
    "plain_lqer2_g64": (0, 2, 64),
    "plain_lqer3_g32_nogate": (0, 3, 32),
}
"""Case -> protected groups, corrected matrices, and entries of the second factor with one scale."""


def recipe_rules(protected: int, corrected: int, group_size: int) -> tuple[Spec[Rule[Codec]], ...]:
    """A rule for each of the three matrices, whose groups and corrections are chosen from all of them."""

    def codec(bits: int, k: float) -> Spec[Codec]:
        inner: Spec[Codec] = rows(bits, k)
        if protected:
            inner = part(ProtectedGroups, codec=inner, top_k=protected, scope="recipe")
        factors = part(AsymmetricFactors, group_size=group_size)
        return part(LQER, codec=inner, rank=4, top_k=corrected, factors=factors, align_signs=False, scope="recipe")

    return tuple(part(Rule, where=f"@{name}", use=codec(*MATRICES[name])) for name in MATRICES)


@pytest.fixture
def groups_by_rms(oracle: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are chosen by the root mean squares of the inputs, which the reference gives apart from its Hessian."""
    choose = protected_groups.choose_groups

    def by_rms(members: Any, stats: Any) -> Any:
        squares = {name: oracle[f"e2e/in/{name}/act_rms"].square() for name in MATRICES}
        return choose(members, {name: one._replace(hessian=torch.diag(squares[name])) for name, one in stats.items()})

    monkeypatch.setattr(protected_groups, "choose_groups", by_rms)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("groups_by_rms")
def test_the_whole_quantizer(oracle: dict[str, Tensor], case: str) -> None:
    """Three matrices with a rule each: which columns are protected, which matrices are corrected, and all arrays."""
    weights = {name: oracle[f"e2e/in/{name}/W"] for name in MATRICES}
    stats = {name: stats_of(oracle, f"e2e/in/{name}", w) for name, w in weights.items()}
    rules, kinds = recipe_rules(*CASES[case]), dict.fromkeys(MATRICES, "matrix")
    codes = encode_model(weights, kinds, rules, stats)
    decoded = decode_model(codes, {name: tuple(w.shape) for name, w in weights.items()}, kinds, rules)
    for name, code in codes.items():
        prefix = f"e2e/{case}/{name}"
        assert equal(code["scales"], oracle[f"{prefix}.scale"])
        if f"{prefix}.q" in oracle:
            assert (code["codes"] != oracle[f"{prefix}.q"].numpy()).mean() < 1e-4
        starts = oracle.get(f"{prefix}.awqg_start", torch.zeros(0)).sort().values
        assert [start for start in code.get("starts", np.zeros(0)).tolist() if start >= 0] == starts.tolist()
        if len(starts):
            assert equal(code["wide_scales"], oracle[f"{prefix}.awqg_s_hi"])
        assert code["left"].any() == (f"{prefix}.lqA_a" in oracle)
        if code["left"].any():
            # the float32 solver of the original rounds two of 73,728 codes to the other side
            assert (code["left"] != oracle[f"{prefix}.lqA_a"].numpy()).mean() < 0.003
            assert (code["right"] != oracle[f"{prefix}.lqB_a"].numpy().T).mean() < 0.03
            assert np.allclose(code["left_scales"].reshape(()), oracle[f"{prefix}.lqAs_a"], rtol=1e-3)
            assert np.allclose(code["right_scales"][:, 0], oracle[f"{prefix}.lqBs_a"], rtol=0.03)
        if f"e2e/{case}/recon/{name}" in oracle:
            assert (decoded[name] - oracle[f"e2e/{case}/recon/{name}"]).abs().max() < 1e-5


@pytest.mark.usefixtures("groups_by_rms")
def test_corrections_of_the_mlp_only(oracle: dict[str, Tensor]) -> None:
    """The scope "mlp" of the original is a rule of its own for these matrices."""
    name, prefix = "blocks.0.mlp.fc.weight", "e2e/scope_mlp/blocks.0.mlp.fc.weight"
    codec = part(LQER, codec=rows(*MATRICES[name]), rank=4, top_k=2, align_signs=False)()
    code = codec.encode(oracle[f"e2e/in/{name}/W"], stats_of(oracle, f"e2e/in/{name}", oracle[f"e2e/in/{name}/W"]))
    assert equal(code["scales"], oracle[f"{prefix}.scale"])
    assert (code["left"] != oracle[f"{prefix}.lqA_a"].numpy()).mean() < 0.003
    assert (code["right"] != oracle[f"{prefix}.lqB_a"].numpy().T).mean() < 0.03


@pytest.mark.parametrize("case", GROUPS)
def test_order_of_similar_rows(oracle: dict[str, Tensor], case: str) -> None:
    """That of #1855 and that of #2135 are the same."""
    codes = oracle[f"{case}/int6_plain/codes"].numpy()
    for version in ("1855", "2135"):
        assert similarity_order(codes).tolist() == oracle[f"{case}/simsort_perm_{version}"].tolist()


def test_int8_rows_of_a_gate(oracle: dict[str, Tensor]) -> None:
    code = part(IntRows, bits=8, clip=part(MaxClip))().encode(oracle["e2e/in/attn_gate_w"])
    prefix = "e2e/plain_lqer2_g64/blocks.0.attn.attn_gate_w"
    assert equal(code["codes"], oracle[f"{prefix}.gq"]) and equal(code["scales"], oracle[f"{prefix}.gs"])
