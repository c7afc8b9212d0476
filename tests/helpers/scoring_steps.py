"""The batches of scoring and adaptation at a recipe's own shapes on fake tensors: what they would allocate on a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.model.lm import LM
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt import adapter_forward, document_lora, per_row_adam
from bitgolf.score.adapt import loss as nats
from bitgolf.score.adapt.adapter_forward import CompiledAdapterForward
from bitgolf.score.adapt.document_lora import LoRAPlayer
from bitgolf.score.adapt.ngram_mixing import NGramMixing
from bitgolf.score.adapt.phased_lora import PhasedLoRAPlayer
from bitgolf.score.adapt.stream_sgd import StreamSGDPlayer
from bitgolf.score.execution import forward
from bitgolf.score.execution.batch_size import MAX_TOKENS
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.player import Player, ScoringBatch
from bitgolf.score.token_bits import EAGER_CHUNK, reference_bits

MIXED = Device(torch.device("cpu"), torch.bfloat16, "fake tensors, in autocast to bfloat16 as on CUDA")


class ScoringCase(NamedTuple):
    """One batch: `run` does with fake tensors what the referee would have a player do with real ones."""

    name: str
    run: Callable[[], None]


def steps(recipe: Spec[Recipe], vocab: int, *, tokens: int = MAX_TOKENS) -> Iterator[ScoringCase]:
    """Of each method of a recipe, and of what it is without adaptation: a block, and where it learns, learning from it.

    tokens: read at once. Everything is eager, so compiled graphs need less.
    """
    for spec in recipe().score:
        method: ScoringMethod = spec()
        still = method.without_adaptation()
        on_the_host = isinstance(
            method, NGramMixing
        )  # it counts n-grams there, and on the device it is what it is at rest
        for own in filter(None, (still and still(), None if on_the_host else method)):
            with fake_device() as fake:
                with fake:
                    model = recipe().model(BuildContext(vocab=vocab))
                    player = own.make_player(model, vocab, MIXED, SINGLE_PROCESS)
                name = f"{recipe['name']} {own.name}"
                yield ScoringCase(name, lambda own=own, player=player: _block(own, player, tokens))
                if isinstance(player, PhasedLoRAPlayer | StreamSGDPlayer):
                    yield ScoringCase(f"{name}: descent", lambda player=player: _descent(player))


@contextmanager
def fake_device() -> Iterator[FakeTensorMode]:
    """What is on the device is fake, what is on the host is real. A fake model cannot be moved, and is where it is."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LM, "to", lambda self, *words: self)
        for module in (forward, document_lora, per_row_adam, nats, adapter_forward):
            patch.setattr(module, "copy_to_device", lambda x, device: fake.from_tensor(x))
        yield fake


def _block(method: ScoringMethod, player: Player, tokens: int) -> None:
    """A block whose windows are all full, and which is asked for as much as any."""
    window, count, asked = method.window, max(1, tokens // method.window), method.window
    if isinstance(player, LoRAPlayer):
        count, asked = player.method.rows, player.method.stride
        player.forward = in_pieces(player, tokens)
    shown = [(torch.zeros(window, dtype=torch.int64), asked)] * count
    block = ScoringBatch.collate(shown, torch.ones(count, dtype=torch.bool))
    targets = torch.full((count * asked,), 2)
    logits = player.predict(block)
    reference_bits(logits[:EAGER_CHUNK], forward.copy_to_device(targets[:EAGER_CHUNK], MIXED.torch_device))
    del logits
    player.observe(block, targets)


def in_pieces(player: LoRAPlayer, tokens: int) -> CompiledAdapterForward:
    """As on CUDA, but for kernels and compiler."""
    made = CompiledAdapterForward.__new__(CompiledAdapterForward)
    made.__dict__ |= {**vars(player.forward), "window": player.method.window, "columns": player.method.stride}
    made._padded = lambda shown: shown
    made.set_max_tokens(tokens)
    return made


def _descent(player: PhasedLoRAPlayer | StreamSGDPlayer) -> None:
    """Gradients of one forward's worth of sequences."""
    learner = player.learner
    inputs = torch.zeros(
        max(1, learner.sgd.max_tokens // learner.sequence_length), learner.sequence_length, dtype=torch.int64
    )
    with player.without_adapters() if isinstance(player, PhasedLoRAPlayer) else nullcontext(), torch.enable_grad():
        for loss in learner.loss(inputs, inputs):
            torch.autograd.grad(loss, learner.params, materialize_grads=True)
