"""Versions 12 and 13 of the model of #1512: a vocabulary of 8,192, and layers 4 and 5 run twice from mid-training.

Source: openai/parameter-golf, pull request 1512, files train_v12_bankless.py, train_v13.py and run_v13*.sh. Version 12 has a
parameter for each matrix instead of banks, and its files were over the cap of 16 MB; version 13 looks for what can be
left out or added. Late fake quantization is left out of these recipes: the times of steps show that it had no effect.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SdClip
from bitgolf.model.attention.attention import QGain
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.values import ValueEmbedding
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.mlp import MLP
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.residual_topology import ParallelResidual
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import RowNorm
from bitgolf.optim.schedules import LinearRamp
from bitgolf.pack.byte_coders import Brotli
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.recipes._common import (
    FLOAT16,
    calibrate_on_training_text,
    gptq_damped_twice,
    int_rows_with_step_floor,
    optimizer_rules,
    streaming_sgd,
)
from bitgolf.recipes.pr1512 import pr1512
from bitgolf.recipes.recipe import Recipe

TABLE = part(IntRows, bits=8, clip=part(SdClip, k=20.0), min_step=1 / 127, scale_rounding="after")
"""Codec of the tables of bigrams and value embeddings, which have no Hessians."""


def _quantization(tables: bool) -> tuple[Spec[Rule[Codec]], ...]:
    embedding = part(IntRows, bits=8, clip=part(SdClip, k=20.0), min_step=1 / 127, solver=gptq_damped_twice())
    inputs = (
        part(Rule, where="matrix@post_embed.**", use=FLOAT16),
        part(Rule, where="embedding@post_embed.**", use=TABLE),
    )
    return (
        part(Rule, where="scale", use=FLOAT16),
        *(inputs if tables else ()),
        part(Rule, where="embedding", use=embedding),
        part(Rule, where="*", use=int_rows_with_step_floor(clip=part(SdClip, k=12.85), solver=gptq_damped_twice())),
    )


def _version(*, values: bool = True, bigrams: bool = True) -> Spec[Recipe]:
    """Version 12 with or without its value embeddings and hashed bigrams."""
    left_out = {ValueEmbedding: not values, HashedNGramEmbedding: not bigrams}
    recipe = pr1512().set("tokens.vocab", 8192).edit(MLP, replace(hidden=2048)).edit(QGain, replace(init=5.25))
    recipe = recipe.edit(RoPE, replace(scaling=None)).edit("model.block.**.linear", replace(weight_transforms=()))
    kept = tuple(p for p in recipe["model.post_embed"] if not left_out.get(p.cls))
    recipe = recipe.set("model.post_embed", kept).set(
        "model.block.mixer.value", recipe["model.block.mixer.value"] if values else ()
    )
    recipe = recipe.edit(UNet, replace(order=part(LoopedLayers, first_layer=4, last_layer=5, since=(0.5,))))
    momentum = part(LinearRamp, start=0.92, end=0.99, steps=1500)
    optim = optimizer_rules(
        part(Muon, lr=0.025, momentum=momentum, weight_decay=0.085, pre_orthogonalize=(part(RowNorm),)),
        part(Adam, lr=0.035, weight_decay=0.085),
        part(Adam, lr=0.025, weight_decay=0.02),
        input_projections="scalar" if values or bigrams else "matrix",
    )
    return (
        recipe.set("train.optim", optim)
        .set("pack.coder", part(Brotli))
        .replace(
            calibrate=calibrate_on_training_text(256, length=4096), quantize=_quantization(tables=values or bigrams)
        )
    )


def pr1512_v12() -> Spec[Recipe]:
    """pr1512 with a vocabulary of 8,192, an MLP of 4 x width, and layers 4 and 5 run twice from mid-training."""
    return _version()


def pr1512_v13_no_values() -> Spec[Recipe]:
    """pr1512_v12 without value embeddings (v13a, the best of these experiments that fits the cap)."""
    return _version(values=False)


def pr1512_v13_no_bigrams() -> Spec[Recipe]:
    """pr1512_v12 without hashed bigrams (v13b)."""
    return _version(bigrams=False)


def pr1512_v13_adapted() -> Spec[Recipe]:
    """pr1512_v13_no_values with SGD on all weights while scoring, which diverged (v13c)."""
    recipe = pr1512_v13_no_values()
    return recipe.replace(score=(*recipe["score"], streaming_sgd(lr=0.005, length=4096)))


def pr1512_v13_parallel() -> Spec[Recipe]:
    """pr1512_v13_no_values with parallel attention and MLP from layer 7 on (v13d)."""
    return pr1512_v13_no_values().edit(UNet, replace(residual=part(ParallelResidual, layers="7-10")))


def pr1512_v13_loop_of_3() -> Spec[Recipe]:
    """pr1512_v13_no_values with layers 3 to 5 run twice instead of layers 4 and 5 (v13e)."""
    return pr1512_v13_no_values().edit(LoopedLayers, replace(first_layer=3))


def pr1512_v13_rates_of_1493() -> Spec[Recipe]:
    """pr1512_v13_no_values with the learning rate and the weight decay of matrices of #1493 (v13f)."""
    return pr1512_v13_no_values().edit(Muon, replace(lr=0.022, weight_decay=0.095))


def pr1512_v13_no_values_no_bigrams() -> Spec[Recipe]:
    """pr1512_v12 without value embeddings and without hashed bigrams (v13g)."""
    return _version(values=False, bigrams=False)


def pr1512_v13_12_layers() -> Spec[Recipe]:
    """pr1512_v13_no_values_no_bigrams with a twelfth layer (v13h)."""
    recipe = pr1512_v13_no_values_no_bigrams().set("model.layers", 12)
    recipe = recipe.set("model.block.mixer.core.masks.0.layers", "0-6")
    return recipe.set("model.block.mixer.qk.2.layers", "7-11")


def pr1512_v13_width_528() -> Spec[Recipe]:
    """pr1512_v13_no_values_no_bigrams with a width of 528 instead of 512, stopped before the end (v13i)."""
    return pr1512_v13_no_values_no_bigrams().set("model.dim", 528).edit(MLP, replace(hidden=2112))
