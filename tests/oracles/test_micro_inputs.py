"""Hashed bigrams and the four smears against values computed with the published scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.ngram_embedding import HashedNGramEmbedding, XorNGramHash
from bitgolf.model.smear import BlendSmear, ContentSmear, KeepSmear, RunningMeanSmear

AT = BuildContext(vocab=8192, dim=16)
NO_BOS = torch.full((2, 10), 5)


@pytest.fixture(scope="module")
def micro(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles" / "micro.safetensors")


@torch.no_grad()
def put(part: nn.Module, name: str, value: Tensor) -> None:
    part.get_parameter(name).copy_(value.reshape(part.get_parameter(name).shape))


@pytest.mark.parametrize("rows", [192, 256, 2048, 3072, 4096, 10240])
def test_xor_hash_of_pairs(micro: dict[str, Tensor], rows: int) -> None:
    previous, current = micro["bigram/pairs_prev_cur"].unbind(1)
    assert torch.equal(XorNGramHash().bucket_ids([current, previous], rows), micro[f"bigram/index_N{rows}"])


def test_xor_hash_of_a_sequence(micro: dict[str, Tensor]) -> None:
    part = HashedNGramEmbedding(AT, buckets=3072, width=4, trigrams=True)
    ids = part.tokens(ForwardContext(micro["bigram/seq"]))
    assert torch.equal(part.hash.bucket_ids(ids[:2], 3072), micro["bigram/seq_index_N3072"])
    assert torch.equal(part.hash.bucket_ids(ids, 3072), micro["bigram/seq_trigram_index_N3072"])


@pytest.mark.parametrize("source", ["pr164", "pr1512", "pr1090"])
def test_vector_smears(micro: dict[str, Tensor], source: str) -> None:
    """The oracle is `BlendSmear`. `KeepSmear` gives the weight of the current token, so it is equal with -theta."""
    blend, keep = BlendSmear(AT, mask_starts=False), KeepSmear(AT, mask_starts=False)
    put(blend, "theta", micro["smear/theta"])
    put(keep, "theta", -micro["smear/theta"])
    for part in (blend, keep):
        out = part(micro["smear/x"], ForwardContext(NO_BOS))
        assert (out - micro[f"smear/out_v1p_{source}"]).abs().max() < 1e-6


@pytest.mark.parametrize("mask_starts", [True, False])
def test_mean_smear(micro: dict[str, Tensor], mask_starts: bool) -> None:
    part = RunningMeanSmear(AT, mask_starts=mask_starts)
    put(part, "theta", micro["smear/theta"])
    assert (part(micro["smear/x"], ForwardContext(NO_BOS)) - micro["smear/out_cummean_640"]).abs().max() < 2e-6


@pytest.mark.parametrize(("mask_starts", "name"), [(True, "out"), (False, "out_without_bos_mask")])
def test_content_smear(micro: dict[str, Tensor], mask_starts: bool, name: str) -> None:
    part = ContentSmear(AT, mask_starts=mask_starts)
    put(part, "gate", micro["smear_v2/gate_weight"])
    put(part, "scale", micro["smear_v2/lambda"])
    ids = micro["smear_v2/ids"]
    out = part(micro["smear_v2/embedding"][ids], ForwardContext(ids))
    assert (out - micro[f"smear_v2/{name}"]).abs().max() < 1e-6
