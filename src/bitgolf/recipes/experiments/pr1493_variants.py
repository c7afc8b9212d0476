"""Variants of #1493 in the branch of #1512, each with one change or a few.

Source: openai/parameter-golf, pull request 1512, files train_pr1493.py, train_qat.py, train_pko.py, pr1493_*.md and logs/.
One seed (42). All files were over the cap of 16 MB by 16 to 38 kB, for want of packed code. Until "shared Hessians",
each process calibrated on its own eighth of the batches, and the statistics of the first were used.
"""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.orders import ShuffledDocuments
from bitgolf.model.attention.attention import QGain, QKNorm
from bitgolf.model.attention.gates import LearnedChannelGate, LearnedHeadGate
from bitgolf.model.attention.head_mixing import HeadMix
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.interfaces import AttentionOutputPart
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.objectives import SharedHeadMultiToken
from bitgolf.model.part import only
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.model.smear import KeepSmear
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import RowBlockSplit
from bitgolf.optim.schedules import PiecewiseLinear
from bitgolf.recipes._common import calibrate_on_training_text, streaming_sgd
from bitgolf.recipes._qat import qat
from bitgolf.recipes.pr1493 import pr1493
from bitgolf.recipes.recipe import Recipe


def decay_schedule(recipe: Spec[Recipe], *, low: float = 0.65, high: float = 1.5) -> Spec[Recipe]:
    """The recipe with all weight decays multiplied by 1 until 40 % of the run, `low` at 85 %, and `high` at the end."""
    schedule = part(PiecewiseLinear, points=((0.4, 1.0), (0.85, low), (1.0, high)))
    return recipe.edit(Muon, replace(weight_decay_schedule=schedule)).edit(
        Adam, replace(weight_decay_schedule=schedule)
    )


def strong_decay_schedule(recipe: Spec[Recipe]) -> Spec[Recipe]:
    """The recipe with the stronger variant of `decay_schedule`."""
    return decay_schedule(recipe, low=0.5, high=1.75)


def paired_heads(recipe: Spec[Recipe]) -> Spec[Recipe]:
    """The recipe with queries and keys orthogonalized in blocks of two heads. The rule for matrices is its first."""
    rules = recipe["train.optim"]
    pairs = rules[0]["use"].replace(split=part(RowBlockSplit, rows=128))
    own = tuple(part(Rule, where=f"matrix@**.mixer.{name}.weight", use=pairs) for name in ("q", "k"))
    return recipe.set("train.optim", (*own, *rules))


def shared_hessians(recipe: Spec[Recipe], batches: int) -> Spec[Recipe]:
    """The recipe with the calibration batches of all eight processes, `batches` of each."""
    return recipe.replace(calibrate=calibrate_on_training_text(8 * batches))


def pr1493_longer_adaptation() -> Spec[Recipe]:
    """pr1493 with five epochs at a rate of 0.007 while scoring: what the other variants are compared with."""
    recipe = pr1493()
    return recipe.replace(score=(*recipe["score"][:2], streaming_sgd(lr=0.007, epochs=5)))


def pr1493_document_shuffle() -> Spec[Recipe]:
    """pr1493_longer_adaptation with documents in random order."""
    return pr1493_longer_adaptation().set("train.order", part(ShuffledDocuments))


def pr1493_decay() -> Spec[Recipe]:
    """pr1493_longer_adaptation with a weight decay that falls to 0.65 and rises to 1.5 times its value."""
    return decay_schedule(pr1493_longer_adaptation())


def pr1493_strong_decay() -> Spec[Recipe]:
    """pr1493_longer_adaptation with a weight decay that falls to 0.5 and rises to 1.75 times its value."""
    return strong_decay_schedule(pr1493_longer_adaptation())


def pr1493_paired_heads() -> Spec[Recipe]:
    """pr1493_longer_adaptation with queries and keys orthogonalized in pairs of heads."""
    return paired_heads(pr1493_longer_adaptation())


def pr1493_decay_paired_heads() -> Spec[Recipe]:
    """pr1493_decay with queries and keys orthogonalized in pairs of heads."""
    return paired_heads(pr1493_decay())


def pr1493_strong_decay_paired_heads() -> Spec[Recipe]:
    """pr1493_strong_decay with queries and keys orthogonalized in pairs of heads: the best of these variants."""
    return paired_heads(pr1493_strong_decay())


def pr1493_decay_paired_heads_shared_hessians() -> Spec[Recipe]:
    """pr1493_decay_paired_heads, calibrated on the batches of all processes."""
    return shared_hessians(pr1493_decay_paired_heads(), 64)


def pr1493_decay_paired_heads_short_calibration() -> Spec[Recipe]:
    """pr1493_decay_paired_heads_shared_hessians with a quarter of the batches, and 8 s more of training."""
    return shared_hessians(pr1493_decay_paired_heads(), 16)


def _with_head_mixing(recipe: Spec[Recipe]) -> Spec[Recipe]:
    return recipe.edit("model.block.mixer.linear", append(weight_transforms=only("*", part(HeadMix), on="q,k")))


def pr1493_head_mixing() -> Spec[Recipe]:
    """pr1493_longer_adaptation with learned mixtures of the heads of queries and keys."""
    return _with_head_mixing(pr1493_longer_adaptation())


def pr1493_decay_paired_heads_head_mixing() -> Spec[Recipe]:
    """pr1493_decay_paired_heads with learned mixtures of the heads of queries and keys."""
    return _with_head_mixing(pr1493_decay_paired_heads())


def pr1493_multi_token() -> Spec[Recipe]:
    """pr1493_longer_adaptation with the same logits compared with the token after the next one, weight 0.10."""
    objective = part(SharedHeadMultiToken, weight=0.1, mask_starts=False)
    return pr1493_longer_adaptation().set("train.objective", objective)


def pr1493_evaluation_loops() -> Spec[Recipe]:
    """pr1493_longer_adaptation with three instead of two additional passes of the loop while scoring."""
    return pr1493_longer_adaptation().edit(LoopedLayers, replace(evaluation_passes=3))


def pr1493_smear() -> Spec[Recipe]:
    """pr1493_strong_decay_paired_heads with a smear of the embeddings, shared Hessians and no gate."""
    smeared = pr1493_strong_decay_paired_heads().set("model.post_embed", (part(KeepSmear), part(EmbeddingNorm)))
    return shared_hessians(smeared, 64)


def _with_gate(recipe: Spec[Recipe], gate: Spec[AttentionOutputPart]) -> Spec[Recipe]:
    """The recipe with a gate before exclusive self-attention."""
    return recipe.set("model.block.mixer.post_attention", (gate, *recipe["model.block.mixer.post_attention"]))


def pr1493_smear_head_gate() -> Spec[Recipe]:
    """pr1493_smear with one learned factor for each head."""
    return _with_gate(pr1493_smear(), part(LearnedHeadGate))


def pr1493_smear_channel_gate() -> Spec[Recipe]:
    """pr1493_smear with one learned factor for each head and channel."""
    return _with_gate(pr1493_smear(), part(LearnedChannelGate))


def pr1493_key_offset() -> Spec[Recipe]:
    """pr1493 with a key offset in every layer: adaptation made it worse."""
    recipe = pr1493()
    norm, rope, gain = recipe["model.block.mixer.qk"]
    assert norm.cls is QKNorm and gain.cls is QGain
    offset = part(KeyOffset, unshifted_dims=16, mask_starts=False)
    return recipe.set("model.block.mixer.qk", (norm, rope, offset, gain))


def _with_fake_quantization(since: float) -> Spec[Recipe]:
    recipe = qat(pr1493(), since=since)
    return qat(recipe, since=since, where="model.embed")


def pr1493_qat_from_28() -> Spec[Recipe]:
    """pr1493 with fake quantization of all matrices and of the embedding from 28 % of the run on."""
    return _with_fake_quantization(0.28)


def pr1493_qat_from_55() -> Spec[Recipe]:
    """pr1493 with fake quantization of all matrices and of the embedding from 55 % of the run on."""
    return _with_fake_quantization(0.55)


def pr1493_qat_from_85() -> Spec[Recipe]:
    """pr1493 with fake quantization of all matrices and of the embedding from 85 % of the run on."""
    return _with_fake_quantization(0.85)
