"""Scoring of the records from #1855 to #2135 as plain loops in float64, which share no code with `bitgolf.score`.

Documents side by side with adapters, AdamW after each chunk, adapters whose A is kept, phases of SGD, n-gram counts.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from oracles.pr1855_parameters import ADAPTERS, LOOPED
from oracles.reference import BOS, Params, attend, before, causal, exclusive, gated, mixed, rms, rotate, segmented

Lora = dict[str, Tensor]


def forward(p: Params, ids: Tensor, seen: Tensor, lora: Mapping[str, Tensor], scale: float, *, masked: bool) -> Tensor:
    """Logits (B, T, V) of #1855. lora: published name of a factor -> its value (B, ...); empty for no adapters.

    seen: (B, T, T), which keys a query attends to. masked: whether the smear stops at document starts.
    """

    def side(name: str, x: Tensor, slot: int) -> Tensor | float:
        key = ADAPTERS[name] if name == "head" else f"{ADAPTERS[name]}.{slot}"
        return scale * ((x @ lora[f"{key}.A"].mT) @ lora[f"{key}.B"].mT) if f"{key}.A" in lora else 0.0

    def mlp(i: int, slot: int, x: Tensor) -> Tensor:
        normed = (i + 1) ** -0.5 * rms(x)
        u = normed @ p[f"blocks.{i}.mlp.up.weight"].T
        fed = (torch.where(u > 0, u, 0.5 * u) ** 2) @ p[f"blocks.{i}.mlp.down.weight"].T
        return p[f"blocks.{i}.mlp_scale.0.weight"] * (fed + side("mlp", normed, slot))

    def attention(i: int, slot: int, read: Tensor) -> Tensor:
        normed = (i + 1) ** -0.5 * rms(read)
        gain = p[f"blocks.{i}.mixer.qk.2.weight"]
        q, k, v = (normed @ p[f"blocks.{i}.mixer.{n}.weight"].T + side(n, normed, slot) for n in "qkv")
        q, k, v = (y.unflatten(-1, (-1, q.shape[-1] // len(gain))) for y in (q, k, v))
        y = exclusive(attend(rotate(rms(q), 4, 10_000.0) * gain[:, None], rotate(rms(k), 4, 10_000.0), v, seen), v)
        gate = (0.5 * (normed[..., :12] @ p[f"blocks.{i}.mixer.post_attention.1.weight"].T)).sigmoid()
        projected = (gate[..., None] * y).flatten(2) @ p[f"blocks.{i}.mixer.out.weight"].T
        return p[f"blocks.{i}.mixer_scale.0.weight"] * (projected + side("mixer", normed, slot))

    e = p["embed.weight"][ids]
    gate = (e[..., :12] @ p["post_embed.0.gate"].T).sigmoid()
    x = x0 = lane = rms(e + p["post_embed.0.scale"] * gate * before(e, ids, masked))
    half, skips = len(LOOPED) // 2, list[Tensor]()
    for slot, i in enumerate(LOOPED):
        lane = x if i == 8 else lane
        if half <= slot < 2 * half:
            x = gated(p, slot - half, x, skips.pop())
        read = mixed(p, i, x, x0)
        mixer = attention(i, slot, read)
        if i < 8:
            x = read + mixer
            x = x + mlp(i, slot, x)
        else:
            fed = mlp(i, slot, lane)
            post, resid = p["layer_schedule.residual.post"][i], p["layer_schedule.residual.resid"][i]
            x = resid[0] * x + post[0, 0] * mixer + post[1, 0] * fed
            lane = resid[1] * lane + post[0, 1] * mixer + post[1, 1] * fed
        if slot < half:
            skips.append(x)
    final = rms((x + lane) / 2)
    return 30.0 * torch.tanh((final @ p["embed.weight"].T + side("head", final, 0)) / 30.0)


class Settings(NamedTuple):
    """Settings of a replay. strides: (limit, stride) of short documents. tilt: length of a context, 0 for no tilt."""

    rows: int
    window: int
    stride: int
    strides: Sequence[tuple[int, int]]
    scale: float
    lr: float
    decay: float
    boundaries: Sequence[int]
    chunk: int
    ranks: int
    sgd_lr: float
    masked: bool
    tilt: int = 0
    boost: float = 0.0


class Hints:
    """Counts of what followed the last n tokens; those of complete sections, and those of a chain of batches."""

    def __init__(self, length: int) -> None:
        self.length, self.complete, self.chain = length, defaultdict[tuple[int, ...], Counter[int]](Counter), {}

    def of(self, context: Sequence[int]) -> int | None:
        """The token of at least 80 % of what followed a context."""
        both = self.complete[tuple(context)] + self.chain.get(tuple(context), Counter())
        token, count = max(both.items(), key=lambda pair: pair[1], default=(0, 0))
        return token if count and count >= 0.8 * both.total() else None

    def add(self, context: Sequence[int], token: int) -> None:
        self.chain.setdefault(tuple(context), Counter())[token] += 1

    def complete_section(self, tokens: Sequence[int]) -> None:
        self.chain = {}
        for t in range(self.length - 1, len(tokens) - 1):
            self.complete[tuple(tokens[t - self.length + 1 : t + 1])][tokens[t + 1]] += 1


class Replay:
    """The state of a scoring run: base weights, adapters, and the nats of each target by its position in the stream."""

    def __init__(self, p: Params, tokens: Tensor, start: Lora, settings: Settings) -> None:
        self.p, self.tokens, self.start, self.s = dict(p), tokens, start, settings
        self.nats = torch.full((len(tokens) - 1,), math.nan, dtype=torch.float64)
        self.lora: Lora = {}  # of the last batch
        self.hints = Hints(settings.tilt)

    def run(self) -> None:
        """Score all documents: whole batches from the short end, the longest batch first, phases between batches."""
        starts = (self.tokens == BOS).nonzero()[:, 0].tolist()
        documents = sorted(((a, b - a + 1) for a, b in pairwise(starts)), key=lambda d: d[1])
        batches = [documents[i : i + self.s.rows] for i in range(0, len(documents), self.s.rows)][::-1]
        waiting, scored, kept = list(self.s.boundaries), list[tuple[int, int]](), dict[str, Tensor]()
        section = list[tuple[int, int]]()
        for number, batch in enumerate(batches):
            fresh = len(batch) < self.s.rows
            if fresh or not kept:
                self.hints.chain = {}
                self.lora = {name: value[: len(batch)].clone() for name, value in self.start.items()}
            else:
                self.lora = {name: torch.zeros_like(v) if name.endswith("B") else v for name, v in kept.items()}
            self.score_batch(batch)
            kept = kept if fresh else self.lora
            scored, section = batch + scored, section + batch[::-1]
            if waiting and len(scored) >= waiting[0] and number < len(batches) - 1:
                self.train_phase(scored[: waiting.pop(0)])
                self.hints.complete_section(
                    [t for a, n in section for t in self.tokens[a : a + n - 1].tolist()] + [BOS]
                )
                kept, section = {}, []

    def score_batch(self, batch: Sequence[tuple[int, int]]) -> None:
        longest = max(length for _, length in batch)
        stride = next((own for limit, own in self.s.strides if longest <= limit), self.s.stride)
        chunks = [math.ceil((length - 1) / stride) for _, length in batch]
        squares = {name: torch.zeros_like(value) for name, value in self.lora.items()}
        for chunk in range(max(chunks)):
            losses = list[Tensor]()
            leaves = {name: value.requires_grad_() for name, value in self.lora.items()}
            seen = list[tuple[list[int], int]]()
            for row, (start, length) in enumerate(batch):
                if chunk < chunks[row]:
                    end = min((chunk + 1) * stride, length - 1)
                    own = self.row_losses(leaves, row, start, chunk * stride, end, seen)
                    losses += [own.mean()] if chunk < chunks[row] - 1 else []
            for context, token in seen:
                self.hints.add(context, token)
            if losses:
                grads = torch.autograd.grad(sum(losses, torch.zeros(())), list(leaves.values()))
                self.adamw(dict(zip(leaves, grads, strict=True)), squares, chunk + 1)
            self.lora = {name: value.detach() for name, value in self.lora.items()}

    def row_losses(
        self, lora: Lora, row: int, start: int, first: int, end: int, seen: list[tuple[list[int], int]]
    ) -> Tensor:
        """Plain losses of the targets first … end - 1 of a document; records their (tilted) nats and contexts."""
        begin = max(0, end - self.s.window)
        ids = self.tokens[None, start + begin : start + end]
        own = {name: value[row : row + 1] for name, value in lora.items()}
        logits = forward(self.p, ids, causal(ids), own, self.s.scale, masked=self.s.masked)[0, first - begin :]
        targets = self.tokens[start + first + 1 : start + end + 1]
        losses = logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]
        for t, (plain, target) in enumerate(zip(losses.detach(), targets.tolist(), strict=True)):
            context = ids[0, max(0, first - begin + t + 1 - self.s.tilt) : first - begin + t + 1].tolist()
            self.nats[start + first + t] = plain
            if self.s.tilt and len(context) == self.s.tilt:
                seen.append((context, target))
                if (hint := self.hints.of(context)) is not None:
                    q = logits[t].detach().softmax(-1)[hint]
                    boost = self.s.boost * (target == hint)
                    self.nats[start + first + t] = plain - boost + torch.log1p(q * math.expm1(self.s.boost))
        return losses

    def adamw(self, grads: Lora, squares: Lora, step: int) -> None:
        """AdamW with betas (0, 0.99) on all rows: the decay also acts on those whose document has ended."""
        self.lora = {name: value.detach() for name, value in self.lora.items()}
        for name, grad in grads.items():
            squares[name] = 0.99 * squares[name] + 0.01 * grad**2
            size = (squares[name] / (1 - 0.99**step)).sqrt() + 1e-10
            self.lora[name] = self.lora[name] * (1 - self.s.lr * self.s.decay) - self.s.lr * grad / size

    def train_phase(self, documents: Sequence[tuple[int, int]]) -> None:
        """SGD on the documents one after another, each with the BOS after it; the last chunk is left out."""
        text = torch.cat([self.tokens[start : start + length] for start, length in documents])
        chunks, window = math.ceil((len(text) - 1) / self.s.chunk), self.s.window
        momentum = {path: torch.zeros_like(value) for path, value in self.p.items()}
        for chunk in range(chunks - 1):
            full, losses = self.s.chunk // window, list[Tensor]()
            leaves = {path: value.clone().requires_grad_() for path, value in self.p.items()}
            for rank in range(self.s.ranks):
                a, b = (self.s.chunk * chunk + full * r // self.s.ranks * window for r in (rank, rank + 1))
                if a < b:
                    ids = text[None, a:b]
                    found = forward(leaves, ids, segmented(ids, window), {}, 0.0, masked=self.s.masked)[0]
                    losses.append(torch.nn.functional.cross_entropy(found, text[a + 1 : b + 1]))
            grads = torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()), allow_unused=True)
            norm = torch.stack([grad.norm() for grad in grads if grad is not None]).norm()
            rate = self.s.sgd_lr * 0.5 * (1 + math.cos(math.pi * chunk / (chunks - 1)))
            for path, grad in zip(leaves, grads, strict=True):
                own = torch.zeros_like(self.p[path]) if grad is None else grad * min(1.0, 1 / (norm.item() + 1e-6))
                momentum[path] = 0.9 * momentum[path] + own
                self.p[path] = self.p[path] - rate * momentum[path]
