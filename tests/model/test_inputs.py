"""Parts on the residual stream before and between blocks: the four smears, their placement, mixing with x0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStreamPart
from bitgolf.model.lm import LM
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.numerics import rms_norm
from bitgolf.model.residual import DepthMixX0, EmbeddingNorm, MixX0
from bitgolf.model.smear import BlendSmear, ContentSmear, KeepSmear, RunningMeanSmear
from helpers.toy import VOCAB, built, toy_model

AT = BuildContext(vocab=VOCAB, dim=16)
STARTS = (0, 5, 6, 13)  # in the first row; the second row starts in the middle of a document
SMEARS = [KeepSmear, BlendSmear, ContentSmear, RunningMeanSmear]


@pytest.fixture
def ids() -> Tensor:
    ids = torch.randint(2, VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))
    ids[0, list(STARTS)] = 1
    ids[1, 9] = 1
    return ids


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(1))


def disturbed(node: Spec[Any]) -> ResidualStreamPart:
    torch.manual_seed(0)
    made = node(AT)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.7 * torch.randn_like(p))
    return made


# ---- smears ----------------------------------------------------------------------------------------------------------


def test_what_a_smear_does_at_the_start(x: Tensor, ids: Tensor) -> None:
    """Initial weights of the current token: 0.953, 0.5, and 1 for the identity; zeros precede the first position."""
    before = torch.cat([torch.zeros(2, 1, 16), x[:, :-1]], 1)
    middle = ids != 1
    for cls, own in [(KeepSmear, 0.95257), (BlendSmear, 0.5)]:
        out = part(cls)(AT)(x, ForwardContext(ids))
        assert torch.allclose(out[middle], (own * x + (1 - own) * before)[middle], atol=1e-4)
    for cls in (ContentSmear, RunningMeanSmear):
        assert torch.equal(part(cls)(AT)(x, ForwardContext(ids)), x)


@pytest.mark.parametrize("cls", SMEARS)
def test_a_document_starts_with_its_own_embedding(cls: type, x: Tensor, ids: Tensor) -> None:
    masked = disturbed(part(cls))(x, ForwardContext(ids))
    assert torch.equal(masked[ids == 1], x[ids == 1])
    faithful = disturbed(part(cls, mask_starts=False))(x, ForwardContext(ids))
    inner = (ids == 1) & (torch.arange(20) > 0)
    assert ((faithful - x)[inner].abs().amax(-1) > 1e-2).all(), "published: mixes in the previous document"


@pytest.mark.parametrize("cls", SMEARS)
def test_documents_packed_and_alone_are_the_same(cls: type, x: Tensor, ids: Tensor) -> None:
    smear = disturbed(part(cls))
    packed = smear(x, ForwardContext(ids))
    for start, end in zip(STARTS, (*STARTS[1:], 20), strict=True):
        alone = smear(x[:1, start:end], ForwardContext(ids[:1, start:end]))
        assert torch.allclose(packed[:1, start:end], alone, atol=1e-5)


@pytest.mark.parametrize("cls", SMEARS)
@pytest.mark.parametrize("mask_starts", [True, False])
def test_a_smear_is_causal_and_the_first_position_hears_nobody(cls: type, mask_starts: bool, x: Tensor) -> None:
    """d out_t / d x_s is nonzero only for s = t and s = t-1 (for the mean, for all s <= t)."""
    smear, ids = disturbed(part(cls, mask_starts=mask_starts)), torch.full((1, 6), 5)

    def total(x: Tensor) -> Tensor:
        return smear(x[None], ForwardContext(ids))[0].sum(-1)

    reach = torch.autograd.functional.jacobian(total, x[0, :6]).abs().sum(-1) > 1e-5
    seen = torch.ones(6, 6).tril() if cls is RunningMeanSmear else torch.ones(6, 6).tril().triu(-1)
    assert torch.equal(reach, seen.bool())


def test_mean_smear_against_a_plain_loop(x: Tensor, ids: Tensor) -> None:
    smear = disturbed(part(RunningMeanSmear))
    share = smear.get_parameter("theta").double().tanh()
    out = smear(x, ForwardContext(ids)).double()
    for b in range(2):
        first = 0
        for t in range(20):
            first = t if ids[b, t] == 1 else first
            here = x[b, t].double()
            assert torch.allclose(out[b, t], here + share * (x[b, first : t + 1].double().mean(0) - here), atol=1e-5)


def test_content_smear_asks_the_token_at_hand(x: Tensor) -> None:
    smear = disturbed(part(ContentSmear, width=4))
    gate, scale = smear.get_parameter("gate"), smear.get_parameter("scale")
    out = smear(x, ForwardContext(torch.full((2, 20), 5)))
    opened = scale * (x[:, 1:, :4] * gate[0]).sum(-1, keepdim=True).sigmoid()
    assert torch.allclose(out[:, 1:], x[:, 1:] + opened * x[:, :-1], atol=1e-5)
    assert torch.equal(out[:, 0], x[:, 0])
    with pytest.raises(RecipeError, match=r"must be between 1 and 16, got 17"):
        part(ContentSmear, width=17)(AT)


# ---- placement -------------------------------------------------------------------------------------------------------

BIGRAMS = part(HashedNGramEmbedding, buckets=97, width=8, mask_starts=True)
PLACEMENTS = {
    "#65, before the norm": (BIGRAMS, part(KeepSmear), part(EmbeddingNorm)),
    "#164, after it": (BIGRAMS, part(EmbeddingNorm), part(BlendSmear)),
    "#1855, on the raw embedding": (part(ContentSmear), part(EmbeddingNorm)),
    "#641, on the stream": (part(EmbeddingNorm), part(RunningMeanSmear)),
}


@pytest.mark.parametrize("enter", PLACEMENTS.values(), ids=PLACEMENTS.keys())
def test_before_the_blocks(enter: tuple[Spec[ResidualStreamPart], ...], ids: Tensor) -> None:
    """x0 is the output of the chain, and incremental decoding gives the same logits."""
    model = built(toy_model().replace(post_embed=enter))
    context = ForwardContext(ids)
    whole = model.logits(model.hidden(context))
    x = model.embed(ids)
    for p in model.post_embed:
        x = p(x, ForwardContext(ids))
    assert context.x0 is not None
    assert torch.equal(context.x0, x)
    rows = ids[:1]  # IncrementalDecoder starts with BOS, as this row does
    reader = IncrementalDecoder(model, 1, window=32, stride=16)
    for t in range(1, 20):
        assert (reader.logits - whole[:1, t - 1]).abs().max() < 1e-4
        reader.step(rows[:, t])


def test_the_two_sides_of_the_norm_differ(ids: Tensor) -> None:
    torch.manual_seed(0)
    spec = toy_model()
    before = spec.replace(post_embed=(part(KeepSmear, init=0.0), part(EmbeddingNorm)))(BuildContext(vocab=VOCAB))
    after = spec.replace(post_embed=(part(EmbeddingNorm), part(BlendSmear)))(BuildContext(vocab=VOCAB))
    after.embed.load_state_dict(before.embed.state_dict())
    e, inner = before.embed(ids), (ids != 1)[:, 1:]
    states = []
    for model in (before, after):
        context = ForwardContext(ids)
        model.hidden(context)
        assert context.x0 is not None
        states.append(context.x0[:, 1:][inner])
    assert torch.allclose(states[0], rms_norm((e[:, 1:] + e[:, :-1]) / 2)[inner], atol=1e-5)
    assert torch.allclose(states[1], ((rms_norm(e[:, 1:]) + rms_norm(e[:, :-1])) / 2)[inner], atol=1e-5)


@pytest.mark.parametrize("mask_starts", [True, False])
def test_documents_in_one_row_are_apart(mask_starts: bool) -> None:
    """The document mask of attention is not enough: the input parts need `mask_starts` to isolate documents."""
    one, two = (torch.randint(2, VOCAB, (1, 20), generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    for ids in (one, two):
        ids[0, [0, 10]] = 1
    two[0, 10:] = one[0, 10:]
    masks = {"mask_starts": mask_starts}
    bigrams = BIGRAMS.replace(trigrams=True, **masks)
    enter = (
        bigrams,
        part(ContentSmear, **masks),
        part(EmbeddingNorm),
        part(BlendSmear, **masks),
        part(RunningMeanSmear, **masks),
    )
    model = built(toy_model().replace(post_embed=enter).edit(SDPACore, append(masks=part(DocumentMask))))
    assert torch.allclose(model(one)[:, 10:], model(two)[:, 10:], atol=1e-5) == mask_starts


def test_at_the_start_the_model_is_its_embedding(ids: Tensor) -> None:
    """With parts that are the identity at initialization, the logits are those of the embedding alone."""
    enter = (BIGRAMS, part(ContentSmear), part(EmbeddingNorm), part(RunningMeanSmear))
    model = toy_model().replace(post_embed=enter)(BuildContext(vocab=VOCAB))
    x = rms_norm(rms_norm(model.embed(ids)))
    assert torch.allclose(model(ids), model.logits(x), atol=1e-6)


# ---- the mix with the first state ------------------------------------------------------------------------------------


def test_phase_mix_goes_from_the_first_state_to_the_stream() -> None:
    first = [DepthMixX0(AT._replace(layers=10, layer=i)).weight for i in range(10)]
    assert all(torch.allclose(w.sum(0), torch.ones(())) for w in first)
    kept = [w[0].unique().item() for w in first]
    assert kept[0] == pytest.approx(0.18243, abs=1e-4)
    assert kept[9] == pytest.approx(0.81757, abs=1e-4)
    assert kept == sorted(kept)
    assert kept[3] == pytest.approx(1 / (1 + 2.718281828 ** -(3 * (3 / 9 - 0.5))), abs=1e-6)
    flat = DepthMixX0(AT._replace(layers=10, layer=9), steepness=0.0)
    assert torch.allclose(flat.weight, torch.tensor(0.5))


def test_phase_mix_is_the_same_map_as_the_plain_one(x: Tensor, ids: Tensor) -> None:
    phase, plain = DepthMixX0(AT._replace(layers=3, layer=1)), MixX0(AT)
    plain.load_state_dict(phase.state_dict())
    context = ForwardContext(ids)
    context.x0 = x.flip(0)
    assert torch.equal(phase(x, context), plain(x, context))
    assert torch.allclose(phase(x, context), 0.5 * x + 0.5 * x.flip(0))


def test_phase_mix_stands_in_a_layer() -> None:
    with pytest.raises(RecipeError, match=r"must be a part of a block"):
        DepthMixX0(AT)
    alone: Spec[LM] = toy_model().replace(layers=1).edit("block", replace(pre_block=(part(DepthMixX0),)))
    assert alone(BuildContext(vocab=VOCAB))
