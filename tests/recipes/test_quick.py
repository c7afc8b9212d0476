"""`--quick`: every recipe becomes a toy that can be built, and what it says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.mlp import MLP
from bitgolf.recipes import get_recipe, load_recipe, recipe_names
from bitgolf.recipes.identity import is_quick, recipe_hash
from bitgolf.recipes.quick import QUICK_DIM, QUICK_SECONDS, quick
from bitgolf.score.methods import ContiguousScoring
from bitgolf.text.documents import Document, TextFiles, TextSample
from bitgolf.text.read_report import ReadReport


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_becomes_a_toy_with_the_same_techniques(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = get_recipe(name)
    toy = quick(recipe)
    assert capsys.readouterr().err == "", "the widths are divided"
    assert (
        min(QUICK_DIM, recipe["model.dim"]) <= toy["model.dim"] < 2 * QUICK_DIM
        and toy["model.layers"] == recipe["model.layers"]
    )
    assert 0 < toy["train.seconds"] <= QUICK_SECONDS and toy["proof"] is None and len(toy["score"]) == 1
    assert {node.name for _, node in toy["model"].walk()} == {node.name for _, node in recipe["model"].walk()}
    assert {node.name for rule in toy["quantize"] for _, node in rule.walk()} == {
        node.name for rule in recipe["quantize"] for _, node in rule.walk()
    }
    assert toy["name"] == f"{name}-quick" and is_quick(toy["name"]) and not is_quick(name)
    assert recipe_hash(toy) != recipe_hash(recipe)
    with torch.device("meta"):
        model = toy["model"](BuildContext(vocab=toy["tokens.vocab"]))
    assert sum(p.numel() for p in model.parameters()) < 7_000_000


def test_widths_that_cannot_be_divided_stay_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = get_recipe("quickstart").set("model.dim", 256)
    toy = quick(recipe.edit(Attention, lambda node: node.replace(heads=128, kv_heads=128)))
    assert toy["model.dim"] == 256 and "--quick keeps the widths of the model, since" in capsys.readouterr().err


def test_settings_apply_after_it() -> None:
    toy = load_recipe("quickstart", ["train.seconds=7", "model.dim=256"], quick=True)
    assert (toy["train.seconds"], toy["model.dim"], toy["name"]) == (7.0, 256, "quickstart-quick")


def test_the_first_method_is_kept_with_a_smaller_window() -> None:
    toy = quick(get_recipe("pr1855"))
    assert toy["score"] == (part(ContiguousScoring, window=128),)
    assert {node["hidden"] for _, node in toy.walk() if node.cls is MLP} == {512}


def test_a_sample_of_a_text_is_its_start_and_the_rest_is_not_read(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(f"{i}" * 100)
    whole = part(TextFiles, paths=(str(tmp_path),))
    report = ReadReport()
    documents: list[Document] = list(TextSample(text=whole, bytes=150).documents(report))
    assert [document.data[:1] for document in documents] == [b"0", b"1"] and report.documents == 2
    assert TextSample(text=whole, bytes=150).size() == 150 and TextSample(text=whole, bytes=1000).size() == 400
    assert TextSample(text=whole, bytes=150).cache_key() != TextSample(text=whole, bytes=151).cache_key()
