"""Cautions about positions, attention windows and document boundaries."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.cautions.queries import builds, find_nodes, scoring_context, training_context
from bitgolf.cautions.registry import caution
from bitgolf.config.spec import Spec
from bitgolf.data.batches import PackedDocuments
from bitgolf.model.attention.cores.sdpa import DocumentMask, SegmentMask, SlidingWindowMask
from bitgolf.model.attention.differential import DifferentialAttention
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling, YaRNScaling
from bitgolf.model.build import model_size
from bitgolf.recipes.recipe import Recipe


@caution
def window_longer_than_training(recipe: Spec[Recipe]) -> Iterator[str]:
    caps = [n["max_length"] for n in find_nodes(recipe().model, SegmentMask) if n["max_length"]]
    seen, trained = min([scoring_context(recipe), *caps]), training_context(recipe)
    if seen > trained:
        yield f"the scoring context of {seen:,} tokens exceeds the training context of {trained:,}: for a model trained with 1,024 tokens, 1,408 helped and 2,048 did not"


@caution
def rope_scaling_in_training(recipe: Spec[Recipe]) -> Iterator[str]:
    for rope in find_nodes(recipe, RoPE):
        scaling = rope["scaling"]
        if scaling and scaling["length"] <= scaling["original_length"]:
            yield f"{scaling!r} has no effect: its length does not exceed its original_length"
        if scaling and scaling.cls is NTKScaling:
            mixer = recipe().model["block.mixer"]
            heads = mixer["heads"] * (2 if builds(mixer, DifferentialAttention) else 1)
            base = scaling().scaled_base(rope["base"], rope["dims"] or model_size(recipe().model).dim // heads)
            yield f"NTKScaling also applies in training: the model is trained with a RoPE base of {base:,.0f} instead of {rope['base']:,.0f} (unintended in #164 to #1512)"


@caution
def rope_scaling_length_mismatch(recipe: Spec[Recipe]) -> Iterator[str]:
    lengths = {training_context(recipe), scoring_context(recipe)}
    for node in find_nodes(recipe, NTKScaling):
        if node["length"] not in lengths:
            known = " and ".join(f"{n:,}" for n in sorted(lengths))
            yield f"NTKScaling scales positions to {node['length']:,} tokens, but training and scoring use {known}"
    if any(n["length"] >= 4096 for n in find_nodes(recipe, YaRNScaling)):
        yield "YaRNScaling to 4,096 tokens or more: scaling to 2,048 gained 0.001 to 0.003 bpb, scaling to 4,096 was worse (#640)"


@caution
def attention_window_without_effect(recipe: Spec[Recipe]) -> Iterator[str]:
    trained = training_context(recipe)
    for node in find_nodes(recipe().model, SlidingWindowMask):
        if node["left"] >= trained - 1:
            yield f"SlidingWindowMask(left={node['left']}) masks nothing in training contexts of {trained:,} tokens: on longer texts the model uses a window that it was not trained with (the reverse, a window in training only, went from 1.14 to 2.4 bpb at int6, #1512)"


@caution
def attention_across_documents(recipe: Spec[Recipe]) -> Iterator[str]:
    if recipe().train().order.cls is PackedDocuments and not find_nodes(recipe().model, DocumentMask, SegmentMask):
        yield f"PackedDocuments packs many documents into a row of {recipe['train.length']:,} tokens, and attention crosses their boundaries: #1530 prevents this with SegmentMask"


@caution
def leak_past_document_mask(recipe: Spec[Recipe]) -> Iterator[str]:
    if not find_nodes(recipe().model, DocumentMask, SegmentMask):
        return
    names = {n.cls.__name__ for _, n in recipe().model.walk() if n.kwargs.get("mask_starts") is False}
    if names:
        yield f"attention stays within documents, but {', '.join(sorted(names))} with mask_starts=false can read the previous document (fixed for the smear in #1851): set mask_starts=true"
