"""Rotary tables, rotation and softcap against values computed with the published scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling, RoPEScaling, YaRNScaling
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.logits_transforms import Softcap

TABLES: dict[str, tuple[int, int, float, Spec[RoPEScaling] | None]] = {  # head width, dims, base, scaling
    "base_full_d64_T64": (64, 0, 1e4, None),
    "partial16_of64_T64": (64, 16, 1e4, None),
    "ntk_d64_ref1024_T2048_pr164": (64, 0, 1e4, part(NTKScaling)),
    "ntk_r16_of64_ref1024_T2048_pr1512": (64, 16, 1e4, part(NTKScaling, original_length=1024, length=2048)),
    "ntk_r16_of64_ref1024_T4096_pr1512": (64, 16, 1e4, part(NTKScaling, original_length=1024, length=4096)),
    "ntk_r16_of64_ref2048_T2048_pr1493_inactive": (64, 16, 1e4, part(NTKScaling, original_length=2048, length=2048)),
    "ntk_r16_of64_ref2048_T4096_pr1493": (64, 16, 1e4, part(NTKScaling, original_length=2048, length=4096)),
    "ntk_flag_r16_ref2048_T4096_pr1855_yarn1": (64, 16, 1e4, part(NTKScaling, original_length=2048, length=4096)),
    "yarn_d96_640": (96, 0, 5e3, part(YaRNScaling)),
}


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles" / "micro.safetensors")


def rope(head: int, dims: int, base: float, scaling: Spec[RoPEScaling] | None) -> RoPE:
    return RoPE(BuildContext(vocab=8, dim=2 * head, heads=2), base=base, dims=dims, scaling=scaling)


def test_every_table_of_the_oracle_is_here(oracle: dict[str, Tensor]) -> None:
    assert {name.split("/")[1] for name in oracle if name.startswith("rope/") and name.endswith("/cos")} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_rotary_tables(name: str, oracle: dict[str, Tensor]) -> None:
    rows = oracle[f"rope/{name}/rows"]
    tables = rope(*TABLES[name]).cos_sin(ForwardContext(torch.zeros(1, int(rows.max()) + 1, dtype=torch.int64)))
    for ours, key in zip(tables, ("cos", "sin"), strict=True):
        assert (ours[rows, 0] - oracle[f"rope/{name}/{key}"]).abs().max() < 1e-6


def test_yarn_frequencies(oracle: dict[str, Tensor]) -> None:
    width, here = 96, torch.device("cpu")
    ours = YaRNScaling().frequencies(5e3, width, here)
    assert torch.allclose(ours, oracle["rope/yarn_d96_640/inv_freq"], rtol=1e-6, atol=0)
    plain = rope(width, 0, 5e3, None).frequencies(here)
    assert torch.allclose(plain, oracle["rope/yarn_d96_640/inv_freq_plain"], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "dims"), [("partial16", 16), ("full64", 0)])
def test_rotation(name: str, dims: int, oracle: dict[str, Tensor]) -> None:
    x = oracle["rope/apply/x"]
    q, k = rope(64, dims, 1e4, None)(x, x, ForwardContext(torch.zeros(x.shape[:2], dtype=torch.int64)))
    assert (q - oracle[f"rope/apply/{name}"]).abs().max() < 1e-6
    assert torch.equal(q, k)


def test_softcap(oracle: dict[str, Tensor]) -> None:
    ours = Softcap(BuildContext(vocab=8), cap=30.0)(oracle["softcap/x"])
    assert (ours - oracle["softcap/tanh30"]).abs().max() < 1e-5
