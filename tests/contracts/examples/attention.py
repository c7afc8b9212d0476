"""Examples of attention parts for the contract tests: nodes with arguments, and the changes of the model they need."""

from __future__ import annotations

from typing import Any

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import FusedAttention, QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.attention.differential import DifferentialAttention, SplitValueDifferentialAttention
from bitgolf.model.attention.gates import NarrowAttentionGate, SparseAttentionGate
from bitgolf.model.attention.head_mixing import HeadMix
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.values import AddValueEmbedding, ValueEmbedding
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, SquaredReLU
from bitgolf.model.part import Part


class Headed(MLP):
    """The MLP of the toy model with its matrices named `q`, since HeadMix applies to matrices with heads only."""

    def __init__(self, context: BuildContext, /, *, linear: Spec[Linear] = part(Linear)) -> None:
        Part.__init__(self)
        context = context._replace(heads=4, kv_heads=2)
        self.up = linear(context.for_matrix(context.dim, 48, name="q"))
        self.act = SquaredReLU(context)
        self.down = linear(context.for_matrix(48, context.dim, zero=True, name="q"))


HEADS: dict[str, Any] = {
    "heads": 2,  # halves of heads are as wide as the heads of the toy model
    "kv_heads": 1,
    "core": part(SDPACore),
    "qk": (part(QKNorm), part(RoPE), part(QGain, init=1.5)),
}
TABLE = part(ValueEmbedding, width=8, value_dim=16)

EXAMPLES: dict[type, Spec[Any]] = {
    NarrowAttentionGate: part(NarrowAttentionGate, width=12),
    SparseAttentionGate: part(SparseAttentionGate, width=12, scale=0.5),
    KeyOffset: part(KeyOffset, unshifted_dims=4),
    ValueEmbedding: TABLE,
    DifferentialAttention: part(DifferentialAttention, **HEADS),
    SplitValueDifferentialAttention: part(SplitValueDifferentialAttention, **HEADS),
    FusedAttention: part(FusedAttention, **HEADS),
}

AROUND: dict[type, Any] = {
    ValueEmbedding: lambda toy: toy.edit("block.mixer", append(value=part(AddValueEmbedding))),
    AddValueEmbedding: lambda toy: toy.edit(LM, append(post_embed=TABLE)),
    HeadMix: lambda toy: toy.edit("block.mlp", lambda _: part(Headed)),
}

QUIET = {ValueEmbedding: "it stores its values for AddValueEmbedding, which adds them"}
