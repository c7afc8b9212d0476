"""RoPE scaling of a scoring method: how rotary positions are read in windows longer than those of training."""

from __future__ import annotations

from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.lm import LM


def active_rope_scaling(model: LM, scaling: Spec[RoPEScaling]) -> RoPEScaling | None:
    """The scaling that a forward context is given; None for one of factor 1, so that the model's own scaling stays.

    All else stays in any case: a sliding-window mask still sees as many keys. Raises `RecipeError` for a model without `RoPE`.
    """
    if not any(isinstance(part, RoPE) for part in model.modules()):
        raise RecipeError("the model has no rotary positions to stretch", where="score", hint="rope_scaling=none")
    made = scaling()
    return made if made.factor > 1 else None


def check_rope_scaling(scaling: Spec[RoPEScaling] | None, window: int) -> None:
    """The frequencies of a window are those of its length, whatever the text's."""
    if scaling and scaling["length"] != window:
        cause = f"positions are stretched to {scaling['length']} tokens for windows of {window}"
        raise RecipeError(cause, where="score", hint=f"length={window}, original_length=the length of training")
