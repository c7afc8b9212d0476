"""Scoring of published systems: windows, strides and adaptation, a row for each, as in their logs and scripts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bitgolf.recipes import get_recipe, recipe_names
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.ngram_tilt import NGramTilt
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.stream_sgd import StreamSGD

# Window and stride of each method, in the order of results.
WHOLE, SLIDING = ("contiguous", 2048, 2048), ("sliding", 2048, 64)
SCORED: dict[str, tuple[tuple[str, int, int], ...]] = {
    "baseline": (("contiguous", 1024, 1024),),
    "pr675": (("contiguous", 1024, 1024),),
    "pr164": (WHOLE, ("sliding", 2048, 256)),
    "pr549": (WHOLE, SLIDING, ("sgd", 2048, 64)),
    "pr640": (("contiguous", 1024, 1024), ("sliding", 1024, 16)),
    "pr641": (("contiguous", 1024, 1024), ("sliding", 1024, 16)),
    "pr1090": (WHOLE, ("lora", 256, 256)),
    "pr1090_as_shipped": (WHOLE, ("lora", 256, 256)),
    "pr1493": (WHOLE, SLIDING, ("sgd", 2048, 64)),
    "pr1512": (("contiguous", 4096, 4096), ("sliding", 4096, 64)),
    "pr1530": (WHOLE, ("lora", 2048, 32)),
    "pr1626": (WHOLE, ("phased", 2048, 48)),
    "pr1667": (WHOLE, ("lora", 2048, 48)),
    "pr1729": (WHOLE, ("phased", 2048, 48)),
    "pr1736": (WHOLE, ("phased", 2048, 48)),
    "pr1787": (WHOLE, ("phased", 2048, 48)),
    "pr1851": (WHOLE, ("phased", 2048, 48)),
    "pr1855": (WHOLE, ("phased", 2048, 48)),
    "pr1945": (WHOLE, ("phased", 2048, 48)),
    "pr1953": (("contiguous", 2560, 2560), ("phased", 2560, 48)),
    "pr2014": (("contiguous", 3072, 3072), ("phased", 3072, 48)),
    "pr2135": (("contiguous", 2560, 2560), ("tilted", 2560, 48)),
}

# Learning rate, epochs, chunk, batch and length of sequences.
STREAMED = {"pr549": (0.002, 3, 32_768, 32, 2048), "pr1493": (0.005, 3, 32_768, 32, 2048)}

# Rank, scale, decay, second beta, warm start; documents scored before each phase.
LORA: dict[str, tuple[Any, ...]] = {
    "pr1090": (8, 1 / 8, 0.0, 0.999, False, ()),
    "pr1530": (96, 1.0, 0.5, 0.999, False, ()),
    "pr1626": (96, 1.0, 0.5, 0.999, False, (666, 1333, 2000)),
    "pr1667": (96, 1.0, 0.5, 0.999, False, ()),
    "pr1729": (96, 1.0, 0.5, 0.999, False, (666, 1333, 2000)),
    "pr1736": (96, 1.0, 0.5, 0.999, False, (666, 1333, 2000)),
    "pr1787": (96, 144 / 96, 0.5, 0.999, True, (666, 1333, 2000)),
    "pr1851": (96, 144 / 96, 1.0, 0.999, True, (666, 1333, 2000)),
    "pr1855": (80, 144 / 80, 0.5, 0.99, True, (833, 1666, 2500)),
    "pr1945": (80, 144 / 80, 0.5, 0.99, True, (833, 1666, 2500)),
    "pr1953": (80, 144 / 80, 0.5, 0.99, True, (833, 1666, 2500)),
    "pr2014": (80, 144 / 80, 0.5, 0.99, True, (2500,)),
    "pr2135": (80, 144 / 80, 2.0, 0.99, True, (2500,)),
}
# Learning rate, documents side by side, sites of the adapters, and strides of short documents, where not as in #1855.
RECORDS: dict[str, tuple[Any, ...]] = {
    "pr1945": (1e-4, 64, ("head", "q", "k", "v", "mixer", "mlp"), ()),
    "pr1953": (7.5e-5, 64, ("head", "k", "mixer", "mlp"), ()),
    "pr2014": (7.5e-5, 24, ("head", "k", "mixer", "mlp"), ((256, 8), (2000, 24))),
    "pr2135": (8e-5, 64, ("head", "q", "v", "mixer", "mlp"), ()),
}
PUBLISHED = [name for name in recipe_names() if get_recipe(name)().published]


@pytest.mark.parametrize("name", PUBLISHED)
def test_methods_are_those_of_the_published_run(name: str) -> None:
    methods = [method() for method in get_recipe(name)().score]
    assert tuple((m.name, m.window, m.stride) for m in methods) == SCORED.get(name, (WHOLE, SLIDING))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_result_was_published_for_each_method(name: str) -> None:
    """Every published `sliding` or `adapted` result belongs to a method of the recipe."""
    kinds = {"adapted" if m.adapts else m.name for m in (spec() for spec in get_recipe(name)().score)} - {"contiguous"}
    assert kinds >= set((get_recipe(name)().published or {})["bpb"]) & {"sliding", "adapted"}


@pytest.mark.parametrize("name", STREAMED)
def test_descent_on_the_stream_is_as_published(name: str) -> None:
    method: StreamSGD = get_recipe(name)["score.2"]()
    sgd = method.adaptation
    assert (sgd["lr"], sgd["epochs"], method.chunk, sgd["batch_size"], sgd["sequence_length"]) == STREAMED[name]
    assert (sgd["momentum"], sgd["max_norm"], sgd["split_documents"]) == (0.9, 1.0, False)


def adapting_method(name: str) -> DocumentLoRA | PhasedLoRA:
    """The adapting method of a recipe, below its n-gram tilt if it has one."""
    method = get_recipe(name)["score.1"]()
    inner = method.method if isinstance(method, NGramTilt) else method
    assert isinstance(inner, DocumentLoRA | PhasedLoRA)
    return inner


@pytest.mark.parametrize("name", LORA)
def test_adapters_are_as_published(name: str) -> None:
    method = adapting_method(name)
    phases = method.boundaries if isinstance(method, PhasedLoRA) else ()
    lora = method.lora if isinstance(method, PhasedLoRA) else method
    assert (lora.rank, lora.scale, lora.weight_decay, lora.betas[1], lora.keep_a, phases) == LORA[name]
    assert method.order.name == lora.order.name == ("corpus" if name == "pr1090" else "longest")
    usual = (0.05, 64, ("q", "v"), ()) if name == "pr1090" else (1e-4, 64, ("head", "q", "k", "v", "mixer", "mlp"), ())
    assert (lora.lr, lora.rows, lora.target_modules, lora.short_documents) == RECORDS.get(name, usual)
    assert (lora.betas[0], lora.steps) == ((0.9, 1) if name == "pr1090" else (0.0, 1))
    if isinstance(method, PhasedLoRA):
        sgd = method.sgd
        found = (sgd["lr"], sgd["momentum"], sgd["epochs"], sgd["max_norm"], method.chunk)
        assert found == (0.001, 0.9, 1, 1.0, 32_768)
        (step,) = sgd().steps(torch.zeros(32_769, dtype=torch.int64), 1, sgd["sequence_length"] or method.window)
        assert len(step) == 8, "one step for each chunk, with a row for each of eight GPUs"


@pytest.mark.parametrize(
    ("name", "rows", "left_out"),
    [
        ("pr1855", [4096] * 8, 0),
        ("pr1953", [2560, 5120] * 4, 2048),
        ("pr2135", [2560, 5120] * 4, 2048),
        ("pr2014", [3072, 3072, 3072, 6144] * 2, 2048),
    ],
)
def test_rows_of_a_step_of_a_phase(name: str, rows: list[int], left_out: int) -> None:
    """Full sequences of a chunk of 32,768 targets are divided among eight GPUs, the rest is left out."""
    method = adapting_method(name)
    assert isinstance(method, PhasedLoRA)
    sgd = method.sgd()
    (step,) = sgd.steps(torch.zeros(32_769, dtype=torch.int64), 1, method.sgd["sequence_length"] or method.window)
    assert [row.stop - row.start for row in step] == rows and sum(rows) == 32_768 - left_out
    assert sgd.longest_row(32_768, method.sgd["sequence_length"] or method.window) == max(rows)


@pytest.mark.parametrize(
    ("name", "scored"),
    [
        ("pr1855", [1296, 2128, 2960]),
        ("pr2014", [2672]),
        ("pr2135", [2960]),
        ("pr1626", [1104, 1808, 2448]),
        ("pr1787", [1104, 1808, 2448]),
    ],
)
def test_phases_begin_where_the_logs_say(name: str, scored: list[int]) -> None:
    """Documents that eight GPUs have scored when they pause, of 50,000, as printed in the logs (`pd`)."""
    method = adapting_method(name)
    assert isinstance(method, PhasedLoRA)
    assert method.scored_before_phases(50_000) == scored


@pytest.mark.parametrize(("window", "scored"), [(2048, 47_851_520), (2560, 47_851_520), (2816, 47_852_288)])
def test_targets_that_the_originals_leave_out(window: int, scored: int) -> None:
    """Of 47,853,343 targets, all but #2014 score whole windows only; every recipe but its own names this departure."""
    assert 47_853_343 // window * window == scored
    for name in ("pr1855", "pr1945", "pr1953", "pr2014", "pr2135"):
        departures = (get_recipe(name)().published or {})["departures"]
        assert any("last whole window" in words for words in departures) == (name != "pr2014")
