"""Settings of the systems that Bitgolf started from, a row for each, and properties of all published recipes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.rules import assign_to_rules
from bitgolf.config.spec import Spec
from bitgolf.model.attention.values import ValueEmbedding
from bitgolf.model.inits import OrthogonalInit
from bitgolf.model.linear import Embedding, Linear
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.part import Only
from bitgolf.optim.muon import Muon
from bitgolf.recipes import get_recipe, recipe_names
from bitgolf.recipes.recipe import Recipe
from bitgolf.tokens.trainers import CaseOpsBPE
from bitgolf.training.loss_module import LossModule
from helpers.small_recipes import VOCAB, small_recipe

PUBLISHED = [name for name in recipe_names() if get_recipe(name)().published]

# Keys are paths in the recipe; or `Part.setting`, of the only part of that class (`Part.layers`: the layers that have
# it); or `@role.setting`, of the optimizer of the parameters of that role. None: the recipe does not have the part.
FOUNDING = ("baseline", "pr164", "pr1090", "pr675", "pr1512", "pr1493", "pr1855")
SETTINGS: dict[str, tuple[Any, ...]] = {
    "tokens.vocab": (1024, 1024, 1024, 1024, 1024, 8192, 8192),
    "model.dim": (512,) * 7,
    "model.layers": (9, 9, 11, 10, 11, 11, 11),
    "model.block.mlp.hidden": (1024, 1536, 1024, 1024, 1536, 2048, 2048),
    "SquaredReLU.layers": ("*", "*", None, None, None, None, None),
    "SwiGLU.layers": (None, None, "*", None, None, None, None),
    "SquaredLeakyReLU.slope": (None, None, None, 0.5, 0.5, 0.5, 0.5),
    "Attention.heads": (8,) * 7,
    "Attention.kv_heads": (4,) * 7,
    "QGain.init": (1.5, 1.5, 1.5, 1.5, 2.5, 5.25, 5.0),
    "RoPE.base": (10_000.0,) * 7,
    "RoPE.dims": (0, 0, 0, 0, 16, 16, 16),
    "NTKScaling.original_length": (None, 1024, None, None, 1024, None, None),
    "NTKScaling.length": (None, 2048, None, None, 4096, None, None),
    "DepthScaledNorm.layers": (None, None, None, None, "*", "*", "*"),
    "ExclusiveSelfAttention.layers": (None, None, "last 4", None, "*", "*", "*"),
    "SlidingWindowMask.layers": (None, None, None, None, "0-5", None, None),
    "SlidingWindowMask.left": (None, None, None, None, 256, None, None),
    "SegmentMask.max_length": (None, None, None, None, None, None, 2048),
    "KeyOffset.layers": (None, None, None, None, "6-10", None, None),
    "KeyOffset.unshifted_dims": (None, None, None, None, 16, None, None),
    "SparseAttentionGate.width": (None, None, None, None, None, None, 12),
    "SparseAttentionGate.scale": (None, None, None, None, None, None, 0.5),
    "BlendSmear.init": (None, 0.0, 0.0, None, 0.0, None, None),
    "ContentSmear.mask_starts": (None, None, None, None, None, None, True),
    "HashedNGramEmbedding.buckets": (None, 4096, 4096, None, 3072, None, None),
    "HashedNGramEmbedding.width": (None, 128, 128, None, 112, None, None),
    "HashedNGramEmbedding.scale": (None, 0.05, 0.05, None, 0.05, None, None),
    "XorNGramHash.layers": (None, "*", "*", None, "*", None, None),
    "ValueEmbedding.width": (None, None, None, None, 128, None, None),
    "AddValueEmbedding.layers": (None, None, None, None, "last 2", None, None),
    "WeightedSkip.layers": ("*", "*", "*", "*", "*", None, None),
    "GatedSkip.num_weights": (None, None, None, None, None, 0, 0),
    "LoopedLayers.first_layer": (None, None, None, None, None, 3, 3),
    "LoopedLayers.last_layer": (None, None, None, None, None, 5, 5),
    "LoopedLayers.since": (None, None, None, None, None, (0.35, 0.35), (0.35, 0.35)),
    "ParallelResidual.layers": (None, None, None, None, None, "7-10", None),
    "ParallelTwoLaneResidual.start_layer": (None, None, None, None, None, None, 8),
    "ParallelTwoLaneResidual.final_lane": (None, None, None, None, None, None, "mean"),
    "Softcap.cap": (30.0,) * 7,
    "pack.cap": (16_000_000,) * 7,
    "model.embed.init.std": (0.005,) * 7,
    "model.block.mixer.linear.init.cls": (
        "UniformFanInInit",
        *["OrthogonalInit"] * 2,
        "UniformFanInInit",
        *["OrthogonalInit"] * 3,
    ),
    "model.block.mlp.linear.init.cls": (
        "UniformFanInInit",
        *["OrthogonalInit"] * 2,
        "UniformFanInInit",
        *["OrthogonalInit"] * 3,
    ),
    "train.order.cls": (*["SequentialOrder"] * 5, "ShuffledShardWindows", "PackedDocuments"),
    "train.rows": (512, 384, 256, 512, 192, 384, 8),
    "train.length": (1024, 2048, 2048, 1024, 4096, 2048, 98_304),
    "@matrix.lr": (0.04, 0.02, 0.04, 0.04, 0.025, 0.022, 0.026),
    "@scale.lr": (0.04, 0.02, 0.04, 0.04, 0.025, 0.02, 0.02),
    "@embedding.lr": (0.05, 0.03, 0.05, 0.05, 0.035, 0.03, 0.03),
    "@scale.betas": (*[(0.9, 0.95)] * 6, (0.9, 0.99)),
    "@embedding.betas": (*[(0.9, 0.95)] * 6, (0.9, 0.99)),
    "@matrix.momentum.start": (0.85, 0.92, 0.85, 0.85, 0.92, 0.92, 0.92),
    "@matrix.momentum.end": (0.95, 0.99, 0.95, 0.95, 0.99, 0.99, 0.97),
    "@matrix.momentum.steps": (500, 1500, 500, 500, 1500, 1500, 1500),
    "@matrix.orthogonalize.cls": (*["NewtonSchulz"] * 6, "PolarExpress"),
    "@matrix.orthogonalize.steps": (5,) * 7,
    "RowNorm.layers": (None, None, None, None, None, "*", "*"),
    "@matrix.weight_decay": (0.0, 0.0, 0.0, 1.0, 0.04, 0.095, 0.095),
    "InverseLRRamp.low": (None, None, None, 0.02, None, None, None),
    "InverseLRRamp.high": (None, None, None, 0.08, None, None, None),
    "@embedding.weight_decay": (0.0, 0.0, 0.0, 0.0, 0.04, 0.085, 0.085),
    "@scale.weight_decay": (0.0, 0.0, 0.0, 0.0, 0.04, 0.02, 0.02),
    "train.grad_clip": (0.0, 0.3, 0.0, 0.0, 0.3, 0.3, 0.3),
    "WarmdownSteps.steps": (1200, 3000, 3000, 1200, 4000, None, None),
    "WarmdownFraction.fraction": (None, None, None, None, None, 0.72, 0.85),
    "WarmdownFraction.floor": (None, None, None, None, None, 0.0, 0.1),
    "train.steps": (20_000, 9_000, 20_000, 20_000, 20_000, 20_000, 20_000),
    "train.seconds": (600.0, 600.0, 4850.0, 600.0, 600.0, 600.0, 600.0),
    "Calibrate.reserve": (None,) * 7,
    "SWA.every": (None, None, 200, None, None, None, None),
    "SWA.lr_scale_below": (None, None, 1.0, None, None, None, None),
    "LAWA.every": (None, None, None, 50, None, None, None),
    "LAWA.lr_scale_below": (None, None, None, 0.5, None, None, None),
    "EMA.decay": (None, None, None, None, 0.997, 0.9965, 0.9965),
}
# What differs among the records from #1855 on, in training, calibration and the tilt (for adaptation: `test_scored`, for
# codecs: `test_stored`). A calibration batch of the script is 98,304 tokens on the rank that writes the file.
RECORDS = ("pr1855", "pr1945", "pr1953", "pr2014", "pr2135")
SETTINGS_OF_RECORDS: dict[str, tuple[Any, ...]] = {
    "@matrix.lr": (0.026, 0.026, 0.026, 0.026, 0.028),
    "QGain.init": (5.0, 5.0, 5.25, 5.25, 5.0),
    "ContentSmear.mask_starts": (True, True, True, True, False),
    "SegmentMask.max_length": (2048, 2048, None, None, None),
    "ScheduledSegmentMask.max_length": (None, None, 2560, 3072, 2560),
    "ScheduledSegmentMask.stages": (None, None, ((2048, 1.0),), ((1024, 0.1), (2048, 0.7)), ((2048, 1.0),)),
    "Rewarmup.after": (None, None, None, (0.1, 0.7), None),
    "Rewarmup.steps": (None, None, None, 32, None),
    "WarmdownFraction.fraction": (0.85,) * 5,
    "WarmdownFraction.floor": (0.1,) * 5,
    "TrainingText.rows": (8,) * 5,
    "TrainingText.length": (2048, 2048, 2048, 3072, 2048),
    "TrainingText.batches": (96, 96, 96, 64, 192),
    "NGramTilt.length": (None, None, None, None, 15),
    "NGramTilt.threshold": (None, None, None, None, 0.8),
    "NGramTilt.boost": (None, None, None, None, 2.625),
}
STAND_IN = {"matrix": "blocks.0.mlp.up.weight", "embedding": "embed.weight", "scale": "blocks.0.pre_block.0.weight"}


def setting(recipe: Spec[Recipe], address: str) -> Any:
    """The value of a key of `SETTINGS`; None if the recipe does not have the part."""
    head, _, key = address.partition(".")
    if head.startswith("@"):
        role = head[1:]
        node = next(r["use"] for r in recipe().train().optim if r().matches(role, STAND_IN[role]))
    elif head[0].isupper():
        return of_part(recipe, head, key)
    else:
        node, key = recipe, address
    if key.endswith(".cls"):
        return node[key.removesuffix(".cls")].cls.__name__
    return node[key]


def of_part(recipe: Spec[Recipe], name: str, key: str) -> Any:
    """A setting of the only part of a class. `layers`: the layers of its `Only`, unless the part has such a setting."""
    nodes = [node for _, node in recipe.walk() if getattr(node.cls, "__name__", "") == name]
    if not nodes:
        return None
    if key == "layers" and "layers" not in nodes[0].kwargs:
        holders = [node for _, node in recipe.walk() if node.cls is Only and node["use"].cls is nodes[0].cls]
        return holders[0]["layers"] if holders else "*"
    (value,) = {node[key] for node in nodes}
    return value


@pytest.mark.parametrize("address", SETTINGS)
def test_the_founding_systems_are_set_as_published(address: str) -> None:
    assert tuple(setting(get_recipe(name), address) for name in FOUNDING) == SETTINGS[address]


@pytest.mark.parametrize("address", SETTINGS_OF_RECORDS)
def test_the_records_are_set_as_published(address: str) -> None:
    assert tuple(setting(get_recipe(name), address) for name in RECORDS) == SETTINGS_OF_RECORDS[address]


def test_the_packer_of_2135_has_no_groups() -> None:
    assert [len(get_recipe(name)["pack.groups"]) for name in RECORDS] == [7, 7, 7, 7, 0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_process_takes_the_batch_in_eighths(name: str) -> None:
    """All published scripts accumulate gradients over 8 / processes micro-batches of an eighth of the batch."""
    train = get_recipe(name)().train
    assert 8 * train["micro_rows"] == train["rows"]


@pytest.mark.parametrize("name", ["pr640", "pr641"])
def test_weights_of_few_bits_are_trained_as_they_are_stored(name: str) -> None:
    recipe = small_recipe(get_recipe(name))
    torch.manual_seed(0)
    model = recipe().model(BuildContext(vocab=VOCAB))
    codecs = {path: rule["use"]() for rule, paths in zip(recipe().quantize, assign_to_rules(recipe().quantize, parameter_roles(model)), strict=True) for path in paths}  # fmt: skip
    for path, module in model.named_modules():
        if isinstance(module, Linear | Embedding) and module.weight.any():
            codec = codecs[f"{path}.weight"]
            stored = codec.decode(codec.encode(module.weight), tuple(module.weight.shape))
            trained, kept = module.weight, stored
            for transform in module.weight_transforms:
                trained, kept = transform(trained), transform(kept)
            differing = ~torch.isclose(trained, kept, rtol=1e-3, atol=1e-6)
            assert differing.float().mean() < 3e-3, path  # weights between two codes: the stored scale is rounded first


def test_heads_of_an_objective_go_to_muon() -> None:
    """As in #287: no rule for other parameters matches them."""
    recipe = get_recipe("pr363")
    with torch.device("meta"):
        context = BuildContext(vocab=1024)
        objective = recipe().train().objective(context._replace(dim=640))
        found = LossModule(recipe().model(context), objective).roles()
    taken = assign_to_rules(recipe().train().optim, found)
    users = {path: rule["use"].cls for rule, paths in zip(recipe().train().optim, taken, strict=True) for path in paths}
    heads = [path for path, role in found.items() if role == "head"]
    assert len(heads) == 4 and all(users[path] is Muon for path in heads)


def test_the_value_tables_projection_starts_small_until_there_were_banks() -> None:
    """#414 scales all parameters named `proj` by 1/sqrt(2 layers); that of #549 does not reach this one."""
    gains = {}
    for name in ("pr414", "pr549", "pr1512", "pr1218"):
        (table,) = [node for _, node in get_recipe(name).walk() if node.cls is ValueEmbedding]
        assert table["init"].cls is OrthogonalInit
        gains[name] = table["init.gain"]
    assert gains == {"pr414": pytest.approx(22**-0.5), "pr549": 1.0, "pr1512": 1.0, "pr1218": 1.0}


def test_capitals_are_operators_where_they_were() -> None:
    """From #1729 on, SentencePiece is trained on transformed text, with the operators among its 8,192 tokens."""
    with_operators = {n for n in PUBLISHED if get_recipe(n)().tokens.cls is CaseOpsBPE}
    assert with_operators == {"pr1729", "pr1736", "pr1787", "pr1851", "pr1855", "pr1945", "pr1953", "pr2014", "pr2135"}
    assert {get_recipe(n)["tokens.vocab"] for n in with_operators} == {8192}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_mean_is_that_of_its_seeds(name: str) -> None:
    """This holds for every stage that all seeds have.

    Scripts that reduce gradients by hand clip them before the mean; only their recipes have this departure.
    """
    published = get_recipe(name)().published or {}
    seeds = list(published.get("seeds", {}).values())
    for stage, mean in published["bpb"].items():
        values = [seed[stage] for seed in seeds if stage in seed]
        if values and len(values) == len(seeds):
            assert mean == pytest.approx(sum(values) / len(values), abs=1.1e-4), stage
    by_hand = (
        "549",
        "1019",
        "1060",
        "1204",
        "1512",
        "1530",
        "1626",
        "1667",
        "1729",
        "1736",
        "1787",
        "1851",
        "1855",
        "1945",
        "1953",
        "2014",
        "2135",
    )
    listed = any("clipped" in words for words in published.get("departures", {}))
    assert listed == (name.removeprefix("pr") in by_hand)
