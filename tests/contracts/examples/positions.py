"""Examples of positions, norms, branches and losses: the toy itself holds their plain forms."""

from __future__ import annotations

from typing import Any

from bitgolf.model.mlp import SwiGLU
from bitgolf.model.rope import Rope, Yarn
from bitgolf.model.stream import ProRes
from bitgolf.spec import Spec, part

EXAMPLES: dict[type, Spec[Any]] = {
    Rope: part(Rope, dims=6, scaling=part(Yarn)),
    SwiGLU: part(SwiGLU, hidden=40),
}

QUIET = {ProRes: "as built its factor is 1; tests/model/test_positions.py knows it in training"}
