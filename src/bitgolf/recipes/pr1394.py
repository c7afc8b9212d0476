"""A vocabulary of 8,192, layers 4 and 5 three times from mid-training, clips by standard deviation.

Source: openai/parameter-golf, pull request 1394. Twelve of its 600 seconds were kept for calibration.
"""

from __future__ import annotations

from bitgolf.data.batches import ShuffledSequences
from bitgolf.edits import but
from bitgolf.grids.clip import SdClip
from bitgolf.model.depth import GatedSkip, UNet
from bitgolf.model.loops import Loop
from bitgolf.model.stream import Normalize
from bitgolf.optim.muon import Muon
from bitgolf.quantize.codec import Float, IntRows
from bitgolf.recipe import Recipe
from bitgolf.recipes._published import results
from bitgolf.recipes.pr1285 import pr1285
from bitgolf.rules import Rule
from bitgolf.spec import Spec, part


def pr1394() -> Spec[Recipe]:
    recipe = pr1285().but(name="pr1394").set("tokens.vocab", 8192).set("model.enter", (part(Normalize),))
    recipe = recipe.set("model.block.mixer.value", ())
    looped = but(order=part(Loop, first=4, last=5, since=(0.5, 0.5)), skip=part(GatedSkip))
    recipe = recipe.edit(UNet, looped).edit(Muon, but(weight_decay=0.085))
    recipe = recipe.set("train.optim.1.use.weight_decay", 0.085).set("train.seconds", 588.0)
    recipe = recipe.set("train.order", part(ShuffledSequences))
    return recipe.but(
        quantize=codec(matrix=12.85),
        published=results(
            1394,
            params=35_943_512,
            bpb={"averaged": 1.09021, "packed": 1.10235, "sliding": 1.08562},
            bytes=15_988_983,
            steps=4989,
            seeds={
                1: {"averaged": 1.08996, "packed": 1.10239, "sliding": 1.08554},
                1234: {"averaged": 1.08942, "packed": 1.10130, "sliding": 1.08463},
                1337: {"averaged": 1.09079, "packed": 1.10222, "sliding": 1.08554},
                2025: {"averaged": 1.09092, "packed": 1.10239, "sliding": 1.08578},
                42: {"averaged": 1.08994, "packed": 1.10345, "sliding": 1.08664},
            },
        ),
    )


def codec(
    *, matrix: float, mlp: float | None = None, embed_bits: int = 8, embed: float = 20.0, gate_bits: int = 0
) -> tuple[Spec[Rule], ...]:
    """Int6 rows clipped at so many standard deviations, the MLPs' apart where given; embeddings by their own."""
    rules = [part(Rule, where="scale", use=part(Float, dtype="float16"))]
    if gate_bits:
        rules += [part(Rule, where="gate", use=part(IntRows, bits=gate_bits))]
    rules += [part(Rule, where="embedding", use=part(IntRows, bits=embed_bits, clip=part(SdClip, k=embed)))]
    if mlp is not None:
        rules += [part(Rule, where="matrix@**.mlp.**", use=part(IntRows, bits=6, clip=part(SdClip, k=mlp)))]
    return (*rules, part(Rule, where="*", use=part(IntRows, bits=6, clip=part(SdClip, k=matrix))))
