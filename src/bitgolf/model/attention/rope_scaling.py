"""RoPE scaling: inverse frequencies of rotary positions for texts longer than those of training."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.errors import RecipeError


def frequency_exponents(width: int, device: torch.device | None = None) -> Tensor:
    """2i / width for the pairs i, (width/2,) in float32."""
    return torch.arange(0, width, 2, device=device, dtype=torch.float32) / width


class RoPEScaling:
    """Inverse frequencies for texts of `length` tokens, where a plain base would suit `original_length`: plain if no longer.

    Both lengths are the recipe's: frequencies that followed the text at hand would change between training and scoring.
    """

    def __init__(self, *, original_length: int = 1024, length: int = 2048) -> None:
        if min(original_length, length) < 1:
            raise RecipeError(f"lengths are at least 1, not {original_length} and {length}", where=type(self).__name__)
        self.factor = max(1.0, length / original_length)

    @property
    def cache_key(self) -> tuple[str, float]:
        """Scalings with equal keys have equal frequencies."""
        return type(self).__name__, self.factor

    def frequencies(self, base: float, width: int, device: torch.device) -> Tensor:
        """Radians per position of each pair, (width/2,) in float32."""
        raise NotImplementedError


@register
class NTKScaling(RoPEScaling):
    """A larger base, so that the slowest pair turns `factor` times slower ("NTK-aware", arXiv 2309.00071, section 3.1).

    base * stretch^(width / (width - 2)). Parameter Golf #164 to #1512: on during training, at reference 1024.
    """

    def scaled_base(self, base: float, width: int) -> float:
        """The effective base; a width of 2 has one pair, which turns at 1 with any base."""
        return base * self.factor ** (width / max(width - 2, 1))

    def frequencies(self, base: float, width: int, device: torch.device) -> Tensor:
        return 1.0 / self.scaled_base(base, width) ** frequency_exponents(width, device)


@register
class YaRNScaling(RoPEScaling):
    """Fast pairs unchanged, slow ones up to `factor` times slower (Parameter Golf #640, after arXiv 2309.00071).

    theta_i / (1 + ramp_i (stretch - 1)), ramp_i = clip((2i/width - 0.25) / 0.75, 0, 1). Without YaRN's temperature.
    """

    def frequencies(self, base: float, width: int, device: torch.device) -> Tensor:
        pair = frequency_exponents(width, device)
        ramp = ((pair - 0.25) / 0.75).clamp(0.0, 1.0)
        return 1.0 / base**pair / (1.0 + ramp * (self.factor - 1.0))
