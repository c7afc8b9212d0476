"""Codecs and coders of published systems, a row for each, and the accuracy of size forecasts."""

from __future__ import annotations

from typing import Any

import pytest

from bitgolf.commands.show import describe_recipe
from bitgolf.config.parse import apply_assignment
from bitgolf.config.rules import assign_to_rules
from bitgolf.config.spec import Spec
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import parameter_roles
from bitgolf.pipeline.code_size import CodeSize
from bitgolf.quantize.codecs.joint_encoding import forecast_extra_bytes
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.protected_groups import ProtectedGroups
from bitgolf.quantize.encoding import codecs_by_path
from bitgolf.recipes import describe, get_recipe, recipe_names

PUBLISHED = [name for name in recipe_names() if get_recipe(name)().published]

# Codecs of the embedding, an MLP's first matrix and a value projection, and the coder. `>=Q`: a step of at least 1/Q.
MAX6, MAX6_31 = "6 full MaxClip", "6 full MaxClip >=31"
BYTES = "8 QuantileClip >=127"
SEARCH, TWICE, ONCE = "6 SearchClip >=31", "6 SearchClip >=31 gptq=0.0201", "6 SearchClip >=31 gptq=0.01"
PROTECTED = "gptq=0.01 protected lqer=64"
STORED: dict[str, tuple[str, str, str, str]] = {
    "baseline": (BYTES, BYTES, BYTES, "Zlib"),
    "pr675": (BYTES, BYTES, BYTES, "LZMA 6"),
    "pr162": ("float16", MAX6, MAX6, "Zstd 22"),
    "pr164": (BYTES, MAX6_31, MAX6_31, "Zstd 22"),
    "pr180": ("float16", "5 full MaxClip pruned=0.03", f"{MAX6} pruned=0.03", "Zstd 22"),
    "pr265": (BYTES, MAX6_31, MAX6_31, "Zstd 22"),
    "pr287": (BYTES, MAX6_31, MAX6_31, "Zstd 22"),
    "pr315": (BYTES, MAX6_31, MAX6_31, "Zstd 22"),
    "pr363": (BYTES, "5 SearchClip >=15", "5 SearchClip >=15", "Zstd 22"),
    "pr414": (BYTES, SEARCH, SEARCH, "Zstd 22"),
    "pr549": (BYTES, SEARCH, SEARCH, "LZMA 6"),
    "pr640": ("FP8", "TernaryGroups", "TernaryGroups", "LZMA 9"),
    "pr641": ("FP8", "BinaryGroups", "BinaryGroups", "LZMA 9"),
    "pr1019": (BYTES, TWICE, TWICE, "LZMA 9"),
    "pr1060": (BYTES, TWICE, TWICE, "LZMA 6"),
    "pr1090": ("8 full MaxClip", "5 full MaxClip", MAX6, "Zstd 22"),
    "pr1090_as_shipped": ("8 full MaxClip", "5 full MaxClip", MAX6, "Zstd 22"),
    "pr1204": (BYTES, "5 SearchClip >=15 gptq=0.0201", "5 SearchClip >=15 gptq=0.0201", "Brotli"),
    "pr1218": (BYTES, ONCE, ONCE, "Brotli"),
    "pr1285": (BYTES, ONCE, ONCE, "Brotli"),
    "pr1394": ("8 k=20 gptq=0.01", "6 k=12.85 gptq=0.01", "6 k=12.85 gptq=0.01", "Brotli"),
    "pr1493": ("8 k=20 gptq=0.01", "6 k=12.85 gptq=0.01", "6 k=12.85 gptq=0.01", "Brotli"),
    "pr1512": (BYTES, TWICE, TWICE, "LZMA 9"),
    "pr1530": ("8 k=20 gptq=0.01", "6 k=12.85 gptq=0.01", "6 k=12.85 gptq=0.01", "Brotli"),
    "pr1626": ("7 k=15 gptq=0.01", "6 k=12 gptq=0.01", "6 k=13 gptq=0.01", "Brotli"),
    "pr1667": ("7 k=15 gptq=0.01", "6 k=12 gptq=0.01", "6 k=13 gptq=0.01", "Brotli"),
    "pr1729": ("7 k=15 gptq=0.01", "6 k=12 gptq=0.01", "6 k=13 gptq=0.01", "Brotli"),
    "pr1736": ("7 k=15 gptq=0.01", "6 k=12 gptq=0.01", "6 k=13 gptq=0.01", "Brotli"),
    "pr1787": ("7 k=15 gptq=0.01", "6 k=12 gptq=0.01", "6 k=13 gptq=0.01", "Brotli"),
    "pr1851": ("7 k=15 gptq=0.01 lqer=64", "6 k=12 gptq=0.01 lqer=64", "6 k=13 gptq=0.01 lqer=64", "Brotli"),
    "pr1855": ("7 k=14 gptq=0.01 lqer=64", "6 k=11.5 gptq=0.01 lqer=64", "6 k=13 gptq=0.01 lqer=64", "SmallestCoder"),
    "pr1945": (f"7 k=14 {PROTECTED}", f"6 k=11.5 {PROTECTED}", f"6 k=13 {PROTECTED}", "SmallestCoder"),
    "pr1953": (f"7 k=14 {PROTECTED}", f"6 k=11.5 {PROTECTED}", f"6 k=13 {PROTECTED}", "SmallestCoder"),
    "pr2014": (f"7 k=14 {PROTECTED}", f"6 k=11.5 {PROTECTED}", f"6 k=13 {PROTECTED}", "SmallestCoder"),
    "pr2135": ("7 k=14 gptq=0.01 lqer=32", "6 k=11.5 gptq=0.01 lqer=32", "6 k=13 gptq=0.01 lqer=32", "SmallestCoder"),
}
# Codecs of gates, and of the tensors that #180, #1204 and others treat as exceptions.
APART = {
    ("pr162", "blocks.8.mixer.k.weight"): "float16",
    ("pr162", "blocks.7.mixer.k.weight"): MAX6,
    ("pr162", "post_embed.0.table.weight"): BYTES,
    ("pr162", "post_embed.0.project.weight"): "float16",
    ("pr180", "blocks.8.mixer.k.weight"): "float16",
    ("pr180", "post_embed.0.project.weight"): MAX6,
    ("pr180", "post_embed.0.table.weight"): f"{MAX6} pruned=0.03",
    ("pr640", "layer_schedule.skip.weight"): "FP8",
    ("pr640", "blocks.1.mlp_scale.0.weight"): "float16",
    ("pr1090", "post_embed.0.table.weight"): MAX6,
    ("pr1204", "post_embed.0.project.weight"): "5 SearchClip >=15 gptq=0.0201",
    ("pr1204", "blocks.7.mlp.down.weight"): TWICE,
    ("pr1204", "blocks.1.mixer.q.weight"): TWICE,
    ("pr1667", "blocks.0.mixer.post_attention.1.weight"): "float16",
    ("pr1736", "blocks.0.mixer.post_attention.1.weight"): "8 MaxClip",
    ("pr1851", "blocks.0.mixer.post_attention.1.weight"): "float16",
    ("pr1855", "blocks.0.mixer.post_attention.1.weight"): "8 MaxClip",
    ("pr1855", "post_embed.0.gate"): "float16",
    ("pr1855", "blocks.0.mlp.down.weight"): "6 k=11.5 gptq=0.01 lqer=64",
    ("pr2014", "blocks.0.mixer.post_attention.1.weight"): "8 MaxClip",
    ("pr2135", "blocks.0.mixer.post_attention.1.weight"): "float16",
}
# Reserved seconds of 600, and batches; 0 if calibration used generated text after the 600 s. Recipes measure the reserve.
CALIBRATED = {
    "pr1019": (0, 0), "pr1060": (14, 64), "pr1204": (0, 0), "pr1218": (10, 64), "pr1285": (10, 64), "pr1394": (12, 64),
    "pr1493": (12, 64), "pr1512": (0, 0), "pr1530": (13, 64), "pr1626": (4, 16), "pr1667": (13, 64), "pr1729": (4, 16),
    "pr1736": (4, 16), "pr1787": (0.5, 16), "pr1851": (0.5, 16), "pr1855": (0.5, 16), "pr1945": (4, 16),
    "pr1953": (4, 16), "pr2014": (4, 16), "pr2135": (0.5, 32),
}  # fmt: skip
# Allowed relative error of forecasts where it is more than 3 %, and the reason.
LARGEST_SCRIPT = 98_000  # bytes of code, where the cap counts it
UNLOGGED = {"pr363", "pr1090_as_shipped"}
FARTHER = {
    "pr675": 0.13,  # 1,399 steps only: its weights are still small
    "pr1090": 0.06,  # heavier tails than a Gaussian's, where rows are clipped at their maximum
    "pr1204": 0.08,  # twelve matrices are int5 here, since no log names those that were int6
}


def summary(codec: Spec[Any]) -> str:
    """A codec in the notation of `STORED`."""
    if codec.cls is LQER:
        assert (codec["rank"], codec["metric"], codec["top_k"], codec["scope"]) == (4, "frobenius", 3, "recipe")
        return f"{summary(codec['codec'])} lqer={codec['factors.group_size']}"
    if codec.cls is ProtectedGroups:
        assert (codec["bits"], codec["group_size"], codec["top_k"], codec["scope"]) == (8, 64, 1, "recipe")
        return f"{summary(codec['codec'])} protected"
    if "dtype" in codec.kwargs:
        return codec["dtype"]
    if "clip" not in codec.kwargs:
        return codec.cls.__name__
    clip, solve, floor = codec["clip"], codec["solver"], codec["min_step"]
    words = [str(codec["bits"]), "full" * codec["full_range"]]
    words += [f"k={clip['k']:g}" if "k" in clip.kwargs else clip.cls.__name__]
    words += [f">={1 / floor:.0f}"] if floor > 1e-3 else []
    words += [f"pruned={codec['prune']:g}"] if codec["prune"] else []
    if solve:
        assert (solve["block"], solve["order"]) == (128, "activation")
        words += [f"gptq={solve['damping']:g}"]
    return " ".join(filter(None, words))


def codecs(name: str) -> dict[str, Spec[Any]]:
    recipe = get_recipe(name)
    kinds = parameter_roles(build_on_meta(recipe().model, recipe().tokens().vocab))
    taken = assign_to_rules(recipe().quantize, kinds)
    return {path: rule["use"] for rule, paths in zip(recipe().quantize, taken, strict=True) for path in paths}


def test_all_published_systems_are_here() -> None:
    assert STORED.keys() == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_stored_as_published(name: str) -> None:
    found, coder = codecs(name), get_recipe(name)["pack.coder"]
    values = next(path for path in ("blocks.0.mixer.v.weight", "blocks.0.mixer.qkv.weight") if path in found)
    rows = [summary(found[path]) for path in ("embed.weight", "blocks.0.mlp.up.weight", values)]
    level = next((str(coder[key]) for key in ("preset", "level") if key in coder.kwargs and coder.cls.__name__ != "Zlib"), "")  # fmt: skip
    assert (*rows, f"{coder.cls.__name__} {level}".strip()) == STORED[name]
    assert {path: summary(found[path]) for other, path in APART if other == name} == {
        path: words for (other, path), words in APART.items() if other == name
    }
    scales = {summary(found[path]) for path in found if path.endswith("mlp_scale.0.weight")}
    assert scales == ({"float16"} if name not in ("baseline", "pr675") else {"float32"})


@pytest.mark.parametrize("name", PUBLISHED)
def test_calibration_is_the_published_one(name: str) -> None:
    recipe = get_recipe(name)
    calibrate, published = recipe().calibrate, recipe().published or {}
    if name not in CALIBRATED:
        assert calibrate is None
        return
    assert calibrate is not None
    reserve, batches = CALIBRATED[name]
    source = calibrate["source"]
    assert recipe().train().seconds == 600 and calibrate().reserve is None
    (undone,) = [words for words in published["departures"].values() if words.startswith("calibrate.")]
    assert undone == f"calibrate.reserve={reserve}" and apply_assignment(recipe, undone)["calibrate.reserve"] == reserve
    if batches:
        assert source["batches"] * source["rows"] * source["length"] == batches * 786_432 // 8
    else:
        assert (source["sequences"], source["length"], source["temperature"]) == (64, 2048, (0.8,))


def test_the_groups_of_1855_are_whole() -> None:
    """There are seven groups; only scales and gates are in none of them."""
    recipe = get_recipe("pr1855")
    kinds = parameter_roles(build_on_meta(recipe().model, recipe().tokens().vocab))
    groups = recipe().pack().groups_by_path(kinds)
    seven = {"tok_emb", "c_k", "c_q", "c_v", "proj", "mlp_fc", "mlp_proj"}
    assert set(groups.values()) == seven | {"scale", "gate"}
    assert sum(group == "c_q" for group in groups.values()) == sum(group == "mlp_fc" for group in groups.values()) == 11


def test_the_protected_group_costs_what_the_files_grew_by() -> None:
    """If it is in the embedding, as in all logs of #1945 to #2014: 80 to 85 kB. Corrections of three matrices: under 20 kB."""
    recipe = get_recipe("pr1945")
    model = build_on_meta(recipe().model, recipe().tokens().vocab)
    shapes = {path: tuple(p.shape) for path, p in model.named_parameters()}
    extra = forecast_extra_bytes(codecs_by_path(parameter_roles(model), recipe().quantize), shapes)
    assert 80_000 < extra["ProtectedGroups"] < 85_000 and 10_000 < extra["LQER"] < 20_000


@pytest.mark.parametrize("name", recipe_names())
def test_it_is_shown_with_a_forecast_that_is_near(name: str) -> None:
    """The rules match every parameter once, the counts by role add up, and the forecast is near the published file."""
    recipe = get_recipe(name)
    shown, published = describe_recipe(recipe, code=CodeSize(LARGEST_SCRIPT)), recipe().published or {}
    assert shown.params == sum(shown.params_by_role.values())
    assert 0 < shown.forecast.bytes < 10 * shown.forecast.cap
    assert describe(name) and all(isinstance(c, str) and c for c in shown.cautions)
    if not published:
        assert shown.forecast.total <= shown.forecast.cap and not any("forecast" in c for c in shown.cautions)
    elif name not in UNLOGGED:
        wanted = published["bytes"] - (published.get("code") or 0)
        assert shown.forecast.bytes == pytest.approx(wanted, rel=FARTHER.get(name, 0.03))
