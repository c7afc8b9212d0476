"""Building a model from its recipe."""

from __future__ import annotations

import torch

from bitgolf.config.spec import Place, Spec
from bitgolf.model.lm import LM


def build_on_meta(model: Spec[LM], vocab: int, bos: int = 1) -> LM:
    """The recipe's model on PyTorch's meta device: shapes, paths and roles of its parameters, no values."""
    with torch.device("meta"):
        return model(Place(vocab=vocab, bos=bos))
