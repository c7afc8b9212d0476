"""RoPE scaling of a scoring method: how rotary positions are read in windows longer than those of training."""

from __future__ import annotations

from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.rope_scaling import Scaling
from bitgolf.model.lm import LM


def active_rope_scaling(model: LM, scaling: Spec[Scaling]) -> Scaling | None:
    """The scaling that a forward context is given; None for one of factor 1, so that the model's own scaling stays.

    All else stays in any case: a sliding-window mask still sees as many keys. Raises `RecipeError` for a model without `Rope`.
    """
    if not any(isinstance(part, Rope) for part in model.modules()):
        raise RecipeError("the model has no rotary positions to stretch", place="score", mend="stretch=none")
    made = scaling()
    return made if made.stretch > 1 else None


def check_stretch(scaling: Spec[Scaling] | None, window: int) -> None:
    """The frequencies of a window are those of its length, whatever the text's."""
    if scaling and scaling["length"] != window:
        cause = f"positions are stretched to {scaling['length']} tokens for windows of {window}"
        raise RecipeError(cause, place="score", mend=f"length={window}, reference=the length of training")
