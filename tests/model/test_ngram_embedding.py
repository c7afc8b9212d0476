"""Hashed bigrams: the three published hashes, where tokens are missing, what is added, how it starts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import Place
from bitgolf.config.rules import Rule, cover
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import Bus
from bitgolf.model.inits import Normal, Orthogonal, Zeros
from bitgolf.model.linear import Linear
from bitgolf.model.ngram_embedding import Hash, HashedBigrams, ProductHash, XorHash
from bitgolf.model.parameters import roles
from bitgolf.model.residual import Normalize
from bitgolf.model.smear import ContentSmear
from helpers.toy import VOCAB, toy_model

AT = Place(vocab=VOCAB, dim=16)
BIGRAMS = part(HashedBigrams, rows=97, width=8, mask_starts=True)


@pytest.fixture
def ids() -> Tensor:
    ids = torch.randint(2, VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))
    ids[0, [0, 5, 6, 13]] = 1
    ids[1, 9] = 1  # this row starts in the middle of a document
    return ids


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(1))


def disturbed(node: Spec[HashedBigrams]) -> HashedBigrams:
    torch.manual_seed(0)
    made = node(AT)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.7 * torch.randn_like(p))
    return made


@pytest.mark.parametrize("hash", [XorHash(), ProductHash(), ProductHash(multiplier=31)])
@pytest.mark.parametrize("rows", [2, 100, 4096])
def test_hashes_stay_in_range_and_are_functions_of_the_pair(hash: Hash, rows: int) -> None:
    previous, current = torch.randint(0, 70_000, (2, 500), generator=torch.Generator().manual_seed(0))
    slots = hash.slots([current, previous], rows)
    assert slots.dtype is torch.int64
    assert slots.min() >= 0
    assert slots.max() < rows
    assert torch.equal(slots, hash.slots([current.clone(), previous.clone()], rows))


def test_product_hash() -> None:
    previous, current = torch.tensor([-1, 0, 3, 8191]), torch.tensor([7, 7, 5, 8190])
    for multiplier in (92821, 31):
        wanted = [(multiplier * max(p, 0) + c) % 4096 for p, c in zip(previous.tolist(), current.tolist(), strict=True)]
        assert ProductHash(multiplier=multiplier).slots([current, previous], 4096).tolist() == wanted


def test_xor_hash_wraps_around_as_32_bits() -> None:
    previous, current = 60_001, 70_003  # 36313 * 70003 is beyond 2**31
    mixed = (36313 * current ^ 27191 * previous) & 0xFFFFFFFF
    wanted = (mixed - 2**32 if mixed >= 2**31 else mixed) % 4095
    assert mixed >= 2**31, "an example that does wrap"
    assert XorHash().slots([torch.tensor([current]), torch.tensor([previous])], 4096).tolist() == [wanted]


@pytest.mark.parametrize("mask_starts", [True, False])
def test_the_reserved_row_is_for_where_tokens_are_missing(mask_starts: bool, ids: Tensor) -> None:
    """Without the mask at t = 0 alone (and 1, for three tokens); with it at every document's start."""
    bigrams = part(HashedBigrams, rows=5000, width=4, trigrams=True, mask_starts=mask_starts)(AT)
    tokens = bigrams.tokens(Bus(ids))
    pairs, triples = bigrams.hash.slots(tokens[:2], 5000) == 4999, bigrams.hash.slots(tokens, 5000) == 4999
    starts, t = (ids == 1) & mask_starts, torch.arange(20)
    after = torch.cat([torch.zeros(2, 1, dtype=torch.bool), starts[:, :-1]], 1)
    assert torch.equal(pairs, starts | (t == 0))
    assert torch.equal(triples, starts | after | (t <= 1))


def test_a_masked_start_hides_the_token_before(ids: Tensor, x: Tensor) -> None:
    other = ids.clone()
    other[0, 4] = ids[0, 4] % (VOCAB - 2) + 2  # the last token before the start at 5
    for mask_starts in (True, False):
        bigrams = disturbed(part(HashedBigrams, rows=5000, width=4, mask_starts=mask_starts))
        moved = (bigrams(x, Bus(ids)) - bigrams(x, Bus(other))).abs().amax(-1) > 1e-6
        assert moved[0, 5] != mask_starts
        assert moved.nonzero().tolist() == [[0, 4]] + ([] if mask_starts else [[0, 5]])


def test_what_bigrams_add(ids: Tensor, x: Tensor) -> None:
    for trigrams in (False, True):
        bigrams = disturbed(part(HashedBigrams, rows=97, width=4, trigrams=trigrams))
        tokens = bigrams.tokens(Bus(ids))
        rows = bigrams.table.weight[bigrams.hash.slots(tokens[:2], 97)]
        if trigrams:
            rows = rows + bigrams.table.weight[bigrams.hash.slots(tokens, 97)]
        assert bigrams.scale is not None
        assert torch.allclose(bigrams(x, Bus(ids)), x + bigrams.scale * (rows @ bigrams.project.weight.T), atol=1e-5)


def test_both_published_starts_add_nothing_and_learn(ids: Tensor, x: Tensor) -> None:
    """#164: a zero table, an orthogonal projection, scale 0.05. #65: a normal table, a zero projection, no scale."""
    at = AT._replace(dim=64)
    forms = {
        "table.weight": part(HashedBigrams, rows=97, width=64, project=part(Linear, init=part(Orthogonal, gain=0.25))),
        "project.weight": part(
            HashedBigrams,
            rows=97,
            width=64,
            hash=part(ProductHash),
            scale=None,
            table=part(Normal, std=0.01),
            project=part(Linear, init=part(Zeros)),
        ),
    }
    wide = torch.cat([x] * 4, -1)
    for learns, node in forms.items():
        bigrams = node(at)
        out = bigrams(wide, Bus(ids))
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
    """The records give P to Adam (banked) or to Muon; a rule by path says which."""
    model = toy_model().but(enter=(BIGRAMS, part(Normalize), part(ContentSmear)))(Place(vocab=VOCAB))
    found = roles(model)
    assert {k: v for k, v in found.items() if k.startswith("enter")} == {
        "enter.0.table.weight": "embedding",
        "enter.0.project.weight": "matrix",
        "enter.0.scale": "scale",
        "enter.2.gate": "gate",
        "enter.2.scale": "scale",
    }
    wheres = ("@enter.*.project.weight", "matrix", "embedding", "*")
    taken = cover([part(Rule, where=where, use=part(XorHash)) for where in wheres], found)
    assert taken[0] == ["enter.0.project.weight"]
    assert taken[2] == ["embed.weight", "enter.0.table.weight"]


def test_a_table_without_rows_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"holds no bigrams"):
        part(HashedBigrams, rows=1, width=4)(AT)
