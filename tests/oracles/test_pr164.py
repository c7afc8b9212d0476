"""The model of Parameter Golf #164, built by edits of the baseline, against values from its script (small width)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.grids.integer import IntGrid
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.inits import OrthogonalInit
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.objectives import CrossEntropy
from bitgolf.model.qat import FakeQuant
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.model.smear import BlendSmear
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes import get_recipe
from oracles.test_baseline import ours as ours_in_baseline

NAMES = {
    "bigram.embed.weight": "post_embed.0.table.weight",
    "bigram.proj.weight": "post_embed.0.project.weight",
    "bigram.scale": "post_embed.0.scale",
    "smear.gate": "post_embed.2.theta",
}


def ours(name: str) -> str:
    return NAMES.get(name) or ours_in_baseline(name)


def pr164(*, dim: int, hidden: int, rows: int, width: int) -> Spec[LM]:
    """The baseline with a wider MLP, hashed bigrams, `BlendSmear` and orthogonal initialization."""
    bigrams = part(HashedNGramEmbedding, buckets=rows, width=width)
    enter = (bigrams, part(EmbeddingNorm), part(BlendSmear, mask_starts=False))
    wide = get_recipe("baseline")().model.replace(dim=dim, post_embed=enter).edit("block.mlp", replace(hidden=hidden))
    orthogonal = wide.edit(Linear, replace(init=part(OrthogonalInit)))
    return orthogonal.set("post_embed.0.project.init.gain", (2 * orthogonal["layers"]) ** -0.5)


def toy() -> Spec[LM]:
    return pr164(dim=64, hidden=160, rows=256, width=32).edit("block.mixer", replace(heads=4, kv_heads=2))


def built(spec: Spec[LM], oracle: dict[str, Tensor]) -> LM:
    """The model with all parameters from the oracle."""
    model = spec(BuildContext(vocab=128))
    model.load_state_dict({ours(k.removeprefix("param/")): v for k, v in oracle.items() if k.startswith("param/")})
    return model


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles" / "pr164.safetensors")


def test_bigrams(oracle: dict[str, Tensor]) -> None:
    bigrams = built(toy(), oracle).post_embed[0]
    assert isinstance(bigrams, HashedNGramEmbedding)
    context = ForwardContext(oracle["input_ids"])
    assert torch.equal(bigrams.hash.bucket_ids(bigrams.tokens(context), 256), oracle["bigram_indices"])
    assert (bigrams(torch.zeros(2, 48, 64), context) - oracle["bigram_out"]).abs().max() < 1e-6


def test_logits_loss_and_gradients(oracle: dict[str, Tensor]) -> None:
    model = built(toy(), oracle)
    assert (model(oracle["input_ids"]) - oracle["logits"]).abs().max() < 1e-4
    hidden = model.hidden(ForwardContext(oracle["input_ids"]))
    loss = CrossEntropy(BuildContext(vocab=128))(hidden, oracle["target_ids"], model.logits)
    assert abs(loss.item() - oracle["loss"].item()) < 1e-5
    loss.backward()
    params = dict(model.named_parameters())
    grads = [k for k in oracle if k.startswith("grad/")]
    assert len(grads) == len(params) == 96
    for key in grads:
        grad = params[ours(key.removeprefix("grad/"))].grad
        assert grad is not None
        scale = oracle[key].abs().max().clamp_min(1.0)
        assert (grad - oracle[key]).abs().max() < 1e-4 * scale, key


def test_rotary_base_scaled_for_length(oracle: dict[str, Tensor]) -> None:
    """For a length of 48, an original length of 32 changes the base; the published one of 1,024 does not."""
    scaled = toy().edit(RoPE, replace(scaling=part(NTKScaling, original_length=32, length=48)))
    difference = built(scaled, oracle)(oracle["input_ids"]) - oracle["ntk32/logits"]
    assert difference.abs().max() < 1e-4
    published = toy().edit(RoPE, replace(scaling=part(NTKScaling, original_length=1024, length=48)))
    assert torch.equal(built(published, oracle)(oracle["input_ids"]), built(toy(), oracle)(oracle["input_ids"]))


class Float32Steps(IntGrid):
    """The grid of the #164 trainer, with float32 steps. Our grid rounds steps to float16, as they are stored."""

    def steps(self, clip: Tensor) -> Tensor:
        return (clip.float() / self.qmax).clamp_min(self.min_step)


def test_quantization_aware(oracle: dict[str, Tensor]) -> None:
    """All matrices in 6 bits, including the projection of the bigrams, with the published minimum step."""
    ids, published = oracle["input_ids"], oracle["qat_int6/logits"]
    fake = part(FakeQuant, codec=part(IntRows, bits=6, min_step=1 / 31, full_range=True, clip=part(MaxClip)))
    model = built(toy().edit(Linear, append(weight_transforms=fake)), oracle).train()
    views = [m for m in model.modules() if isinstance(m, FakeQuant)]
    assert len(views) == 9 * 6 + 1
    as_built = (model(ids) - published).abs().mean()
    assert as_built < 0.05 * (oracle["logits"] - published).abs().mean(), "float16 steps are close to float32 steps"
    for view in views:
        view.codec.grid = Float32Steps(bits=6, min_step=1 / 31, full_range=True)
    assert (model(ids) - published).abs().max() < 1e-4
    loss = CrossEntropy(BuildContext(vocab=128))(model.hidden(ForwardContext(ids)), oracle["target_ids"], model.logits)
    assert abs(loss.item() - oracle["qat_int6/loss"].item()) < 1e-5


def test_full_size_count() -> None:
    with torch.device("meta"):
        model = pr164(dim=512, hidden=1536, rows=4096, width=128)(BuildContext(vocab=1024))
    assert sum(p.numel() for p in model.parameters()) == 22_368_841


def test_initial_values() -> None:
    """Orthogonal matrices, zero output projections; the "muP" gain applies to the projection of the bigrams only."""
    model = pr164(dim=128, hidden=192, rows=64, width=64).edit("block.mixer", replace(heads=4, kv_heads=2))(
        BuildContext(vocab=64)
    )
    state = model.state_dict()
    assert torch.linalg.svdvals(state["post_embed.0.project.weight"]).allclose(torch.tensor(18**-0.5))
    for name in ("mixer.q", "mixer.k", "mixer.v", "mlp.up"):
        assert torch.linalg.svdvals(state[f"blocks.3.{name}.weight"]).allclose(torch.ones(()), atol=1e-5)
    for name in (
        "blocks.3.mixer.out.weight",
        "blocks.3.mlp.down.weight",
        "post_embed.0.table.weight",
        "post_embed.2.theta",
    ):
        assert not state[name].any()
