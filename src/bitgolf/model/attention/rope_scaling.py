"""RoPE scaling: rotary frequencies for texts longer than a reference length."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.ranges import TokenCount
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError


def frequency_exponents(width: int, device: torch.device | None = None) -> Tensor:
    """2i / width for each pair i, float32 (width/2,)."""
    return torch.arange(0, width, 2, device=device, dtype=torch.float32) / width


class RoPEScaling:
    """Rotary frequencies for texts of `length` tokens, from frequencies that suit texts of `original_length` tokens.

    `factor` is length / original_length, but at least 1; a factor of 1 changes nothing. Both lengths are settings of
    the recipe: frequencies that depended on the current sequence would differ between training and scoring. Raises
    `RecipeError` for a length below 1.
    """

    def __init__(self, *, original_length: TokenCount = 1024, length: TokenCount = 2048) -> None:
        if min(original_length, length) < 1:
            message = f"original_length and length must be at least 1, got {original_length} and {length}"
            raise RecipeError(message, where=type(self).__name__)
        self.factor = max(1.0, length / original_length)

    @property
    def cache_key(self) -> tuple[str, float]:
        """Scalings with equal keys have equal frequencies."""
        return type(self).__name__, self.factor

    def frequencies(self, base: float, width: int, device: torch.device) -> Tensor:
        """Frequency of each pair in radians per position, float32 (width/2,)."""
        raise NotImplementedError


@register
class NTKScaling(RoPEScaling):
    """NTK-aware scaling (arXiv 2309.00071, section 3.1): a larger base, base * factor^(width / (width - 2)).

    The slowest pair rotates `factor` times slower, the fastest pair is unchanged. Parameter Golf #164 to #1512 use it
    in training, with original_length=1024.
    """

    def scaled_base(self, base: float, width: int) -> float:
        """The larger base. A width of 2 has a single pair, whose frequency is 1 for every base."""
        return base * self.factor ** (width / max(width - 2, 1))

    def frequencies(self, base: float, width: int, device: torch.device) -> Tensor:
        return 1.0 / self.scaled_base(base, width) ** frequency_exponents(width, device)


@register
class YaRNScaling(RoPEScaling):
    """YaRN (arXiv 2309.00071): fast pairs are unchanged, slow pairs rotate up to `factor` times slower.

    theta_i / (1 + ramp_i (factor - 1)) with ramp_i = clip((2i/width - 0.25) / 0.75, 0, 1), as in Parameter Golf #640.
    YaRN's attention temperature is not applied.
    """

    def frequencies(self, base: float, width: int, device: torch.device) -> Tensor:
        pair = frequency_exponents(width, device)
        ramp = ((pair - 0.25) / 0.75).clamp(0.0, 1.0)
        return 1.0 / base**pair / (1.0 + ramp * (self.factor - 1.0))
