"""Construction of a model from its recipe."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.model.lm import LM


class ModelSize(NamedTuple):
    """Number of blocks, and width of the residual stream."""

    layers: int
    dim: int


def model_size(model: Spec[LM]) -> ModelSize:
    """Number of blocks and width of the residual stream, without building the model."""
    return ModelSize(layers=model["layers"], dim=model["dim"])


def build_on_meta(model: Spec[LM], vocab: int, bos: int = 1) -> LM:
    """The model on PyTorch's meta device: its parameters have paths, shapes and roles, but no values."""
    with torch.device("meta"):
        return model(BuildContext(vocab=vocab, bos=bos))


def specs_by_path(model: Spec[LM], vocab: int) -> dict[str, Spec[Any]]:
    """For the path of each part of the model, the recipe node that it was built from (the same object, not a copy)."""
    record: dict[object, Spec[Any]] = {}
    with torch.device("meta"):
        made = model(BuildContext(vocab=vocab, record=record))
    return {path: record[part] for path, part in made.named_modules() if part in record}
