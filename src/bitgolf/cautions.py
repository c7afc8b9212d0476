"""Known bad interactions: what is allowed, usually a mistake, and what is known of it.

One small function for each; it yields what is wrong with this recipe, or nothing. The evidence is the field's own, from
logs and reports of openai/parameter-golf (#NNN are its pull requests), on other data and at another scale than yours.
Figures are bits per byte, and differences where they have a sign: more is worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bitgolf.average.ema import Ema
from bitgolf.data.batches import Packed
from bitgolf.model.caps import QuinticCap
from bitgolf.model.core import Only, layer_set
from bitgolf.model.cores.sdpa import SameDocument, Segments, Window
from bitgolf.model.differential import DifferentialAttention
from bitgolf.model.factored import FactoredEmbedding
from bitgolf.model.fake import FakeQuant, SoftRound, TrainingView
from bitgolf.model.gates import HeadGate
from bitgolf.model.loops import Loop, Visits
from bitgolf.model.lowbit import Binary, Ternary
from bitgolf.model.mlp import SwiGLU
from bitgolf.model.objectives import EntropyWeighted, SharedMultiToken, ZLoss
from bitgolf.model.offset import KeyOffset
from bitgolf.model.rope import Ntk, Rope, Yarn
from bitgolf.model.share import TieBlocks, UntiedRepeats
from bitgolf.model.stream import ProRes
from bitgolf.model.values import FirstValues
from bitgolf.model.xsa import ExclusiveSelf
from bitgolf.optim.adam import Adam
from bitgolf.optim.gram import GramNewtonSchulz
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import RampDecay, WarmdownFraction
from bitgolf.quantize.codec import IntRows
from bitgolf.recipe import Recipe
from bitgolf.spec import Spec
from bitgolf.train.ramps import BatchRamp

Caution = Callable[[Spec[Recipe]], Iterator[str]]
CAUTIONS: list[Caution] = []


def cautions(recipe: Spec[Recipe], forecast: int) -> list[str]:
    """Everything to be cautious of; `forecast` is the artifact's size in bytes."""
    found = list(dict.fromkeys(text for check in CAUTIONS for text in check(recipe)))
    if forecast > (cap := recipe["pack.cap"]):
        found.insert(0, f"forecast {forecast:,} bytes: {forecast - cap:,} over the cap of {cap:,}")
    return found


def caution(check: Caution) -> Caution:
    CAUTIONS.append(check)
    return check


# ---- what a recipe holds ---------------------------------------------------------------------------------------


def is_a(node: Spec[Any], *classes: type) -> bool:
    return isinstance(node.cls, type) and issubclass(node.cls, classes)


def uses(tree: Spec[Any], *classes: type) -> list[Spec[Any]]:
    """The nodes of these classes, or of ones derived from them, anywhere in a tree."""
    return [node for _, node in tree.walk() if is_a(node, *classes)]


def layers_of(recipe: Spec[Recipe], cls: type) -> list[int]:
    """The layers that have a part of this class; twice, where they have two."""
    found, count = [], recipe["model.layers"]
    for path, node in recipe["model.block"].walk():
        held = node["use"] if is_a(node, Only) else node
        if is_a(held, cls) and not path.endswith(".use"):
            found += range(count) if held is node or node["layers"] == "*" else layer_set(node["layers"], count)
    return found


def trained_length(recipe: Spec[Recipe]) -> int:
    """The longest distance between tokens in training, and one: a row, or a segment of it."""
    return min([recipe["train.length"], *(n["cap"] for n in uses(recipe["model"], Segments) if n["cap"])])


def longest_window(recipe: Spec[Recipe]) -> int:
    return max((method["window"] for method in recipe["score"]), default=0)


def shared_layers(recipe: Spec[Recipe]) -> list[Spec[Any]]:
    """What makes the model visit the same matrices more than once."""
    again = [n for n in uses(recipe, Visits) if len(set(n["order"])) < len(n["order"])]
    return again + uses(recipe, Loop, TieBlocks, UntiedRepeats)


def shared_at_once(node: Spec[Any]) -> bool:
    """Whether what visits layers again does so from the first step on."""
    return not (is_a(node, UntiedRepeats) or (is_a(node, Loop) and min(node["since"]) > 0))


def averaged_from(recipe: Spec[Recipe]) -> float:
    """The fraction of the run from which an average takes snapshots; 0 where a schedule does not tell it beforehand."""
    average, schedule = recipe["average"], recipe["train.schedule"]
    if "below" not in average.kwargs or schedule.cls is not WarmdownFraction:
        return 0.0
    return max(0.0, 1 - average["below"] * schedule["fraction"])


# ---- averaging and quantization --------------------------------------------------------------------------------


@caution
def average_over_two_objectives(recipe: Spec[Recipe]) -> Iterator[str]:
    since = max((n["since"] for n in uses(recipe["model"], TrainingView)), default=0.0)
    if recipe["average"] and since > averaged_from(recipe):
        name = recipe["average"].cls.__name__
        yield f"{name} over fake quantization from {since:g} of the run on averages weights of two objectives: EMA had +0.009 to +0.012 from it (#1493's harness), SWA lost what it gains alone (#989)"


@caution
def few_levels(recipe: Spec[Recipe]) -> Iterator[str]:
    if not uses(recipe, Ternary, Binary):
        return
    if recipe["average"]:
        yield "an average of ternary or binary weights rounds to other levels: EMA lost 0.13 on the way to the file with ternary ones (#640), 0.03 with binary ones (#641)"
    if any(n["weight_decay"] > 0 for n in uses(recipe, Muon)):
        yield "weight decay on ternary or binary weights moves their scale and not their levels, and was worse (#640)"


@caution
def average_too_long(recipe: Spec[Recipe]) -> Iterator[str]:
    for node in uses(recipe, Ema):
        steps = 0 if recipe["train.seconds"] > 0 else recipe["train.steps"]
        if node["decay"] >= 0.999 and not steps * (1 - node["decay"]) > 10:
            yield f"Ema(decay={node['decay']:g}) looks back {1 / (1 - node['decay']):,.0f} steps: 0.999 was worse than 0.997 in 7,300 steps (#1512)"
        if steps and not node["corrected"] and (left := node["decay"] ** steps) > 0.01:
            yield f"after {steps:,} steps Ema(decay={node['decay']:g}) is still {left:.0%} initial weights: set corrected=true, or a smaller decay"


@caution
def noisy_last_weights(recipe: Spec[Recipe]) -> Iterator[str]:
    floors = [n["floor"] for n in uses(recipe["train.schedule"], WarmdownFraction)]
    if any(floors) and not recipe["average"]:
        yield f"a learning rate that never falls under {max(floors):g} leaves noise in the last weights, and nothing averages it away: in #1855 the average was better by 0.0117"


@caution
def few_bits_for_the_embedding(recipe: Spec[Recipe]) -> Iterator[str]:
    codec = next((r["use"] for r in recipe["quantize"] if r().matches("embedding", "embed.weight")), None)
    if codec and codec.cls is IntRows and codec["bits"] <= 6 and not uses(recipe["model.embed"], TrainingView):
        yield f"an embedding in {codec['bits']} bits that was not trained for it: +0.048 with 6 bits (the record MixedQuant); 8 bits cost next to nothing"


@caution
def coarse_steps_for_small_rows(recipe: Spec[Recipe]) -> Iterator[str]:
    few = [n for n in uses(recipe, IntRows, FakeQuant, SoftRound) if n["bits"] <= 6]
    coarse = {n["floor"] for n in few if n["floor"] * (2 ** (n["bits"] - 1) - 1) > 0.999}
    if coarse and any(n["weight_decay"] > 0 for n in uses(recipe, Muon)):
        yield f"a step is never under {min(coarse):.3f}: a row whose largest weight is under 1 gets fewer levels than its bits allow, and weight decay makes rows small (so in #265 to #1285)"


# ---- positions, windows, documents -----------------------------------------------------------------------------


@caution
def longer_than_trained(recipe: Spec[Recipe]) -> Iterator[str]:
    caps = [n["cap"] for n in uses(recipe["model"], Segments) if n["cap"]]
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
            mixer = recipe["model.block.mixer"]
            heads = mixer["heads"] * (2 if is_a(mixer, DifferentialAttention) else 1)
            base = scaling().base(rope["base"], rope["dims"] or recipe["model.dim"] // heads)
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
def offset_keys_and_adaptation(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe["model"], KeyOffset) and any(getattr(m.cls, "adapts", False) for m in recipe["score"]):
        yield "KeyOffset with adaptation while scoring: +0.02 after adaptation (#1493's harness)"


@caution
def idle_windows(recipe: Spec[Recipe]) -> Iterator[str]:
    trained = trained_length(recipe)
    for node in uses(recipe["model"], Window):
        if node["width"] >= trained - 1:
            yield f"Window(width={node['width']}) hides nothing in rows of {trained:,} tokens: in longer texts the model meets windows that it never trained with (the reverse fell from 1.14 to 2.4 at int6, #1512)"


@caution
def documents_in_one_row(recipe: Spec[Recipe]) -> Iterator[str]:
    if recipe["train.order"].cls is Packed and not uses(recipe["model"], SameDocument, Segments):
        yield f"Packed puts many documents into a row of {recipe['train.length']:,} tokens, and attention runs over all of it: #1530 kept it within each with Segments"


@caution
def leaks_past_the_mask(recipe: Spec[Recipe]) -> Iterator[str]:
    if not uses(recipe["model"], SameDocument, Segments):
        return
    names = {n.cls.__name__ for _, n in recipe["model"].walk() if n.kwargs.get("mask_starts") is False}
    if names:
        yield f"attention stays within documents, and {', '.join(sorted(names))} looks back over their starts (mended for the smear in #1851): set mask_starts=true"


# ---- blocks, depth, losses, steps ------------------------------------------------------------------------------


@caution
def value_residual_on_shared_layers(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe, FirstValues) and shared_layers(recipe):
        yield "a value residual where layers are visited again: +0.14 (#363), as the first layer's values are stale by then"


@caution
def shared_from_the_start(recipe: Spec[Recipe]) -> Iterator[str]:
    if not any(map(shared_at_once, shared_layers(recipe))):
        return
    yield "layers shared from the first step on: 1.1894 where eleven plain layers had 1.1648 (#363); passes that came on in mid-training gained 0.003 (#1285)"
    if set(layers_of(recipe, ExclusiveSelf)) == set(range(recipe["model.layers"])):
        yield "ExclusiveSelf on every layer where layers are shared from the start: +0.001 (#363)"


@caution
def factored_small_vocabulary(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe, FactoredEmbedding) and recipe["tokens.vocab"] < 4096:
        yield f"a factored embedding at a vocabulary of {recipe['tokens.vocab']:,}: +0.053 to +0.063 at 1,024 (#363); it frees bytes only where the table is large"


@caution
def more_than_one_gate(recipe: Spec[Recipe]) -> Iterator[str]:
    gated = layers_of(recipe, HeadGate)
    if len(gated) > len(set(gated)):
        yield "two gates on one attention output: #1787 refuses that, and no published system has it"


@caution
def saturated_logits(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe, QuinticCap) and not uses(recipe, ZLoss):
        yield "QuinticCap gives a logit beyond 1.69 caps no gradient, and #640 had ZLoss beside it to keep logits small"


@caution
def inflated_loss(recipe: Spec[Recipe]) -> Iterator[str]:
    if any(not n["normalised"] for n in uses(recipe, EntropyWeighted)):
        yield "EntropyWeighted(normalised=false) makes loss and gradient up to 1.5 times as large, which broke convergence (#675)"


@caution
def cautious_decay(recipe: Spec[Recipe]) -> Iterator[str]:
    if any(n["cautious"] for n in uses(recipe, Muon, Adam)):
        yield "cautious weight decay: 1.1375 where plain decay had 1.115, sliding at int6 (#1512)"


@caution
def ramp_beside_a_decay(recipe: Spec[Recipe]) -> Iterator[str]:
    for node in uses(recipe, Muon, Adam):
        if node["decay"] and is_a(node["decay"], RampDecay) and node["weight_decay"] != 1.0:
            yield f"RampDecay is the weight decay itself, and weight_decay={node['weight_decay']:g} multiplies it: #675 had its values alone, which is weight_decay=1"


@caution
def branches_still_fading_in(recipe: Spec[Recipe]) -> Iterator[str]:
    steps = 0 if recipe["train.seconds"] > 0 else recipe["train.steps"]
    for node in uses(recipe, ProRes):
        last = node["first"] + node["per_layer"] * (recipe["model.layers"] - 1)
        if 0 < steps < last:
            yield f"ProRes has the last layer whole after {last:,} steps, and training ends after {steps:,}: what is scored was never trained"


@caution
def slow_under_a_limit_of_time(recipe: Spec[Recipe]) -> Iterator[str]:
    if recipe["train.seconds"] <= 0:
        return
    if uses(recipe, SwiGLU):
        yield "SwiGLU under a limit of time: better at equal parameters (-0.004, #1090), and worse at equal time, with steps 45 % slower (#42)"
    if uses(recipe, DifferentialAttention):
        yield "DifferentialAttention under a limit of time: equal at equal steps, which took about twice as long (#675)"
    if uses(recipe, GramNewtonSchulz) and recipe["model.dim"] < 1024:
        yield f"GramNewtonSchulz at width {recipe['model.dim']}: at 512 a step took 97 to 99 ms, and 83 without it (#1512); it is for much larger matrices"


@caution
def tried_and_worse(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe, SharedMultiToken):
        yield "SharedMultiToken scores one set of logits against two targets: +0.025 before quantization (#1493's harness)"
    if uses(recipe, BatchRamp):
        yield "BatchRamp: smaller batches at first were worse by 0.01 to 0.02 in each form tried (#1512)"
