"""The folder that `transformers` loads: weights, configurations, tokenizer, code and model card."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from bitgolf.artifact.model import LoadedArtifact
from bitgolf.export.script import minimal_json, packages
from bitgolf.huggingface.source import MODELING, TOKENIZATION, modeling_source, tokenization_source

WEIGHTS, CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG = (
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


def folder_files(loaded: LoadedArtifact) -> dict[str, bytes]:
    """Return name -> contents of the files of a folder, without the model card."""
    model = minimal_json(loaded.recipe.model)
    code = {MODELING: modeling_source(model), TOKENIZATION: tokenization_source(loaded.tokenizer)}
    needed = sorted({name for text in code.values() for name in packages(text)} | {"safetensors"})
    documents = {
        CONFIG: _config(loaded, model),
        GENERATION: _special_tokens(loaded),
        TOKENIZER_CONFIG: _tokenizer_config(loaded),
    }
    return {
        WEIGHTS: save(_weights(loaded.model), {"format": "pt"}),
        **{name: (json.dumps(value, indent=1, sort_keys=True) + "\n").encode() for name, value in documents.items()},
        TOKENIZER: loaded.tokenizer.serialized,
        **{f"{name}.py": text.encode() for name, text in code.items()},
        "requirements.txt": "".join(f"{name}\n" for name in needed).encode(),
    }


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights by their path in the class of the folder. A parameter that several blocks share has each of its paths."""
    every = model.named_parameters(remove_duplicate=False)
    return {f"model.{path}": p.detach().clone().contiguous() for path, p in every}


def _config(loaded: LoadedArtifact, model: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["BitgolfForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{MODELING}.BitgolfConfig",
            "AutoModelForCausalLM": f"{MODELING}.BitgolfForCausalLM",
        },
        "bitgolf": model,
        "dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
        "hidden_size": loaded.recipe.model["dim"],
        "max_position_embeddings": context_length(loaded),
        "model_type": "bitgolf",
        "num_hidden_layers": loaded.recipe.model["layers"],
        "tie_word_embeddings": False,  # a head that shares the table reads it there
        "vocab_size": loaded.tokenizer.vocab,
        **_special_tokens(loaded),
    }


def context_length(loaded: LoadedArtifact) -> int:
    """The number of tokens that the model was scored with at a time."""
    return loaded.recipe.score[-1]().window


def _special_tokens(loaded: LoadedArtifact) -> dict[str, Any]:
    """The ids of the token that begins a document, which also ends one, and pads."""
    bos = loaded.tokenizer.bos
    return dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), bos) if bos >= 0 else {}


def _tokenizer_config(loaded: LoadedArtifact) -> dict[str, Any]:
    return {
        "auto_map": {"AutoTokenizer": [f"{TOKENIZATION}.BitgolfTokenizer", None]},
        "model_max_length": context_length(loaded),
        "tokenizer_class": "BitgolfTokenizer",
    }
