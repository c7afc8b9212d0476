"""The models of Parameter Golf #1855 and #2135 at the size of the reference data, and their parameters and adapters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.batched_lora import BatchedLoRA
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP

VOCAB, LAYERS = 128, 11
LOOPED = (0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10)
"""The layer of each of the 17 visits once the loop is active."""
ADAPTERS = {"head": "lm_head_lora", "mixer": "o_loras", "mlp": "mlp_loras", **{n: f"{n}_loras" for n in "qkv"}}
"""Our name of a site -> the published name of its adapters."""
BLOCK = {
    "attn.attn_gate_w": "mixer.post_attention.1.weight",
    "attn.q_gain": "mixer.qk.2.weight",
    "attn_scale": "mixer_scale.0.weight",
    "mlp_scale": "mlp_scale.0.weight",
    "resid_mix": "pre_block.0.weight",
}
REST = {
    "tok_emb.weight": "embed.weight",
    "smear_gate.weight": "post_embed.0.gate",
    "smear_lambda": "post_embed.0.scale",
    "skip_weights": "layer_schedule.skip.weight",
    "skip_gates": "layer_schedule.skip.gate",
    "parallel_post_lambdas": "layer_schedule.residual.post",
    "parallel_resid_lambdas": "layer_schedule.residual.resid",
}
BANKS = {
    "qo_bank": ("mixer.q", "mixer.out"),
    "kv_bank": ("mixer.k", "mixer.v"),
    "mlp_up_bank": ("mlp.up",),
    "mlp_down_bank": ("mlp.down",),
}


def small(model: Spec[LM]) -> Spec[LM]:
    """The model of a recipe at the width of the reference data."""
    model = model.replace(dim=64).edit(Attention, replace(heads=4, kv_heads=2)).edit(MLP, replace(hidden=128))
    return model.edit(RoPE, replace(dims=8))


def parameters(oracle: Mapping[str, Tensor], prefix: str = "param/") -> dict[str, Tensor]:
    """Our path -> value, for all tensors below a prefix; the banks are split into the matrices of the layers."""
    found: dict[str, Tensor] = {}
    for key in [key for key in oracle if key.startswith(prefix)]:
        name, value = key.removeprefix(prefix), oracle[key]
        if name in BANKS:
            for kind, part in zip(BANKS[name], value.split(LAYERS), strict=True):
                found |= {f"blocks.{i}.{kind}.weight": part[i] for i in range(LAYERS)}
        elif name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            found[f"blocks.{layer}.{BLOCK[rest]}"] = value
        elif name in REST:
            found[REST[name]] = value.reshape(()) if name == "smear_lambda" else value
    return found


def build(model: Spec[LM], oracle: Mapping[str, Tensor], dtype: torch.dtype = torch.float64) -> LM:
    """The small model in evaluation mode with the parameters of the reference data, computing in `dtype`."""
    made = small(model)(BuildContext(vocab=VOCAB))
    made.load_state_dict(parameters(oracle))
    return made.to(dtype).eval()


def published_names(adapters: BatchedLoRA, targets: tuple[str, ...]) -> list[str]:
    """The published name of each leaf of the adapters, e.g. `q_loras.3.A`: by slot, which is a visit of a layer."""
    slots = {layer: [n for n, other in enumerate(LOOPED) if other == layer] for layer in range(LAYERS)}
    names = list[str]()
    for target in targets:
        if target == "head":
            names += [f"{ADAPTERS[target]}.{factor}" for factor in "AB"]
            continue
        for layer in range(LAYERS):
            names += [f"{ADAPTERS[target]}.{slot}.{factor}" for slot in slots[layer] for factor in "AB"]
    assert len(names) == len(adapters.leaves)
    return names


def load_adapters(adapters: BatchedLoRA, targets: tuple[str, ...], oracle: Mapping[str, Tensor], prefix: str) -> None:
    """Set all rows of the adapters to the values below a prefix."""
    with torch.no_grad():
        for leaf, name in zip(adapters.leaves, published_names(adapters, targets), strict=True):
            leaf.copy_(oracle[f"{prefix}{name}"])
