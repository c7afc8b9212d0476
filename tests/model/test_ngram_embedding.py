"""Hashed n-gram embeddings: the published hash functions, missing tokens, the output, and the initial values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.inits import NormalInit, OrthogonalInit, ZeroInit
from bitgolf.model.linear import Linear
from bitgolf.model.ngram_embedding import (
    HashedNGramEmbedding,
    MultiplicativeNGramHash,
    NGramHash,
    PreviousTokenEmbedding,
    XorNGramHash,
)
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.model.smear import ContentSmear
from helpers.toy import VOCAB, toy_model

AT = BuildContext(vocab=VOCAB, dim=16)
BIGRAMS = part(HashedNGramEmbedding, buckets=97, width=8, mask_starts=True)


@pytest.fixture
def ids() -> Tensor:
    ids = torch.randint(2, VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))
    ids[0, [0, 5, 6, 13]] = 1
    ids[1, 9] = 1  # the second row starts in the middle of a document
    return ids


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(1))


def disturbed(node: Spec[HashedNGramEmbedding]) -> HashedNGramEmbedding:
    torch.manual_seed(0)
    made = node(AT)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.7 * torch.randn_like(p))
    return made


@pytest.mark.parametrize("hash", [XorNGramHash(), MultiplicativeNGramHash(), MultiplicativeNGramHash(multiplier=31)])
@pytest.mark.parametrize("rows", [2, 100, 4096])
def test_hashes_stay_in_range_and_are_functions_of_the_pair(hash: NGramHash, rows: int) -> None:
    previous, current = torch.randint(0, 70_000, (2, 500), generator=torch.Generator().manual_seed(0))
    slots = hash.bucket_ids([current, previous], rows)
    assert slots.dtype is torch.int64
    assert slots.min() >= 0
    assert slots.max() < rows
    assert torch.equal(slots, hash.bucket_ids([current.clone(), previous.clone()], rows))


def test_product_hash() -> None:
    previous, current = torch.tensor([-1, 0, 3, 8191]), torch.tensor([7, 7, 5, 8190])
    for multiplier in (92821, 31):
        wanted = [(multiplier * max(p, 0) + c) % 4096 for p, c in zip(previous.tolist(), current.tolist(), strict=True)]
        assert MultiplicativeNGramHash(multiplier=multiplier).bucket_ids([current, previous], 4096).tolist() == wanted


def test_xor_hash_wraps_around_as_32_bits() -> None:
    previous, current = 60_001, 70_003  # 36313 * 70003 exceeds 2**31
    mixed = (36313 * current ^ 27191 * previous) & 0xFFFFFFFF
    wanted = (mixed - 2**32 if mixed >= 2**31 else mixed) % 4095
    assert mixed >= 2**31, "the example must exceed int32"
    assert XorNGramHash().bucket_ids([torch.tensor([current]), torch.tensor([previous])], 4096).tolist() == [wanted]


@pytest.mark.parametrize("mask_starts", [True, False])
def test_the_reserved_row_is_for_where_tokens_are_missing(mask_starts: bool, ids: Tensor) -> None:
    """Without `mask_starts` at t = 0 only (for trigrams also t = 1); with it at every document start."""
    bigrams = part(HashedNGramEmbedding, buckets=5000, width=4, trigrams=True, mask_starts=mask_starts)(AT)
    tokens = bigrams.tokens(ForwardContext(ids))
    pairs, triples = bigrams.hash.bucket_ids(tokens[:2], 5000) == 4999, bigrams.hash.bucket_ids(tokens, 5000) == 4999
    starts, t = (ids == 1) & mask_starts, torch.arange(20)
    after = torch.cat([torch.zeros(2, 1, dtype=torch.bool), starts[:, :-1]], 1)
    assert torch.equal(pairs, starts | (t == 0))
    assert torch.equal(triples, starts | after | (t <= 1))


def test_a_masked_start_hides_the_token_before(ids: Tensor, x: Tensor) -> None:
    other = ids.clone()
    other[0, 4] = ids[0, 4] % (VOCAB - 2) + 2  # the last token before the document start at 5
    for mask_starts in (True, False):
        bigrams = disturbed(part(HashedNGramEmbedding, buckets=5000, width=4, mask_starts=mask_starts))
        moved = (bigrams(x, ForwardContext(ids)) - bigrams(x, ForwardContext(other))).abs().amax(-1) > 1e-6
        assert moved[0, 5] != mask_starts
        assert moved.nonzero().tolist() == [[0, 4]] + ([] if mask_starts else [[0, 5]])


def test_what_bigrams_add(ids: Tensor, x: Tensor) -> None:
    for trigrams in (False, True):
        bigrams = disturbed(part(HashedNGramEmbedding, buckets=97, width=4, trigrams=trigrams))
        tokens = bigrams.tokens(ForwardContext(ids))
        rows = bigrams.table.weight[bigrams.hash.bucket_ids(tokens[:2], 97)]
        if trigrams:
            rows = rows + bigrams.table.weight[bigrams.hash.bucket_ids(tokens, 97)]
        assert bigrams.scale is not None
        assert torch.allclose(
            bigrams(x, ForwardContext(ids)), x + bigrams.scale * (rows @ bigrams.project.weight.T), atol=1e-5
        )


def test_both_published_starts_add_nothing_and_learn(ids: Tensor, x: Tensor) -> None:
    """#164: zero table, orthogonal projection, scale 0.05. #65: normal table, zero projection, no scale."""
    at = AT._replace(dim=64)
    forms = {
        "table.weight": part(
            HashedNGramEmbedding, buckets=97, width=64, project=part(Linear, init=part(OrthogonalInit, gain=0.25))
        ),
        "project.weight": part(
            HashedNGramEmbedding,
            buckets=97,
            width=64,
            hash=part(MultiplicativeNGramHash),
            scale=None,
            table_init=part(NormalInit, std=0.01),
            project=part(Linear, init=part(ZeroInit)),
        ),
    }
    wide = torch.cat([x] * 4, -1)
    for learns, node in forms.items():
        bigrams = node(at)
        out = bigrams(wide, ForwardContext(ids))
        assert torch.equal(out, wide)
        out.square().sum().backward()
        grad = bigrams.get_parameter(learns).grad
        assert grad is not None
        assert grad.any()
    first, second = (node(at) for node in forms.values())
    assert torch.linalg.svdvals(first.project.weight).allclose(torch.tensor(0.25), atol=1e-5)
    assert first.scale is not None
    assert first.scale.item() == pytest.approx(0.05)
    assert second.scale is None
    assert second.table.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_rules_tell_the_projection_from_other_matrices(ids: Tensor) -> None:
    """Published scripts train P with Adam (banked) or with Muon; a rule by path selects it."""
    model = toy_model().replace(post_embed=(BIGRAMS, part(EmbeddingNorm), part(ContentSmear)))(
        BuildContext(vocab=VOCAB)
    )
    found = parameter_roles(model)
    assert {k: v for k, v in found.items() if k.startswith("post_embed")} == {
        "post_embed.0.table.weight": "embedding",
        "post_embed.0.project.weight": "matrix",
        "post_embed.0.scale": "scale",
        "post_embed.2.gate": "gate",
        "post_embed.2.scale": "scale",
    }
    wheres = ("@post_embed.*.project.weight", "matrix", "embedding", "*")
    taken = assign_to_rules([part(Rule, where=where, use=part(XorNGramHash)) for where in wheres], found)
    assert taken[0] == ["post_embed.0.project.weight"]
    assert taken[2] == ["embed.weight", "post_embed.0.table.weight"]


def test_a_table_without_rows_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"buckets: must be from 2 to 16,777,216, got 1"):
        part(HashedNGramEmbedding, buckets=1, width=4)(AT)


@pytest.mark.parametrize("mask_starts", [True, False])
def test_the_table_by_the_previous_token(ids: Tensor, x: Tensor, mask_starts: bool) -> None:
    """Row 0 before the first token, and with masked starts at document starts."""
    layer = part(PreviousTokenEmbedding, table_init=part(NormalInit, std=1.0), mask_starts=mask_starts)(AT)
    expected = x.clone()
    for b in range(2):
        for t in range(20):
            missing = t == 0 or (mask_starts and ids[b, t] == 1)
            expected[b, t] += layer.table.weight[0 if missing else ids[b, t - 1]]
    assert torch.equal(layer(x, ForwardContext(ids)), expected)
    assert parameter_roles(layer) == {"table.weight": "embedding"} and layer.table.weight.shape == (VOCAB, 16)
    assert not part(PreviousTokenEmbedding)(AT).table.weight.any(), "zero in a new model"
