"""Examples of positions, norms, branches and losses: the toy itself holds their plain forms."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.rope_scaling import Yarn
from bitgolf.model.mlp import SwiGLU
from bitgolf.model.residual import ProRes

EXAMPLES: dict[type, Spec[Any]] = {
    Rope: part(Rope, dims=6, scaling=part(Yarn)),
    SwiGLU: part(SwiGLU, hidden=40),
}

QUIET = {ProRes: "as built its factor is 1; tests/model/test_positions.py knows it in training"}
