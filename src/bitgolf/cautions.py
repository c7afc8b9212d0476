"""Known bad interactions: what is allowed, usually a mistake, and what is known of it.

One small function for each; it returns what is wrong with this recipe, or nothing. The evidence is the field's own, from
logs and reports of openai/parameter-golf (#NNN are its pull requests), on other data and at another scale than yours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitgolf.average.ema import Ema
from bitgolf.average.swa import Swa
from bitgolf.model.cores.sdpa import SameDocument, Segments
from bitgolf.model.factored import FactoredEmbedding
from bitgolf.model.fake import FakeQuant, NoisyQuant
from bitgolf.model.gates import DenseGate, NarrowGate, SparseGate
from bitgolf.model.loops import Loop
from bitgolf.model.lowbit import Binary, Ternary
from bitgolf.model.objectives import EntropyWeighted, MultiToken, SharedMultiToken
from bitgolf.model.offset import KeyOffset
from bitgolf.model.rope import Ntk
from bitgolf.model.skeleton import LM
from bitgolf.model.values import FixedValueResidual, ValueResidual
from bitgolf.model.xsa import ExclusiveSelf
from bitgolf.optim.muon import Muon
from bitgolf.recipe import Recipe
from bitgolf.spec import Spec

Caution = Callable[[Spec[Recipe]], "str | None"]
CAUTIONS: list[Caution] = []


def cautions(recipe: Spec[Recipe], forecast: int) -> list[str]:
    """Everything to be cautious of; `forecast` is the artifact's size in bytes."""
    found = [text for check in CAUTIONS if (text := check(recipe))]
    if forecast > (cap := recipe["pack.cap"]):
        found.insert(0, f"forecast {forecast:,} bytes: {forecast - cap:,} over the cap of {cap:,}")
    return found


def caution(check: Caution) -> Caution:
    CAUTIONS.append(check)
    return check


def uses(recipe: Spec[Recipe], *classes: type) -> list[Spec[Any]]:
    """The nodes of these classes anywhere in a recipe."""
    return [node for _, node in recipe.walk() if isinstance(node.cls, type) and issubclass(node.cls, classes)]


@caution
def two_limits(recipe: Spec[Recipe]) -> str | None:
    train = recipe["train"]
    if train["seconds"] > 0 and train["steps"] > 0:
        return "train.seconds and train.steps are both set: the first that is reached ends training, so the run is repeatable only if steps always comes first"
    return None


@caution
def longer_than_trained(recipe: Spec[Recipe]) -> str | None:
    longest, trained = max(m["window"] for m in recipe["score"]), recipe["train.length"]
    if longest > trained:
        return f"a scoring window of {longest} is longer than the {trained} tokens trained on: positions never seen in training (up to 1.4 times as long has helped, twice as long has hurt)"
    return None


@caution
def offset_keys_and_adaptation(recipe: Spec[Recipe]) -> str | None:
    if uses(recipe, KeyOffset) and any(getattr(m.cls, "adapts", False) for m in recipe["score"]):
        return (
            "KeyOffset with adaptation at scoring time: +0.02 bpb after adaptation where it was tried (#1493's harness)"
        )
    return None


@caution
def average_over_two_objectives(recipe: Spec[Recipe]) -> str | None:
    late = [n for n in uses(recipe, FakeQuant, NoisyQuant) if n["since"] > 0]
    if recipe["average"] and late and issubclass(recipe["average"].cls, Ema | Swa):
        return f"{recipe['average'].cls.__name__} with fake quantization from {late[0]['since']:g} of the run: the average holds weights of two objectives (with averaging, QAT lost 0.9 mbpb where alone it gained 3.6, #989); start it with training, or drop the average"
    return None


@caution
def average_of_few_levels(recipe: Spec[Recipe]) -> str | None:
    if recipe["average"] and uses(recipe, Ternary, Binary):
        return "averaging ternary or binary weights: their rounding jumps, and the average lost 0.13 bpb (ternary) and 0.03 (binary) on the way to the file (#640, #641)"
    return None


@caution
def decay_of_few_levels(recipe: Spec[Recipe]) -> str | None:
    if uses(recipe, Ternary, Binary) and any(n["weight_decay"] > 0 for n in uses(recipe, Muon)):
        return "weight decay on ternary or binary weights moves nothing but the scale, and was worse (#640)"
    return None


@caution
def stretched_in_training(recipe: Spec[Recipe]) -> str | None:
    for node in uses(recipe, Ntk):
        if recipe["train.length"] > node["reference"]:
            return f"Ntk(reference={node['reference']}) is active in training at {recipe['train.length']} tokens: the base that is trained is larger than the one written, as in #164 to #1512; score at the same length"
        if node["length"] != max(m["window"] for m in recipe["score"]):
            return f"Ntk(length={node['length']}) is not the length that is scored: the angles will be those of another length"
    return None


@caution
def value_residual_in_a_loop(recipe: Spec[Recipe]) -> str | None:
    if uses(recipe, ValueResidual, FixedValueResidual) and uses(recipe, Loop):
        return "a value residual with looped layers: +0.14 bpb (#363), since the first layer's values are stale by the second visit"
    return None


@caution
def exclusive_everywhere_in_a_loop(recipe: Spec[Recipe]) -> str | None:
    always = [n for n in uses(recipe, Loop) if not any(n["since"])]
    if always and len([n for n in recipe["model.block.mixer.after"] if n.cls is ExclusiveSelf]):
        return "exclusive self-attention on every layer of an always looped core: +0.001 bpb (#363)"
    return None


@caution
def factored_small_vocabulary(recipe: Spec[Recipe]) -> str | None:
    if uses(recipe, FactoredEmbedding) and recipe["tokens.vocab"] < 4096:
        return f"a factored embedding at a vocabulary of {recipe['tokens.vocab']}: +0.053 to +0.063 bpb at 1,024 (#363); it frees bytes only where the table is large"
    return None


@caution
def leaks_past_the_mask(recipe: Spec[Recipe]) -> str | None:
    if not uses(recipe, SameDocument, Segments):
        return None
    open_parts = [n for _, n in recipe["model"].walk() if n.kwargs.get("mask_starts") is False]
    names = sorted({n.cls.__name__ for n in open_parts if isinstance(n.cls, type)})
    if names:
        return f"attention stays within documents, and {', '.join(names)} looks over their starts: set mask_starts=true, or know that the last token of one document enters the next"
    return None


@caution
def more_than_one_gate(recipe: Spec[Recipe]) -> str | None:
    if len({n.cls for n in uses(recipe, DenseGate, NarrowGate, SparseGate)}) > 1:
        return "two gates on one attention output: the published systems treat them as alternatives"
    return None


@caution
def cautious_decay(recipe: Spec[Recipe]) -> str | None:
    if any(n["cautious"] and n["weight_decay"] for n in uses(recipe, Muon)):
        return "cautious weight decay: 1.1375 bpb after quantization where plain decay had 1.115 (#1512); the weights it spares grow"
    return None


@caution
def inflated_loss(recipe: Spec[Recipe]) -> str | None:
    if any(not n["normalised"] for n in uses(recipe, EntropyWeighted)):
        return "EntropyWeighted(normalised=false) makes loss and gradient up to 1.5 times as large, which broke convergence (#675)"
    return None


@caution
def more_tokens_at_once(recipe: Spec[Recipe]) -> str | None:
    if uses(recipe, SharedMultiToken):
        return "SharedMultiToken scores one set of logits against two targets: +0.025 bpb before quantization (#1493's harness)"
    if any(n["weight"] >= 0.2 for n in uses(recipe, MultiToken)) and not uses(recipe, Loop):
        return "MultiToken at weight 0.2 and more: 0.02 and 0.2 both lost where it was tried (#549's line; its heads had no optimizer there)"
    return None


@caution
def windows_and_full_attention(recipe: Spec[Recipe]) -> str | None:
    model: Spec[LM] = recipe["model"]
    windowed = [n for _, n in model.walk() if n.cls is not None and getattr(n.cls, "__name__", "") == "Window"]
    if windowed and recipe["train.length"] <= min(n["width"] for n in windowed):
        return "every training row fits into the window, so the model trains with full attention and is scored with a window: int6 weights fell from 1.14 to 2.4 bpb in the reverse case (#1512)"
    return None
