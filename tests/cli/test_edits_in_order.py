"""--set and --add on a command line: their order, notes, and words that the shell has separated."""

from __future__ import annotations

import json

import pytest

from bitgolf.recipes import experiment_names, pull_request, recipe_names
from helpers.command_line import run_command as bitgolf


def changed(*words: str) -> dict[str, str]:
    """Path -> value in the second recipe, for each row of `diff quickstart`."""
    done = bitgolf("diff", "quickstart", "--json", *words)
    assert done.returncode == 0, done.stderr
    return {row["path"]: row.get("b", "absent") for row in json.loads(done.stdout)}


def test_set_and_add_apply_in_the_order_in_which_they_are_given() -> None:
    add, replace = ("--add", "post_embed=BlendSmear"), ("--set", "post_embed=()")
    assert changed(*add) == {"model.post_embed.1": "BlendSmear"}
    assert changed(*add, *replace) == {"model.post_embed.0": "absent"}
    assert changed(*replace, *add) == {"model.post_embed.0": "BlendSmear"}
    assert changed("--add=post_embed=BlendSmear", "--set=post_embed=()") == {"model.post_embed.0": "absent"}
    two = changed(*add, "--set", "layers=3", "--add", "post_embed=MixX0", "--set", "post_embed.2=BlendSmear(init=1.0)")
    assert two["model.layers"] == 3 and two["model.post_embed.2"].startswith("BlendSmear(")


def test_diff_with_two_recipes_applies_edits_to_the_second() -> None:
    done = bitgolf("diff", "baseline", "quickstart", "--set", "train.rows=512", "--json")
    paths = [row["path"] for row in json.loads(done.stdout)]
    assert "model.layers" in paths and "train.rows" not in paths
    text = bitgolf("diff", "baseline", "pr162").stdout
    assert "(absent)" in text and "None" not in text and "SWA(every=50, lr_scale_below=0.5)" in text
    assert bitgolf("diff", "baseline").returncode == 2


def test_notes_say_what_a_short_path_means() -> None:
    done = bitgolf("diff", "quickstart", "--set", "seconds=60", "--set", "lr_schedule.fraction=0.5")
    assert done.stderr.splitlines()[0].endswith("] note: seconds is train.seconds")
    assert "--set train.lr_schedule.fraction=0.5 changes nothing" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "train.seconds", "60"], "--set: expected PATH=VALUE, got 'train.seconds'"),
        (["--set", "train.seconds", "=", "60"], "without spaces: train.seconds=60"),
        (["--add", "post_embed", "BlendSmear"], "--add: expected PATH=VALUE, got 'post_embed'"),
        (["--set", "train.seconds"], "for example --set train.seconds=90.0"),
        (["--add", "post_embed"], "expected PATH=VALUE, got 'post_embed'"),
        (["--set", "lr=1"], "--set lr=1: 'lr' can mean 3 settings"),
        (["--add", "mlp=ReLU"], "this is no chain"),
    ],
)
def test_an_edit_that_is_no_assignment(words: list[str], message: str) -> None:
    done = bitgolf("show", "quickstart", *words)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 2


def test_recipes_stand_in_the_order_of_their_numbers() -> None:
    names = list(json.loads(bitgolf("recipes", "--json").stdout))
    assert names == [*recipe_names(), *experiment_names()]
    names = recipe_names()
    assert names.index("pr162") < names.index("pr1090") < names.index("pr1090_as_shipped")
    numbers = [pull_request(name) for name in names]
    assert numbers == sorted(numbers) and names[0] == "auto" and numbers[-1] == 2135
    shown = bitgolf("recipes").stdout
    systems, _, experiments = shown.partition("Experiments of the branch of pull request 1512")
    assert "bits per byte" in systems and "pr1855 " in systems and "pr1851_run_6" not in systems
    assert "1.0596 adapted" in experiments and "pr1855 " not in experiments.partition("pr1855_run_5")[0]
