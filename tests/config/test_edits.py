"""Edits from a command line: short paths, chains, rules, and what the errors of a first try suggest."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.config.parse import apply_assignment, apply_edit
from bitgolf.config.paths import SYNONYMS, class_by_path, short_matches
from bitgolf.config.readable import readable
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.recipes import get_recipe, recipe_names


@cache
def quickstart() -> Spec[Any]:
    return get_recipe("quickstart")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("seconds", "train.seconds"),
        ("layers", "model.layers"),
        ("model.mlp", "model.block.mlp"),
        ("model.hidden", "model.block.mlp.hidden"),
        ("MLP.hidden", "model.block.mlp.hidden"),
        ("Muon.lr", "train.optim.0.use.lr"),
        ("optim.Muon.momentum.end", "train.optim.0.use.momentum.end"),
        ("qk.2.init", "model.block.mixer.qk.2.init"),
        ("MLP", "model.block.mlp"),
        ("model", "model"),
    ],
)
def test_a_path_may_leave_out_segments(given: str, path: str) -> None:
    assert short_matches(given, class_by_path(quickstart())) == [path]


@pytest.mark.parametrize("name", recipe_names())
def test_every_full_path_names_its_own_setting(name: str) -> None:
    classes = class_by_path(get_recipe(name))
    assert len(classes) > 80
    assert all(short_matches(path, classes) == [path] for path in classes)
    assert all(get_recipe(name)[path] is not ... for path in classes)


@given(st.randoms(use_true_random=False))
def test_a_short_path_means_the_setting_it_was_taken_from_or_is_ambiguous(chance: random.Random) -> None:
    classes = class_by_path(quickstart())
    path = chance.choice(list(classes))
    *earlier, last = path.split(".")
    short = ".".join([*(segment for segment in earlier if chance.random() < 0.5), last])
    found = short_matches(short, classes)
    assert found == [short] if short in classes else path in found


def paths_with_values(name: str) -> list[str]:
    """The paths of a recipe whose values can be written."""
    recipe = get_recipe(name)
    return [path for path in class_by_path(recipe) if recipe[path] != "" and not isinstance(recipe[path], dict)]


@cache
def first_occurrences() -> dict[str, list[str]]:
    """Recipe -> the paths whose part, argument and value are together in no recipe before it."""
    seen, found = set[tuple[str, str, str]](), dict[str, list[str]]()
    for name in recipe_names():
        recipe, found[name] = get_recipe(name), []
        classes = class_by_path(recipe)
        for path in paths_with_values(name):
            part, _, argument = path.rpartition(".")
            occurrence = (classes.get(part) or part, argument, readable(recipe[path]))
            if occurrence not in seen:
                found[name].append(path)
            seen.add(occurrence)
    return found


def assert_sets_itself(name: str, path: str) -> None:
    recipe = get_recipe(name)
    assert apply_assignment(recipe, f"{path}={readable(recipe[path])}") == recipe, path


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_shown_of_a_value_is_what_sets_it(name: str) -> None:
    for path in first_occurrences()[name]:
        assert_sets_itself(name, path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", recipe_names())
def test_what_is_shown_of_a_value_is_what_sets_it_in_every_recipe(name: str) -> None:
    for path in paths_with_values(name):
        assert_sets_itself(name, path)


@pytest.mark.parametrize(
    ("edit", "path", "value"),
    [
        ("model.mlp.act=ReLU", "model.block.mlp.act", "ReLU"),
        ("post_embed=BlendSmear()", "model.post_embed", "(BlendSmear,)"),
        ("model.post_embed=(EmbeddingNorm, BlendSmear)", "model.post_embed", "(EmbeddingNorm, BlendSmear)"),
        ("model.head=TiedHead(logits_transforms=Softcap(cap=15))", "model.head.logits_transforms.0.cap", "15.0"),
        ("quantize.0.use=Float(dtype=float16)", "quantize.0.use.dtype", "float16"),
        ("pack.cap=16e6", "pack.cap", "16000000"),
        ("pack.cap=16_000_000", "pack.cap", "16000000"),
        ("name=123", "name", "123"),
        ("name='a b'", "name", "a b"),
        (" seconds = 60 ", "train.seconds", "60.0"),
        ("calibrate=null", "calibrate", "none"),
    ],
)
def test_values_as_they_are_typed(edit: str, path: str, value: str) -> None:
    assert readable(apply_assignment(quickstart(), edit)[path]) == value


def test_a_part_is_added_to_the_end_of_a_chain() -> None:
    first = apply_edit(quickstart(), "post_embed+=HashedNGramEmbedding(buckets=4096, width=16)")
    second = apply_edit(first.recipe, "model.post_embed+=BlendSmear")
    assert [part.name for part in second.recipe["model.post_embed"]] == [
        "EmbeddingNorm",
        "HashedNGramEmbedding",
        "BlendSmear",
    ]
    assert first.note == "post_embed is model.post_embed; HashedNGramEmbedding is added as model.post_embed.1"
    both = apply_assignment(quickstart(), "post_embed+=(HashedNGramEmbedding(buckets=4096, width=16), BlendSmear)")
    assert both == second.recipe


@pytest.mark.parametrize(
    ("chain", "where", "index"),
    [
        ("quantize", "embedding", 1),  # before "*"
        ("quantize", "scale@blocks.**", 0),  # before "scale", which would take its parameters
        ("train.optim", "matrix@**.mlp.**", 0),
        ("train.optim", "gate", 3),
        ("train.optim", "*", 3),
    ],
)
def test_a_rule_is_added_before_the_one_that_would_take_its_parameters(chain: str, where: str, index: int) -> None:
    use = "Float(dtype='float16')" if chain == "quantize" else "Adam(lr=0.01)"
    edit = f"{chain}+=Rule(where='{where}', use={use})"
    recipe, note = apply_edit(quickstart(), edit)
    before = quickstart()[chain]
    assert recipe[f"{chain}.{index}.where"] == where and len(recipe[chain]) == len(before) + 1
    assert tuple(rule for rule in recipe[chain] if rule["where"] != where) == before
    assert f"Rule is added as {chain}.{index}" in note and (", before " in note) == (index < len(before))
    assert all(rule.cls is Rule for rule in recipe[chain])


@pytest.mark.parametrize(
    ("edit", "note"),
    [
        ("train.seconds=60", ""),
        ("seconds=60", "seconds is train.seconds"),
        ("train.seconds=90", "--set train.seconds=90 changes nothing: the recipe already has this value"),
        ("model.block.mixer.qk=QKNorm", "replaces all 3 values of model.block.mixer.qk; --add keeps them"),
        ("model.block.mixer.qk=(QKNorm, RoPE)", ""),
    ],
)
def test_a_note_says_what_the_edit_chose(edit: str, note: str) -> None:
    assert apply_edit(quickstart(), edit).note == note


def test_the_names_of_other_programs_stand_for_settings_that_exist() -> None:
    known = {path.rpartition(".")[2] for name in ("quickstart", "baseline") for path in class_by_path(get_recipe(name))}
    assert {name for names in SYNONYMS.values() for name in names} <= known
    assert not known & SYNONYMS.keys()


FIRST_TRIES = [
    ("lr=0.1", "'lr' can mean 3 settings: train.optim.0.use.lr (or Muon.lr), train.optim.1.use.lr"),
    ("Adam.lr=0.1", "can mean 2 settings: train.optim.1.use.lr, train.optim.2.use.lr"),
    ("muon.lr=0.1", "did you mean train.optim.0.use.lr?"),
    ("learning_rate=0.1", "did you mean train.optim"),
    ("train.lr=0.1", "train.optim.0.use.lr (or Muon.lr)"),
    ("optimizer=Adam", "did you mean train.optim?"),
    ("train.optim=Adam(lr=0.1)", "write Rule(where=ROLE, use=PART)"),
    ("train.optim=Adam", "the argument 'lr' is missing\n  hint: write Adam(lr=…)"),
    ("model.layers=four", "model.layers: expected a whole number, got 'four'\n  hint: its value now is 2"),
    ("model.layers=2.5", "model.layers: expected a whole number, got 2.5"),
    ("n_layers=4", "there is no path 'n_layers' in the recipe\n  hint: did you mean model.layers?"),
    ("n_layer=4", "did you mean model.layers?"),
    ("d_model=512", "did you mean model.dim?"),
    ("batch_size=16", "did you mean train.rows or"),
    ("seq_len=512", "did you mean train.length"),
    ("vocab_size=1024", "did you mean tokens.vocab?"),
    ("epochs=3", "train.seconds"),
    ("train.sceonds=60", "did you mean train.seconds?"),
    ("secnds=60", "did you mean train.seconds?"),
    ("train.seconds", "expected PATH=VALUE, got 'train.seconds'\n  hint: for example --set train.seconds=90.0"),
    ("train.seconds:60", "for example --set train.seconds=60"),
    ("train.seconds=", "without a value\n  hint: for example --set train.seconds=90.0"),
    ("seconds=60s", "train.seconds: expected a number, got '60s'\n  hint: its value now is 90.0"),
    ("seconds=1m", "train.seconds: expected a number, got '1m'"),
    ("seconds=-5", "train.seconds: must be from 0 to"),
    ("cap=16MB", "pack.cap: expected a whole number, got '16MB'\n  hint: its value now is 1000000"),
    ("cap=16,000,000", "write 16_000_000: a comma separates"),
    (
        "model.act=relu",
        "model.block.mlp.act: there is no part called 'relu'\n  hint: parts that fit: ReLU, LeakyReLU, ",
    ),
    ("model.act=gelu", "model.block.mlp.act: there is no part called 'gelu'\n  hint: parts that fit: ReLU, "),
    ("model.act=3", "expected a part of the kind Activation, got 3\n  hint: parts that fit: "),
    ("model.act=MixX0", "expected a part of the kind Activation, got MixX0\n  hint: parts that fit: "),
    ("model.act='ReLU'", "got 'ReLU'\n  hint: parts that fit: ReLU, "),
    ("act=SquaredLeakyReLU(0.3)", "takes its arguments by name\n  hint: write SquaredLeakyReLU(slope=0.3)"),
    ("act=SquaredLeakyReLU(slope=0.3", "brackets, quotes or commas do not match"),
    ("act=SquaredLeakyReLU(leak=0.3)", "SquaredLeakyReLU takes no argument 'leak'"),
    ("activation=ReLU", "did you mean model.block.mlp.act?"),
    ("model.blocks.mlp.hidden=512", "did you mean model.block.mlp.hidden?"),
    ("train.compile=yes", "expected one of 'auto', 'on', 'off', got 'yes'"),
    ("average.bias_correction=yes", "expected true or false, got 'yes'"),
    ("average=0.99", "average: expected a part of the kind Average or none, got 0.99"),
    ("calibrate=false", "calibrate: expected a part of the kind Calibrate or none, got False"),
    ("model.mlp+=MLP(hidden=3)", "this is no chain, so nothing can be added: it is MLP(hidden=384"),
    ("quantize+=Float(dtype=float16)", "write Rule(where=ROLE, use=PART)"),
    ("optim+=Rule(where=matrix, use=Muon(lr=0.1))", "there is a rule for 'matrix' already"),
    ("dropout=0.1", "`bitgolf show RECIPE` lists every path"),
]


@pytest.mark.parametrize(("edit", "message"), FIRST_TRIES, ids=[edit for edit, _ in FIRST_TRIES])
def test_the_error_of_a_first_try_says_what_to_write(edit: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        apply_edit(quickstart(), edit)
    text = str(caught.value)
    assert message in text and text.count("\n") == 1 and len(text) < 400
