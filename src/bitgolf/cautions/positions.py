"""Positions, windows, documents."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.cautions.queries import is_a, longest_window, trained_length, uses
from bitgolf.cautions.registry import caution
from bitgolf.config.spec import Spec
from bitgolf.data.batches import Packed
from bitgolf.model.attention.cores.sdpa import SameDocument, Segments, Window
from bitgolf.model.attention.differential import DifferentialAttention
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.rope_scaling import Ntk, Yarn
from bitgolf.recipes.recipe import Recipe


@caution
def longer_than_trained(recipe: Spec[Recipe]) -> Iterator[str]:
    caps = [n["cap"] for n in uses(recipe().model, Segments) if n["cap"]]
    seen, trained = min([longest_window(recipe), *caps]), trained_length(recipe)
    if seen > trained:
        yield f"scored with {seen:,} tokens before a target and trained with {trained:,}: 1,408 helped a model trained with 1,024, and 2,048 did not"


@caution
def stretched_in_training(recipe: Spec[Recipe]) -> Iterator[str]:
    for rope in uses(recipe, Rope):
        scaling = rope["scaling"]
        if scaling and scaling["length"] <= scaling["reference"]:
            yield f"{scaling!r} changes nothing: its length is not over its reference"
        if scaling and scaling.cls is Ntk:
            mixer = recipe().model["block.mixer"]
            heads = mixer["heads"] * (2 if is_a(mixer, DifferentialAttention) else 1)
            base = scaling().base(rope["base"], rope["dims"] or recipe().model["dim"] // heads)
            yield f"Ntk acts in training too: the base that is trained is {base:,.0f} and not {rope['base']:,.0f} (an oversight in #164 to #1512)"


@caution
def stretched_for_another_length(recipe: Spec[Recipe]) -> Iterator[str]:
    lengths = {trained_length(recipe), longest_window(recipe)}
    for node in uses(recipe, Ntk):
        if node["length"] not in lengths:
            known = " and ".join(f"{n:,}" for n in sorted(lengths))
            yield f"Ntk stretches positions to {node['length']:,} tokens, and training and scoring have {known}"
    if any(n["length"] >= 4096 for n in uses(recipe, Yarn)):
        yield "Yarn to 2,048 tokens gained 0.001 to 0.003, and to 4,096 it hurt (#640)"


@caution
def idle_windows(recipe: Spec[Recipe]) -> Iterator[str]:
    trained = trained_length(recipe)
    for node in uses(recipe().model, Window):
        if node["width"] >= trained - 1:
            yield f"Window(width={node['width']}) hides nothing in rows of {trained:,} tokens: in longer texts the model meets windows that it never trained with (the reverse fell from 1.14 to 2.4 at int6, #1512)"


@caution
def documents_in_one_row(recipe: Spec[Recipe]) -> Iterator[str]:
    if recipe().train().order.cls is Packed and not uses(recipe().model, SameDocument, Segments):
        yield f"Packed puts many documents into a row of {recipe['train.length']:,} tokens, and attention runs over all of it: #1530 kept it within each with Segments"


@caution
def leaks_past_the_mask(recipe: Spec[Recipe]) -> Iterator[str]:
    if not uses(recipe().model, SameDocument, Segments):
        return
    names = {n.cls.__name__ for _, n in recipe().model.walk() if n.kwargs.get("mask_starts") is False}
    if names:
        yield f"attention stays within documents, and {', '.join(sorted(names))} looks back over their starts (mended for the smear in #1851): set mask_starts=true"
