"""The script of pull request 1090 as shipped: without bigrams, and with a SmearGate that no optimizer updates.

Source: openai/parameter-golf, pull request 1090. No result was published for this system.
"""

from __future__ import annotations

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.optim.frozen import Frozen
from bitgolf.recipes.pr1090 import pr1090
from bitgolf.recipes.recipe import Recipe


def pr1090_as_shipped() -> Spec[Recipe]:
    recipe = pr1090().replace(name="pr1090_as_shipped")
    recipe = recipe.set(
        "model.post_embed", tuple(p for p in recipe["model.post_embed"] if p.cls is not HashedNGramEmbedding)
    )
    frozen = part(Rule, where="scale@post_embed.**", use=part(Frozen))
    return recipe.set("train.optim", (frozen, *recipe["train.optim"]))
