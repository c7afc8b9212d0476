"""Heads that share their projections: a mix of a matrix's blocks of rows, one block a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.spec import Place, register
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import View
from bitgolf.model.linear import Linear


@register
class HeadMix(View):
    """W <- (M kron I) W: block i of W's rows becomes the sum of M_ij block_j. M (H, H), or (G, G) for k and v, starts at I.

    Interleaved head attention's mix of projections, tried on Parameter Golf #1493's model. Use it as
    `only("*", part(HeadMix), on="q,k")` in `Attention.linear`; `fold` takes it out of a trained model.
    """

    roles = {"weight": "scale"}
    identity_at_init = True

    def __init__(self, at: Place, /) -> None:
        super().__init__()
        blocks = {"q": at.heads, "k": at.kv_heads, "v": at.kv_heads}.get(at.name, 0)
        if not blocks:
            raise RecipeError(
                f"the matrix {at.name or '?'!r} has no heads to mix", place="HeadMix", mend="say on='q,k'"
            )
        self.weight = nn.Parameter(torch.eye(blocks))

    def forward(self, w: Tensor) -> Tensor:
        blocks = w.unflatten(0, (len(self.weight), -1))
        return (self.weight.to(w.dtype) @ blocks.flatten(1)).view_as(w)


@torch.no_grad()
def fold(model: nn.Module) -> int:
    """Write every mix into its matrix and reset it to I: the same outputs, bit for bit. Returns how many.

    For what looks at the matrices themselves, as calibrated quantization does. Raises `RecipeError` where that cannot
    be: where another view acts on the matrix before the mix, or where one matrix is shared under different mixes.
    """
    mixes: dict[nn.Parameter, list[HeadMix]] = {}
    for path, linear in model.named_modules():
        if not isinstance(linear, Linear):
            continue
        found = _leading(linear, path)
        known = mixes.setdefault(linear.weight, found)
        if [id(mix.weight) for mix in known] != [id(mix.weight) for mix in found]:
            raise RecipeError("blocks share this matrix under different mixes", place=path)
    for weight, found in mixes.items():
        for mix in found:
            weight.copy_(mix(weight))
            mix.weight.copy_(torch.eye(len(mix.weight)))
    return sum(map(len, mixes.values()))


def _leading(linear: Linear, path: str) -> list[HeadMix]:
    """The mixes of a matrix's chain of views; they must come first."""
    views = list(linear.view)
    found = [view for view in views if isinstance(view, HeadMix)]
    if views[: len(found)] != found:
        raise RecipeError("another view acts before HeadMix", place=path, mend="put HeadMix first in the chain")
    return found
