"""Small models of several kinds, whose inputs and gradients calibration observes."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.cores.sdpa import SDPACore, SlidingWindowMask
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.head import UntiedHead
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.weight_sharing import LowRankAdapter, TieBlocks
from helpers.toy import VOCAB, toy_model

LOOP = part(UNet, order=part(LoopedLayers, first_layer=1, last_layer=2, since=(0.3, 0.4)))
TIED = toy_model().replace(layers=6, weight_sharing=(part(TieBlocks, blocks=2),))
MODELS: dict[str, Spec[LM]] = {
    "plain": toy_model(),
    "untied head": toy_model().replace(head=part(UntiedHead)),
    "looped": toy_model().replace(layer_schedule=LOOP),
    "windowed": toy_model().edit(SDPACore, replace(masks=(part(SlidingWindowMask, left=4),))),
    "tied blocks": TIED,
    "tied in turns": TIED.replace(weight_sharing=(part(TieBlocks, blocks=2, cycle=True),)),
    "low rank": TIED.edit(Linear, append(adapters=part(LowRankAdapter, rank=2))),
    "factored": toy_model().replace(embed=part(FactoredEmbedding, width=12)),
}


def some_ids(rows: int = 3, length: int = 20, *, vocab: int = VOCAB, seed: int = 0) -> Tensor:
    return torch.randint(2, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))
