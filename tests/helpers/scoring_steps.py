"""Batches of scoring and adaptation at a recipe's full shapes on fake tensors, to measure their memory on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.model.batched_lora import BatchedLoRA
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.lm import LM
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt import adapter_forward, lora_player, per_row_adam
from bitgolf.score.adapt import loss as nats
from bitgolf.score.adapt.adapter_forward import CompiledAdapterForward
from bitgolf.score.adapt.lora_player import LoRAPlayer
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
    """One batch. run: lets a player predict and observe it with fake tensors, as the referee would."""

    name: str
    run: Callable[[], None]


def steps(recipe: Spec[Recipe], vocab: int, *, tokens: int = MAX_TOKENS) -> Iterator[ScoringCase]:
    """Cases of each method of a recipe, with and without adaptation: one batch, and training steps on its targets.

    tokens: per batch. Everything is eager, so compiled graphs need less memory.
    """
    for spec in recipe().score:
        method: ScoringMethod = spec()
        baseline = method.without_adaptation()
        # It counts n-grams on the host; on the device it is the same as without adaptation.
        on_the_host = isinstance(method, NGramMixing)
        for own in filter(None, (baseline and baseline(), None if on_the_host else method)):
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
    """Context in which tensors on the device are fake, and those on the host real. Moving a model does nothing.

    Positions and row numbers are converted where they are made: otherwise each operator that reads them, or rotary
    tables and masks made from them, would convert them again, which takes longer than the operator.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    restrict_rows = BatchedLoRA.restrict_rows

    def positions(context: ForwardContext) -> Tensor:
        return context.cached("positions", lambda: fake.from_tensor(torch.arange(context.ids.shape[1])))

    @contextmanager
    def with_fake_rows(adapters: BatchedLoRA, rows: Tensor) -> Iterator[None]:
        with restrict_rows(adapters, rows):
            if adapters.active_rows is not None:
                adapters.active_rows = fake.from_tensor(adapters.active_rows)
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ForwardContext, "positions", property(positions))
        patch.setattr(BatchedLoRA, "restrict_rows", with_fake_rows)
        patch.setattr(LM, "to", lambda self, *words: self)
        for module in (forward, lora_player, per_row_adam, nats, adapter_forward):
            patch.setattr(module, "copy_to_device", lambda x, device: fake.from_tensor(x))
        yield fake


def _block(method: ScoringMethod, player: Player, tokens: int) -> None:
    """Predict and observe a batch of full windows with the largest number of targets."""
    window, count, num_targets = method.window, max(1, tokens // method.window), method.window
    if isinstance(player, LoRAPlayer):
        count, num_targets = player.method.rows, player.method.stride
        player.forward = in_pieces(player, tokens)
    shown = [(torch.zeros(window, dtype=torch.int64), num_targets)] * count
    block = ScoringBatch.collate(shown, torch.ones(count, dtype=torch.bool))
    targets = torch.full((count * num_targets,), 2)
    logits = player.predict(block)
    reference_bits(logits[:EAGER_CHUNK], forward.copy_to_device(targets[:EAGER_CHUNK], MIXED.torch_device))
    del logits
    player.observe(block, targets)


def in_pieces(player: LoRAPlayer, tokens: int) -> CompiledAdapterForward:
    """The forward as on CUDA, split by `tokens`, but without kernels and compiler."""
    made = CompiledAdapterForward.__new__(CompiledAdapterForward)
    made.__dict__ |= {**vars(player.forward), "window": player.method.window, "columns": player.method.stride}
    made._padded = lambda batch: batch
    made.set_max_tokens(tokens)
    return made


def _descent(player: PhasedLoRAPlayer | StreamSGDPlayer) -> None:
    """Gradients of one micro-batch of sequences."""
    learner = player.learner
    inputs = torch.zeros(
        max(1, learner.sgd.max_tokens // learner.sequence_length), learner.sequence_length, dtype=torch.int64
    )
    with player.without_adapters() if isinstance(player, PhasedLoRAPlayer) else nullcontext(), torch.enable_grad():
        for loss in learner.loss(inputs, inputs):
            torch.autograd.grad(loss, learner.params, materialize_grads=True)
