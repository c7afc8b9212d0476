"""Codecs against codes of the published quantizers: GPTQ, protected groups of columns, low-rank corrections, int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.lqer_factors import AsymmetricFactors
from bitgolf.quantize.codecs.protected_groups import ProtectedGroups
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
        assert codec.choose_groups({"w": w}, {"w": inputs}) == {"w": sorted(best[:count])}


def inputs(oracle: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, MatrixStats]]:
    """The three matrices of the whole quantizer, and the root mean squares of their inputs as statistics."""
    weights = {name: oracle[f"e2e/in/{name}/W"] for name in MATRICES}
    known = {
        name: MatrixStats(torch.diag(oracle[f"e2e/in/{name}/act_rms"].square()), torch.ones(len(w)), 1)
        for name, w in weights.items()
    }
    return weights, known


@pytest.mark.parametrize("count", [1, 3])
def test_the_best_groups_of_several_matrices(oracle: dict[str, Tensor], count: int) -> None:
    codec, name = ProtectedGroups(codec=rows(6), top_k=count), "blocks.0.mlp.fc.weight"
    starts = oracle[f"e2e/awq{count}_lqer2_g64/{name}.awqg_start"].tolist()
    assert codec.choose_groups(*inputs(oracle)) == {name: sorted(starts)}


@pytest.mark.parametrize("case", ["awq1_lqer2_g64", "awq3_lqer2_g64", "plain_lqer2_g64", "plain_lqer3_g32_nogate"])
@pytest.mark.parametrize("name", MATRICES)
def test_low_rank_corrections(oracle: dict[str, Tensor], case: str, name: str) -> None:
    """Each matrix alone, with the protected groups and the correction that the published quantizer chose for it."""
    (bits, k), w, prefix = MATRICES[name], oracle[f"e2e/in/{name}/W"], f"e2e/{case}/{name}"
    codec: Spec[Codec] = rows(bits, k)
    starts = oracle.get(f"{prefix}.awqg_start")
    if starts is not None:
        codec = part(ProtectedGroups, codec=codec, top_k=len(starts))
    corrected = f"{prefix}.lqA_a" in oracle
    if corrected:
        factors = part(AsymmetricFactors, group_size=32 if "g32" in case else 64)
        codec = part(LQER, codec=codec, rank=4, top_k=1, factors=factors, align_signs=False)
    stats = stats_of(oracle, f"e2e/in/{name}", w)
    # the groups are chosen by root mean squares that the reference gives apart from its Hessian
    made: Any = codec()
    if starts is not None:
        inner = made.codec if corrected else made
        inner.choose_groups = lambda weights, stats: dict.fromkeys(weights, sorted(starts.tolist()))
    code = made.encode(w, stats)
    assert equal(code["scales"], oracle[f"{prefix}.scale"])
    if f"{prefix}.q" in oracle:
        assert (code["codes"] != oracle[f"{prefix}.q"].numpy()).mean() < 1e-4
    if starts is not None:
        assert equal(code["wide_scales"], oracle[f"{prefix}.awqg_s_hi"])
    if corrected:
        # the float32 solver of the original rounds two of 73,728 codes to the other side
        assert (code["left"] != oracle[f"{prefix}.lqA_a"].numpy()).mean() < 0.003
        assert (code["right"] != oracle[f"{prefix}.lqB_a"].numpy().T).mean() < 0.03
        assert np.allclose(code["left_scales"].reshape(()), oracle[f"{prefix}.lqAs_a"], rtol=1e-3)
        assert np.allclose(code["right_scales"][:, 0], oracle[f"{prefix}.lqBs_a"], rtol=0.03)
    recon = f"e2e/{case}/recon/{name}"
    if recon in oracle:
        assert (made.decode(code, tuple(w.shape)) - oracle[recon]).abs().max() < 1e-5


def test_int8_rows_of_a_gate(oracle: dict[str, Tensor]) -> None:
    code = part(IntRows, bits=8, clip=part(MaxClip))().encode(oracle["e2e/in/attn_gate_w"])
    prefix = "e2e/plain_lqer2_g64/blocks.0.attn.attn_gate_w"
    assert equal(code["codes"], oracle[f"{prefix}.gq"]) and equal(code["scales"], oracle[f"{prefix}.gs"])
