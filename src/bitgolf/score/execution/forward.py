"""A model's forward for scoring: eager on the CPU; on CUDA with fused kernels, in one compiled graph for each shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.model.attention.rope_scaling import Scaling
from bitgolf.model.lm import LM
from bitgolf.model.numerics import at_least_float32
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import ALONE, World
from bitgolf.score.execution.async_copy import upload
from bitgolf.score.execution.compiled_function import Graph

if TYPE_CHECKING:  # recipes import this file for their methods' sake, and the kernels import the compiler: 1.5 s
    from bitgolf.train.kernels.select import Choice, Verdict

SHORTEST = 64  # tokens: shorter rows are padded to as many
TRIAL = 32_768, 512  # tokens on which kernels are timed, and of a document among them on average
MOST = 1 << 20  # tokens at once, where no limit was given
_VERDICTS: dict[Any, Sequence[Verdict]] = {}


class Forward(Protocol):
    """From rows of tokens (B, T), and n places among the flattened ones (n,), both on the CPU, to logits (n, V)."""

    @property
    def kernels(self) -> Sequence[str]:
        """Which fused kernels run, and why: a line on each kind of part."""
        ...

    @property
    def seconds(self) -> float:
        """Spent on compiling so far."""
        ...

    def limit(self, tokens: int) -> None:
        """Compute no more tokens at once, padding included, but at least a row."""
        ...

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor: ...

    def close(self) -> None:
        """The model as it was found."""
        ...


def forward_of(
    model: LM,
    device: Device,
    longest: int,
    *,
    learns: bool = False,
    world: World = ALONE,
    rope_scaling: Scaling | None = None,
) -> Forward:
    """What suits the device. longest: tokens of a row, 0 if not known; learns: gradients are asked of the model, too.

    rope_scaling: of rotary positions, in place of the model's own.
    """
    if device.device.type != "cuda":
        return Eager(model, device, rope_scaling)
    choice = kernels_for(model, device, longest, learns=learns, world=world)
    return Compiled(model, device, longest, choice, rope_scaling)


class Eager:
    """Operator by operator, at the shapes that come. The reference."""

    kernels: Sequence[str] = ()
    seconds = 0.0

    def __init__(self, model: LM, device: Device, rope_scaling: Scaling | None = None) -> None:
        self.model, self.device, self.rope_scaling = model, device, rope_scaling

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        tokens, places = (upload(x, self.device.device) for x in (tokens, places))
        with self.device.autocast():
            hidden = self.model.hidden(self.model.bus(tokens, self.rope_scaling)).flatten(0, 1)
            return at_least_float32(self.model.logits(hidden[places]))

    def limit(self, tokens: int) -> None:
        """Nothing is padded here: blocks keep to the limit."""

    def close(self) -> None:
        pass


class Compiled:
    """The same in graphs of few shapes.

    Rows are padded to `longest` tokens, or to a half, a quarter, … of it; and read so many at a time as the first block
    of that length suggests, the last ones with empty rows. Places are padded to a power of two. What pads is computed
    and left out: attention is causal, and rows do not see each other.
    """

    def __init__(
        self, model: LM, device: Device, longest: int, choice: Choice, rope_scaling: Scaling | None = None
    ) -> None:
        self.device, self.longest, self.choice, self.kernels = device, longest, choice, choice.lines
        self.rows: dict[int, int] = {}  # by length
        self.most = MOST
        self.hidden = Graph(lambda ids: model.hidden(model.bus(ids, rope_scaling)).flatten(0, 1), device.device)
        self.logits = Graph(lambda hidden, places: at_least_float32(model.logits(hidden[places])), device.device)

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        length = padded_length(tokens.shape[1], self.longest)
        rows = self.rows.setdefault(length, self._rows(tokens.numel(), length))
        places = places // tokens.shape[1] * length + places % tokens.shape[1]
        tokens = F.pad(tokens, (0, length - tokens.shape[1], 0, -len(tokens) % rows))
        self.choice.slots.fit(tokens.numpy(), rows)
        shown = upload(tokens, self.device.device)
        asked = upload(F.pad(places, (0, power_of_two(len(places)) - len(places))), self.device.device)
        with self.device.autocast():
            hidden = torch.cat([self.hidden(part) for part in shown.split(rows)])
            return self.logits(hidden, asked)[: len(places)]

    def _rows(self, tokens: int, length: int) -> int:
        """A power of two, for blocks of about so many tokens in rows of this length."""
        wanted, most = power_of_two(tokens / length), max(1, self.most // length)
        return min(wanted, 1 << most.bit_length() - 1)

    def limit(self, tokens: int) -> None:
        self.most = tokens

    @property
    def seconds(self) -> float:
        return self.hidden.seconds + self.logits.seconds

    def close(self) -> None:
        self.choice.restore()


def kernels_for(model: LM, device: Device, longest: int, *, learns: bool = False, world: World = ALONE) -> Choice:
    """Put the fastest kernels that agree with the plain parts into a model; `restore` of the result takes them out.

    They are timed on random documents, so that all processes, which call this together, choose before they see a text;
    and once in a process for models of the same parts and shapes.
    """
    from bitgolf.train.kernels.select import Choice, choose, sites

    length = longest or 2048
    found = list(sites(model, compiled=True))
    key = (device.device, length, learns, *(s.what for s in found), *(tuple(p.shape) for p in model.parameters()))
    if key in _VERDICTS:
        return Choice(model, found, _VERDICTS[key], model.bos, _unheard)
    rows = trial_rows(len(model.embed.weight), model.bos, length).to(device.device)
    choice = choose(
        model,
        (rows,),
        device,
        mode="auto",
        compiled=True,
        bos=model.bos,
        backward=learns,
        world=world,
        say=_unheard,
    )
    _VERDICTS[key] = choice.verdicts
    return choice


def _unheard(line: str) -> None:
    """Where the room for segments grows is no news: a result lists the kernels that were chosen."""


def trial_rows(vocab: int, bos: int, length: int) -> Tensor:
    """Random documents side by side, (B, T), about as many tokens as `TRIAL` says."""
    generator, (tokens, document) = torch.Generator().manual_seed(0), TRIAL
    ids = torch.randint(vocab, (max(1, tokens // length), length), generator=generator)
    starts = torch.rand(ids.shape, generator=generator) < 1 / document
    starts[:, 0] = True
    return ids.masked_fill(ids == bos, (bos + 1) % vocab).masked_fill(starts, bos)


def padded_length(length: int, longest: int) -> int:
    """The least of longest, its half, its quarter, … down to `SHORTEST`, that holds so many tokens."""
    padded = longest if length <= longest else power_of_two(length)
    while padded // 2 >= max(length, SHORTEST):
        padded //= 2
    return padded


def power_of_two(number: float) -> int:
    """The least power of two that is at least so much."""
    return 1 << max(0, math.ceil(number) - 1).bit_length()
