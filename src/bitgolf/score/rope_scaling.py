"""RoPE scaling of a scoring method, for windows longer than the training sequences."""

from __future__ import annotations

from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.lm import LM


def active_rope_scaling(model: LM, scaling: Spec[RoPEScaling]) -> RoPEScaling | None:
    """The scaling to use in a forward context, or None if its factor is 1, so that the model's own scaling applies.

    Nothing else changes: a sliding-window mask keeps its width. Raises `RecipeError` if the model has no `RoPE`.
    """
    if not any(isinstance(part, RoPE) for part in model.modules()):
        cause = "the method sets rope_scaling, but the model has no rotary positions"
        raise RecipeError(cause, where="score.rope_scaling", hint="set rope_scaling=none")
    made = scaling()
    return made if made.factor > 1 else None


def check_rope_scaling(scaling: Spec[RoPEScaling] | None, window: int) -> None:
    """Raises `RecipeError` unless the length of the scaling is the window."""
    if scaling and scaling["length"] != window:
        cause = f"rope_scaling has length {scaling['length']}, but the window has {window} tokens"
        hint = f"set length={window} and original_length to the sequence length of training"
        raise RecipeError(cause, where="score.rope_scaling", hint=hint)
