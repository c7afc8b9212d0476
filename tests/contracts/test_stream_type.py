"""dtype of the residual stream: every part keeps it, and results in bfloat16 are close to those in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.model.block import ResidualTopology
from bitgolf.model.interfaces import (
    AttentionOutputPart,
    Norm,
    QKPart,
    ResidualScale,
    ResidualStreamPart,
    SkipConnection,
    ValuePart,
)
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.recipes import get_recipe
from bitgolf.recipes.identity import recipe_hash
from helpers.every_part import all_model_parts, example_node, model_with_part
from helpers.toy import VOCAB, built, toy_model

ON_THE_STREAM = (
    ResidualStreamPart,
    Norm,
    ResidualScale,
    SkipConnection,
    ResidualTopology,
    QKPart,
    ValuePart,
    AttentionOutputPart,
)
LOGITS = 0.03  # maximum relative difference of bfloat16 logits; measured 0.001 to 0.021
DIRECTION = 0.98  # minimum cosine of gradients with norms of at least 1/200 of the largest; measured 0.989


@pytest.fixture(params=all_model_parts(), ids=lambda c: c.__name__)
def model(request: pytest.FixtureRequest) -> LM:
    return built(model_with_part(example_node(request.param))).train(request.param.training_only)


def tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors among the inputs or outputs of a part, the stream first."""
    if isinstance(value, tuple):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, Tensor) and value.is_floating_point():
        yield value


def types_of_parts(model: LM) -> set[tuple[str, torch.dtype]]:
    """Set of (part class, dtype of an input or output) for parts on the stream, filled by later forward passes."""
    found: set[tuple[str, torch.dtype]] = set()

    def note(module: object, inputs: Any, output: Any) -> None:
        found.update((type(module).__name__, t.dtype) for t in (next(tensors(inputs)), *tensors(output)))

    for module in model.modules():
        if isinstance(module, ON_THE_STREAM):
            module.register_forward_hook(note)
    return found


def learn(model: LM, autocast: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and gradients of the loss by path, on two rows of two documents each."""
    ids = torch.randint(2, VOCAB, (2, 24), generator=torch.Generator().manual_seed(1))
    ids[:, [0, 12]] = 1
    torch.manual_seed(0)  # for parts that draw noise
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(ids)
    F.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
    return logits.detach(), {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("autocast", [True, False], ids=["auto under autocast", "bfloat16 without autocast"])
def test_parts_keep_a_bfloat16_stream_and_say_and_learn_what_float32_would(model: LM, autocast: bool) -> None:
    plain, wanted = learn(model, autocast=False)
    model.residual_dtype = "auto" if autocast else "bfloat16"
    types = types_of_parts(model)
    logits, gradients = learn(model, autocast)
    assert types and {kind for _, kind in types} == {torch.bfloat16}, types
    assert logits.dtype == torch.float32, "logits are float32"
    assert 0 < (logits - plain).norm() < LOGITS * plain.norm()
    vectors = [path for path, role in parameter_roles(model).items() if role in ("scale", "gate")]
    largest = max(wanted[path].norm() for path in vectors)
    for path in vectors:
        assert gradients[path].dtype == torch.float32 and torch.isfinite(gradients[path]).all(), path
        if wanted[path].norm() > largest / 200:
            assert F.cosine_similarity(gradients[path].flatten(), wanted[path].flatten(), 0) > DIRECTION, path


def test_a_norm_that_autocast_has_in_float32_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast does this on CUDA since torch 2.13. On the CPU it does not, so the test simulates it."""
    normed = F.rms_norm
    monkeypatch.setattr(F, "rms_norm", lambda x, shape: normed(x.float(), shape))
    model = built(toy_model())
    types = types_of_parts(model)
    learn(model, autocast=True)
    assert {kind for _, kind in types} == {torch.bfloat16}, types


def test_a_float32_stream_stays_one_under_autocast() -> None:
    """Outputs of matrix products have the autocast dtype: queries, keys, values, and outputs of branches."""
    model = built(toy_model().replace(residual_dtype="float32"))
    types = types_of_parts(model)
    learn(model, autocast=True)
    assert {kind for name, kind in types if name in ("EmbeddingNorm", "RMSNorm", "MixX0", "SequentialResidual")} == {
        torch.float32
    }
    assert {kind for name, kind in types if name in ("QKNorm", "RoPE", "QGain", "LayerScale")} == {torch.bfloat16}


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_without_autocast_the_stream_has_the_type_of_the_parameters(kind: torch.dtype) -> None:
    model = built(toy_model()).to(kind)
    types = types_of_parts(model)
    logits, _ = learn(model, autocast=False)
    assert {own for _, own in types} == {kind} and logits.dtype == kind


def test_a_model_on_the_meta_device_has_a_stream_too() -> None:
    with torch.device("meta"):
        model = toy_model()(BuildContext(vocab=VOCAB))
        assert model(torch.zeros(1, 5, dtype=torch.int64)).shape == (1, 5, VOCAB)


@pytest.mark.parametrize("stream", ["auto", "float32", "bfloat16"])
def test_the_setting_is_part_of_a_recipe(stream: Literal["auto", "float32", "bfloat16"]) -> None:
    recipe = get_recipe("quickstart")
    assert recipe["model.residual_dtype"] == "auto"
    changed = recipe.set("model.residual_dtype", stream)
    assert (recipe_hash(changed) == recipe_hash(recipe)) == (stream == "auto")
    assert changed.to_json()["model"]["residual_dtype"] == stream
