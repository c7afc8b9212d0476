"""Reference forward passes of six published systems, written from their formulas without `bitgolf`.

Each takes parameters by path and token ids (B, T), and returns logits (B, T, V). They are slow but explicit: loops over
layers and heads, and dense masks. Settings that the parameters do not determine (windows, rotated dimensions) are those
of `helpers.small_recipes`. masked: whether the first token of a document is isolated from the previous document; in the
scripts before #1851 it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BOS = 1
MIXER = ("q", "k", "v", "out")
Params = Mapping[str, Tensor]


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()


def causal(ids: Tensor) -> Tensor:
    """Causal mask (B, T, T), True where query t attends to key s."""
    t = torch.arange(ids.shape[1])
    return (t[:, None] >= t[None, :]).expand(len(ids), -1, -1)


def windowed(ids: Tensor, width: int) -> Tensor:
    t = torch.arange(ids.shape[1])
    return causal(ids) & (t[None, :] >= t[:, None] - width)


def segmented(ids: Tensor, cap: int) -> Tensor:
    """Causal mask within segments: documents, cut after every `cap` tokens."""
    seen = torch.zeros(*ids.shape, ids.shape[1], dtype=torch.bool)
    for b, row in enumerate(ids.tolist()):
        start = 0
        for t, token in enumerate(row):
            start = t if token == BOS or t - start == cap else start
            seen[b, t, start : t + 1] = True
    return seen


def rotate(x: Tensor, width: int, base: float) -> Tensor:
    """Rotate the pairs (i, i + width/2) of each head. The angles are float32, as in the published scripts."""
    half = width // 2
    frequency = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = torch.arange(x.shape[1], dtype=torch.float32)[:, None, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:width]
    return torch.cat([a * cos + b * sin, b * cos - a * sin, x[..., width:]], -1)


def heads(p: Params, i: int, x: Tensor, width: int, *, base: float = 10_000.0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, T, H, d), keys and values (B, T, G, d) of layer i. Queries and keys are normalised and rotated."""
    gain = next(w for path, w in p.items() if path.startswith(f"blocks.{i}.mixer.qk."))
    q, k, v = (x @ p[f"blocks.{i}.mixer.{name}.weight"].T for name in "qkv")
    d = q.shape[-1] // len(gain)
    q, k, v = (y.unflatten(-1, (-1, d)) for y in (q, k, v))
    return rotate(rms(q), width, base) * gain[:, None], rotate(rms(k), width, base), v


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    read = []
    for h in range(q.shape[2]):
        g = h // (q.shape[2] // k.shape[2])
        score = (q[:, :, h] @ k[:, :, g].mT) / q.shape[-1] ** 0.5
        read.append(score.masked_fill(~seen, float("-inf")).softmax(-1) @ v[:, :, g])
    return torch.stack(read, 2)


def exclusive(y: Tensor, v: Tensor) -> Tensor:
    """Remove from each head its component along the value at the same position."""
    left = []
    for h in range(y.shape[2]):
        own, along = y[:, :, h], v[:, :, h // (y.shape[2] // v.shape[2])]
        left.append(own - (own * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True) * along)
    return torch.stack(left, 2)


def out(p: Params, i: int, y: Tensor) -> Tensor:
    return p[f"blocks.{i}.mixer_scale.0.weight"] * (y.flatten(2) @ p[f"blocks.{i}.mixer.out.weight"].T)


def mlp(p: Params, i: int, x: Tensor) -> Tensor:
    """MLP with the activation LeakyReLU(0.5) squared."""
    u = x @ p[f"blocks.{i}.mlp.up.weight"].T
    activated = torch.where(u > 0, u, 0.5 * u) ** 2
    return p[f"blocks.{i}.mlp_scale.0.weight"] * (activated @ p[f"blocks.{i}.mlp.down.weight"].T)


def mixed(p: Params, i: int, x: Tensor, x0: Tensor) -> Tensor:
    weight = p[f"blocks.{i}.pre_block.0.weight"]
    return weight[0] * x + weight[1] * x0


def added(p: Params, j: int, x: Tensor, skip: Tensor) -> Tensor:
    return x + p["layer_schedule.skip.weight"][j] * skip


def gated(p: Params, j: int, x: Tensor, skip: Tensor) -> Tensor:
    gate = p["layer_schedule.skip.gate"][j].sigmoid()
    return gate * x + (1 - gate) * p["layer_schedule.skip.weight"][j] * skip


def logits(p: Params, x: Tensor) -> Tensor:
    return 30.0 * torch.tanh(rms(x) @ p["embed.weight"].T / 30.0)


def before(x: Tensor, ids: Tensor, masked: bool) -> Tensor:
    """x of the previous position; zero at the first position, and with `masked` at document starts."""
    earlier = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    return torch.where((ids == BOS)[..., None], torch.zeros_like(x), earlier) if masked else earlier


def bigrams(p: Params, ids: Tensor) -> Tensor:
    table = p["post_embed.0.table.weight"]
    slots = torch.full_like(ids, len(table) - 1)
    for b, row in enumerate(ids.tolist()):
        for t in range(1, len(row)):
            slots[b, t] = (36313 * row[t] ^ 27191 * row[t - 1]) % (len(table) - 1)
    return p["post_embed.0.scale"] * (table[slots] @ p["post_embed.0.project.weight"].T)


def smeared(p: Params, ids: Tensor, masked: bool) -> Tensor:
    """Normalised sum of embedding and bigrams, blended with the previous token (not at document starts if `masked`)."""
    x = rms(p["embed.weight"][ids] + bigrams(p, ids))
    share = p["post_embed.2.theta"].sigmoid()
    blended = (1 - share) * x + share * before(x, ids, False)
    return torch.where((ids == BOS)[..., None], x, blended) if masked else blended


def valued(p: Params, i: int, v: Tensor, ids: Tensor) -> Tensor:
    """Values plus the weighted value embeddings of the tokens."""
    e = p["post_embed.3.scale"] * (p["post_embed.3.table.weight"][ids] @ p["post_embed.3.project.weight"].T)
    return v + p[f"blocks.{i}.mixer.value.0.weight"] * e.view_as(v)


def offset(k: Tensor, ids: Tensor, kept: int, masked: bool) -> Tensor:
    """Take the dimensions from `kept` on from the previous key, if there is one."""
    moved = torch.cat([k[:, :1], k[:, :-1]], 1)
    if masked:
        moved = torch.where((ids == BOS)[..., None, None], k, moved)
    return torch.cat([k[..., :kept], moved[..., kept:]], -1)


def pr675(p: Params, ids: Tensor) -> Tensor:
    x = x0 = rms(p["embed.weight"][ids])
    skips: list[Tensor] = []
    for i in range(10):
        if i >= 5:
            x = added(p, i - 5, x, skips.pop())
        x = mixed(p, i, x, x0)
        q, k, v = heads(p, i, rms(x), 8)
        x = x + out(p, i, attend(q, k, v, causal(ids)))
        x = x + mlp(p, i, rms(x))
        if i < 5:
            skips.append(x)
    return logits(p, x)


def pr1090(p: Params, ids: Tensor, *, masked: bool) -> Tensor:
    x = x0 = smeared(p, ids, masked)
    skips: list[Tensor] = []
    for i in range(11):
        if 5 <= i < 10:
            x = added(p, i - 5, x, skips.pop())
        x = mixed(p, i, x, x0)
        q, k, v = heads(p, i, rms(x), 8)
        y = attend(q, k, v, causal(ids))
        x = x + out(p, i, exclusive(y, v) if i >= 7 else y)
        gate, up = (rms(x) @ p[f"blocks.{i}.mlp.{name}.weight"].T for name in ("gate", "up"))
        fed = (gate * gate.sigmoid() * up) @ p[f"blocks.{i}.mlp.down.weight"].T
        x = x + p[f"blocks.{i}.mlp_scale.0.weight"] * fed
        if i < 5:
            skips.append(x)
    return logits(p, x)


def int6(w: Tensor) -> Tensor:
    """Fake quantization to 64 levels per row, with float16 steps of at least 1/31 and a straight-through gradient."""
    step = (w.detach().float().abs().amax(1, keepdim=True) / 31).clamp_min(1 / 31).half().float()
    rounded = (w.detach().float() / step).round().clamp(-32, 31) * step
    return w + (rounded.to(w.dtype) - w).detach()


def pr1512(p: Params, ids: Tensor, *, masked: bool, fake: bool) -> Tensor:
    if fake:
        matrices = ("q.weight", "k.weight", "v.weight", "out.weight", "up.weight", "down.weight")
        p = {path: int6(w) if path.startswith("blocks.") and path.endswith(matrices) else w for path, w in p.items()}
    x = x0 = smeared(p, ids, masked)
    base = 10_000.0 * 2.0 ** (4 / 2)  # twice the original length, 4 rotated dimensions
    skips: list[Tensor] = []
    for i in range(11):
        if 5 <= i < 10:
            x = added(p, i - 5, x, skips.pop())
        x = mixed(p, i, x, x0)
        q, k, v = heads(p, i, rms(x) / (i + 1) ** 0.5, 4, base=base)
        k = offset(k, ids, 4, masked) if i >= 6 else k
        v = valued(p, i, v, ids) if i >= 9 else v
        y = attend(q, k, v, windowed(ids, 8) if i < 6 else causal(ids))
        x = x + out(p, i, exclusive(y, v))
        x = x + mlp(p, i, rms(x) / (i + 1) ** 0.5)
        if i < 5:
            skips.append(x)
    return logits(p, x)


def pr1493(p: Params, ids: Tensor, *, visits: Sequence[int]) -> Tensor:
    x = x0 = rms(p["embed.weight"][ids])
    half = len(visits) // 2
    skips: list[Tensor] = []
    for n, i in enumerate(visits):
        if half <= n < 2 * half:
            x = gated(p, n - half, x, skips.pop())
        x = mixed(p, i, x, x0)
        depth = (i + 1) ** -0.5
        q, k, v = heads(p, i, depth * rms(x), 4)
        mixer = out(p, i, exclusive(attend(q, k, v, causal(ids)), v))
        x = x + mixer + mlp(p, i, depth * rms(x if i >= 7 else x + mixer))
        if n < half:
            skips.append(x)
    return logits(p, x)


def pr1855(p: Params, ids: Tensor, *, visits: Sequence[int]) -> Tensor:
    e = p["embed.weight"][ids]
    x = x0 = rms(
        e + p["post_embed.0.scale"] * (e[..., :12] @ p["post_embed.0.gate"].T).sigmoid() * before(e, ids, True)
    )
    half, lane = len(visits) // 2, x  # the lane of the MLP is not used before layer 8
    skips: list[Tensor] = []
    for n, i in enumerate(visits):
        lane = x if i == 8 else lane
        if half <= n < 2 * half:
            x = gated(p, n - half, x, skips.pop())
        depth = (i + 1) ** -0.5
        read = mixed(p, i, x, x0)
        normed = depth * rms(read)
        q, k, v = heads(p, i, normed, 4)
        y = exclusive(attend(q, k, v, segmented(ids, 16)), v)
        gate = (0.5 * (normed[..., :12] @ p[f"blocks.{i}.mixer.post_attention.1.weight"].T)).sigmoid()
        mixer = out(p, i, gate[..., None] * y)
        if i < 8:
            x = read + mixer
            x = x + mlp(p, i, depth * rms(x))
        else:
            fed, post, resid = (
                mlp(p, i, depth * rms(lane)),
                p["layer_schedule.residual.post"][i],
                p["layer_schedule.residual.resid"][i],
            )
            x = resid[0] * x + post[0, 0] * mixer + post[1, 0] * fed
            lane = resid[1] * lane + post[0, 1] * mixer + post[1, 1] * fed
        if n < half:
            skips.append(x)
    return logits(p, (x + lane) / 2)


def pr1204(p: Params, ids: Tensor, *, visits: Sequence[int], masked: bool) -> Tensor:
    """Layers 6 and 7 repeat layers 4 and 5: attention shares its matrices, all other parameters are separate."""
    tied = {f"blocks.{i + 2}.mixer.{name}.weight": f"blocks.{i}.mixer.{name}.weight" for i in (4, 5) for name in MIXER}
    p = {**p, **{path: p[source] for path, source in tied.items()}}
    x = x0 = smeared(p, ids, masked)
    half, lane = len(visits) // 2, x
    base = 10_000.0 * 2.0 ** (4 / 2)
    skips: list[Tensor] = []
    for n, i in enumerate(visits):
        if half <= n < 2 * half:
            skip = skips.pop()
            x, lane = gated(p, n - half, x, skip), gated(p, n - half, lane, skip)
        lane = x if i == 9 else lane
        depth = (i + 1) ** -0.5
        read = mixed(p, i, x, x0)
        q, k, v = heads(p, i, depth * rms(read), 4, base=base)
        v = valued(p, i, v, ids) if i in (9, 10) else v
        y = attend(q, k, v, causal(ids))
        mixer = out(p, i, exclusive(y, v) if i >= 2 else y)
        if i < 9:
            x = read + mixer
            x = x + mlp(p, i, depth * rms(x))
        else:
            post, resid = p["layer_schedule.residual.post"][i - 2], p["layer_schedule.residual.resid"][i - 2]
            x, lane = resid[0] * x + post[0, 0] * mixer, resid[0] * lane + post[0, 1] * mixer
            fed = mlp(p, i, depth * rms(mixed(p, i, lane, x0)))
            x, lane = resid[1] * x + post[1, 0] * fed, resid[1] * lane + post[1, 1] * fed
        if n < half:
            skips.append(x)
    return logits(p, (x + lane) / 2)
