"""The baseline model against values computed with the published script (small width)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.head import UntiedHead
from bitgolf.model.lm import LM
from bitgolf.model.objectives import CrossEntropy
from bitgolf.recipes import get_recipe

LAYERS = 9
NAMES = {
    "attn_scale": "mixer_scale.0.weight",
    "mlp_scale": "mlp_scale.0.weight",
    "resid_mix": "pre_block.0.weight",
    "attn.q_gain": "mixer.qk.2.weight",
    "attn.c_q.weight": "mixer.q.weight",
    "attn.c_k.weight": "mixer.k.weight",
    "attn.c_v.weight": "mixer.v.weight",
    "attn.proj.weight": "mixer.out.weight",
    "mlp.fc.weight": "mlp.up.weight",
    "mlp.proj.weight": "mlp.down.weight",
}


def ours(name: str) -> str:
    if name.startswith("blocks."):
        _, layer, rest = name.split(".", 2)
        return f"blocks.{layer}.{NAMES[rest]}"
    return {
        "skip_weights": "layer_schedule.skip.weight",
        "tok_emb.weight": "embed.weight",
        "lm_head.weight": "head.linear.weight",
    }[name]


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles" / "baseline.safetensors")


def toy(recipe: Spec[LM]) -> Spec[LM]:
    small = recipe.replace(dim=64).edit("block.mixer", replace(heads=4, kv_heads=2))
    return small.edit("block.mlp", replace(hidden=128))


def load(model: torch.nn.Module, oracle: dict[str, Tensor], prefix: str) -> None:
    state = {ours(k.removeprefix(prefix)): v for k, v in oracle.items() if k.startswith(prefix)}
    missing = set(dict(model.named_parameters())) - set(state)
    assert missing <= {"head.linear.weight"}
    model.load_state_dict(state, strict=False)


def test_logits_loss_and_gradients(oracle: dict[str, Tensor]) -> None:
    model = toy(get_recipe("baseline")().model)(BuildContext(vocab=128))
    load(model, oracle, "param/")
    logits = model(oracle["input_ids"])
    assert (logits - oracle["logits"]).abs().max() < 1e-4
    context = ForwardContext(oracle["input_ids"])
    loss = CrossEntropy(BuildContext(vocab=128))(model.hidden(context), oracle["target_ids"], model.logits)
    assert abs(loss.item() - oracle["loss"].item()) < 1e-5
    loss.backward()
    params = dict(model.named_parameters())
    grads = [k for k in oracle if k.startswith("grad/")]
    assert len(grads) == len(params) == 92
    for key in grads:
        ours_grad = params[ours(key.removeprefix("grad/"))].grad
        assert ours_grad is not None
        scale = oracle[key].abs().max().clamp_min(1.0)
        assert (ours_grad - oracle[key]).abs().max() < 1e-4 * scale, key


def test_untied_head(oracle: dict[str, Tensor]) -> None:
    recipe = toy(get_recipe("baseline")().model).edit(
        "head", lambda node: part(UntiedHead, logits_transforms=node.kwargs["logits_transforms"])
    )
    model = recipe(BuildContext(vocab=128))
    load(model, oracle, "param/")
    model.head.linear.weight.data.copy_(oracle["untied/param/lm_head.weight"])  # type: ignore[union-attr]
    assert (model(oracle["input_ids"]) - oracle["untied/logits"]).abs().max() < 1e-4


def test_full_size_count() -> None:
    with torch.device("meta"):
        model = get_recipe("baseline")().model(BuildContext(vocab=1024))
    assert sum(p.numel() for p in model.parameters()) == 17_059_912
