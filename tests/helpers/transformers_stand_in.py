"""As much of `transformers` as a folder of `to-hf` needs to be imported and called, for tests without the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn


class _Config:
    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)


class _Model(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def post_init(self) -> None:
        """Nothing is left to do."""


class _Generation:
    def prepare_inputs_for_generation(self, cache: Any = None) -> None:
        """Its arguments tell the name of the cache."""


class _Tokenizer:
    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)

    added_tokens_encoder: dict[str, int] = {}


@contextmanager
def stand_in() -> Iterator[None]:
    """`import transformers` gives the stand-in, within the block."""
    whole, outputs = ModuleType("transformers"), ModuleType("transformers.modeling_outputs")
    names = {
        "PretrainedConfig": _Config,
        "PreTrainedModel": _Model,
        "GenerationMixin": _Generation,
        "PreTrainedTokenizer": _Tokenizer,
    }
    vars(whole).update(names)
    vars(outputs).update(CausalLMOutputWithPast=SimpleNamespace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "transformers", whole)
        patch.setitem(sys.modules, "transformers.modeling_outputs", outputs)
        yield


def execute(source: str) -> dict[str, Any]:
    """The names of a module that is executed with the stand-in and without bitgolf."""
    hidden = {name: None for name in sys.modules if name.partition(".")[0] == "bitgolf"}
    names: dict[str, Any] = {"__name__": "folder"}
    with pytest.MonkeyPatch.context() as patch, stand_in():
        for name, module in hidden.items():
            patch.setitem(sys.modules, name, module)
        patch.setitem(sys.modules, "folder", ModuleType("folder"))
        exec(compile(source, "folder", "exec"), names)
    return names


def load_folder(folder: Path) -> tuple[Any, Any]:
    """The model and the tokenizer of a folder."""
    code = {name: execute((folder / f"{name}_bitgolf.py").read_text()) for name in ("modeling", "tokenization")}
    config = code["modeling"]["BitgolfConfig"](**json.loads((folder / "config.json").read_text()))
    with torch.device("meta"):
        model = code["modeling"]["BitgolfForCausalLM"](config)
    model.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    return model.eval(), code["tokenization"]["BitgolfTokenizer"](vocab_file=str(folder / "tokenizer.model"))
