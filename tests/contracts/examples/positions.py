"""Examples of positions, norms, branches and losses that differ from those of the toy model."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import YaRNScaling
from bitgolf.model.mlp import NormedSwiGLU, SwiGLU
from bitgolf.model.residual import ResidualWarmup

EXAMPLES: dict[type, Spec[Any]] = {
    RoPE: part(RoPE, dims=6, scaling=part(YaRNScaling)),
    SwiGLU: part(SwiGLU, hidden=40),
    NormedSwiGLU: part(NormedSwiGLU, hidden=40),
}

QUIET = {ResidualWarmup: "its initial factor is 1; tests/model/test_positions.py tests it in training"}
