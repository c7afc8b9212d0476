"""Examples of the parts of attention: nodes that need arguments, and what they need around them."""

from __future__ import annotations

from typing import Any

from bitgolf.config.build_context import Place
from bitgolf.config.edits import append
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import Sdpa
from bitgolf.model.attention.differential import DifferentialAttention
from bitgolf.model.attention.gates import NarrowGate, SparseGate
from bitgolf.model.attention.head_mixing import HeadMix
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.values import AddValueEmbedding, ValueTable
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, ReluSquared
from bitgolf.model.part import Part


class Headed(MLP):
    """The toy's MLP, its matrices placed as if they made queries: the suite puts views here, and HeadMix needs heads."""

    def __init__(self, at: Place, /, *, linear: Spec[Linear] = part(Linear)) -> None:
        Part.__init__(self)
        at = at._replace(heads=4, kv_heads=2)
        self.up = linear(at.matrix(at.dim, 48, name="q"))
        self.act = ReluSquared(at)
        self.down = linear(at.matrix(48, at.dim, zero=True, name="q"))


TABLE = part(ValueTable, width=8, out=16)

EXAMPLES: dict[type, Spec[Any]] = {
    NarrowGate: part(NarrowGate, width=12),
    SparseGate: part(SparseGate, width=12, scale=0.5),
    KeyOffset: part(KeyOffset, dims=4),
    ValueTable: TABLE,
    DifferentialAttention: part(
        DifferentialAttention,
        heads=4,
        kv_heads=2,
        core=part(Sdpa),
        qk=(part(QKNorm), part(Rope), part(QGain, init=1.5)),
    ),
}

AROUND: dict[type, Any] = {
    ValueTable: lambda toy: toy.edit("block.mixer", append(value=part(AddValueEmbedding))),
    AddValueEmbedding: lambda toy: toy.edit(LM, append(enter=TABLE)),
    HeadMix: lambda toy: toy.edit("block.mlp", lambda _: part(Headed)),
}

QUIET = {ValueTable: "it leaves its values for AddValueEmbedding, which adds them"}
