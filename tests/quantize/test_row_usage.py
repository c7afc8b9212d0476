"""Uses of the rows of tables in the training text, and the sensitivities that follow from them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.data.shards import TokenStream, write_shard
from bitgolf.model.attention.values import ValueEmbedding
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.head import UntiedHead
from bitgolf.model.lm import LM
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.quantize.calibration import row_usage
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from bitgolf.quantize.calibration.row_usage import (
    PRIOR_USES,
    count_row_usage,
    lookup_sensitivity,
    row_fisher,
    row_frequencies,
)
from bitgolf.runtime.distributed import DistributedContext
from helpers.toy import VOCAB, built, toy_model

TABLES: dict[str, Spec[LM]] = {
    "plain": toy_model(),
    "untied head": toy_model().replace(head=part(UntiedHead)),
    "factored": toy_model().replace(embed=part(FactoredEmbedding, width=12)),
    "bigrams": toy_model().replace(
        post_embed=(part(HashedNGramEmbedding, buckets=16, width=8, trigrams=True), part(EmbeddingNorm))
    ),
    "values": toy_model().replace(post_embed=(part(ValueEmbedding, width=8, value_dim=16), part(EmbeddingNorm))),
}
TABLE = "post_embed.0.table.weight"


@pytest.fixture
def text(tmp_path: Path) -> TokenStream:
    """100 tokens in two shards."""
    ids = np.random.default_rng(0).integers(2, VOCAB, 100)
    for i, own in enumerate((ids[:37], ids[37:])):
        write_shard(tmp_path / f"train_{i}.bin", own)
    return TokenStream(sorted(tmp_path.glob("*.bin")))


@pytest.mark.parametrize("name", TABLES)
def test_counts_are_those_of_a_forward_pass_over_the_text(name: str, text: TokenStream) -> None:
    model = built(TABLES[name])
    ids = torch.from_numpy(text.window(0, 100))[None]
    want = observe(model, [ids]).lookup_counts
    if name == "untied head":
        want["head.linear.weight"] = want["embed.weight"]
    got = count_row_usage(model, text, 1000)
    assert got.keys() == want.keys() and len(got) == (1 if name in ("plain", "factored") else 2)
    for path, counts in want.items():
        assert got[path].dtype == torch.int64 and torch.equal(got[path].float(), counts), path


@pytest.mark.parametrize("tokens", [5, 40, 99, 100, 1000])
@pytest.mark.parametrize("processes", [1, 3])
def test_processes_share_blocks_that_do_not_overlap(
    text: TokenStream, tokens: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_usage, "BLOCK_TOKENS", 7)
    ranks = [DistributedContext(rank=rank, world_size=processes) for rank in range(processes)]
    read = sorted(block for rank in ranks for block in row_usage._blocks(len(text), tokens, rank))
    assert sum(length for _, length in read) == min(tokens, len(text))
    assert all(start + length <= after for (start, length), (after, _) in pairwise(read))
    assert read == sorted(row_usage._blocks(len(text), tokens, DistributedContext()))
    if tokens == 40:
        assert read[-1][0] > 80, "the blocks are spread over the whole text"


def test_counts_do_not_depend_on_the_number_of_processes(text: TokenStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks for three processes: one counts nothing, and takes part in the reduction."""
    model, found = built(TABLES["plain"]), list[Tensor]()
    monkeypatch.setattr(row_usage, "BLOCK_TOKENS", 60)
    monkeypatch.setattr(row_usage, "all_reduce_sum", lambda x, _: x)
    for rank in range(3):
        found.append(count_row_usage(model, text, 1000, DistributedContext(rank, 3, rank))["embed.weight"])
    assert not found[2].any(), "two blocks for three processes"
    assert torch.equal(sum(found[1:], found[0]), count_row_usage(model, text, 1000)["embed.weight"])


def test_the_sensitivity_of_a_row_by_hand() -> None:
    """A row that calibration did not use has the mean of the table, one that it used often its own."""
    usage, calibrated = torch.tensor([9, 89, 0]), torch.tensor([0.0, 1e6, 0.0])
    squares = torch.tensor([0.0, 3e6, 0.0])
    found = lookup_sensitivity(usage, calibrated, squares)
    assert torch.allclose(found, torch.tensor([9.5, 89.5, 0.5]) / 99.5)
    calibrated, squares = torch.tensor([PRIOR_USES, 1e6, 0.0]), torch.tensor([5 * PRIOR_USES, 1e6, 0.0])
    found = lookup_sensitivity(usage, calibrated, squares)  # the mean is 1
    assert torch.allclose(found, torch.tensor([3 * 9.5, 89.5, 0.5]) / 99.5, rtol=1e-3)
    assert torch.equal(lookup_sensitivity(usage, calibrated, 0 * squares), row_frequencies(usage).float())


def test_the_fisher_information_of_a_rare_token_by_hand() -> None:
    """Rare tokens get the mean squared gradient times their frequency, frequent ones keep what was measured."""
    usage = torch.tensor([999_999, 1, 0])
    fisher = row_fisher(usage, torch.tensor([0.5, 0.0, 0.0]), 1_000_000)
    assert float(fisher[0]) == pytest.approx(0.5, rel=1e-4)
    assert float(fisher[1]) == pytest.approx(1.5e-6 * 0.5 * PRIOR_USES / (1.5 + PRIOR_USES), rel=1e-3)
    assert float(fisher[2]) > 0


def test_a_small_calibration_comes_closer_to_the_truth_with_the_prior() -> None:
    """A table of 2,000 rows with Zipf's frequencies; calibration uses it 3,000 times, the text 300,000 times."""
    chance = torch.Generator().manual_seed(0)
    true = 1.0 / (1 + torch.arange(2000.0))
    true /= true.sum()
    per_use = torch.rand(2000, generator=chance) + 0.5
    drawn = torch.multinomial(true, 3000, replacement=True, generator=chance)
    calibrated = torch.bincount(drawn, minlength=2000).float()
    gradients = per_use[drawn] * torch.randn(3000, generator=chance).square()
    squares = torch.zeros(2000).index_add_(0, drawn, gradients)
    usage = torch.bincount(torch.multinomial(true, 300_000, replacement=True, generator=chance), minlength=2000)
    wanted = true * per_use / (true * per_use).sum()
    found = lookup_sensitivity(usage, calibrated, squares)
    wrong = (found / wanted).log2().abs()
    assert wrong.mean() < 0.5 and wrong.max() < 2.5
    assert (calibrated == 0).float().mean() > 0.4 and (found > 0).all()


def test_statistics_with_a_prior_have_no_row_without_sensitivity(text: TokenStream) -> None:
    model = built(TABLES["bigrams"])
    ids = torch.from_numpy(text.window(0, 12))[None]
    sums = observe(model, [ids])
    model_usage = count_row_usage(model, text, 1000)
    without, known = matrix_stats(sums), matrix_stats(sums, model_usage)
    assert known.keys() == without.keys()
    for path in (TABLE, "embed.weight"):
        assert (known[path].output_fisher > 0).all()
    assert (without[TABLE].output_fisher == 0).any()
    unused = cast(Tensor, model_usage["embed.weight"] == 0)
    assert known["embed.weight"].output_fisher[unused].max() < known["embed.weight"].output_fisher[~unused].max()
    other = next(path for path in known if "mixer" in path)
    assert torch.equal(known[other].output_fisher, without[other].output_fisher)
