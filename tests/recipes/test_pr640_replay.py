"""The model of #640 and #641 with the options of the script, against a replay of its formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitgolf.config.parse import apply_assignment
from bitgolf.grids.lowbit import Float8Grid
from bitgolf.recipes import get_recipe
from helpers.small_recipes import DIM, VOCAB, small_recipe
from helpers.toy import built

LINEAR = "init=NormalInit(std=0.02), weight_transforms=(FakeTernary(group_size=16),)"
HEADS = "heads=4, kv_heads=2, core=SDPACore(), qk=(QKNorm(), RoPE(base=5000.0, scaling=YaRNScaling(original_length=16, length=32)), QGain(init=2.25)), post_attention=(AttentionOutputNorm(),)"
OPTIONS = {
    "refiner": "model.post_norm=(CausalConvolution(kernel=3, mask_starts=false),)",
    "bigram": "model.embed.pre_expand=(PreviousTokenEmbedding(weight_transforms=(FakeFloat8(),), mask_starts=false),)",
    "correction": "model.head=CorrectedTiedHead(logits_transforms=(VocabBias(), QuinticCap(cap=10.0)))",
    "swiglu": f"model.block.mlp=NormedSwiGLU(hidden=48, linear=Linear({LINEAR}))",
    "grouped swiglu": f"model.block.mlp=NormedSwiGLU(hidden=48, linear=GroupedLinear(groups=2, {LINEAR}))",
    "grouped": f"model.block.mlp.linear=GroupedLinear(groups=2, {LINEAR})",
    "differential": f"model.block.mixer=SplitValueDifferentialAttention({HEADS}, linear=Linear({LINEAR}))",
    "fp4": "model.embed.weight_transforms=(FakeInt4(),)",
}


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float64).eps).sqrt()


def ternary(w: Tensor) -> Tensor:
    groups = w.reshape(-1, 16)
    scale = groups.abs().mean(1, keepdim=True)
    return (scale * (groups / scale).round().clamp(-1, 1)).reshape(w.shape)


def binary(w: Tensor) -> Tensor:
    groups = w.reshape(-1, 16)
    return (groups.abs().mean(1, keepdim=True) * torch.where(groups >= 0, 1.0, -1.0)).reshape(w.shape)


def float8(w: Tensor) -> Tensor:
    return Float8Grid().fake_quantize(w).double()


def int4(w: Tensor) -> Tensor:
    step = w.abs().amax(1, keepdim=True) / 7
    return step * (w / step).round()


def rotated(x: Tensor) -> Tensor:
    """Rotary positions of heads (B, T, H, 8): base 5,000, low frequencies divided by up to 2 (YaRN's ramp)."""
    i = torch.arange(0, 8, 2).double() / 8
    frequencies = 5000.0**-i / (1 + ((i - 0.25) / 0.75).clamp(0, 1))
    angle = (torch.arange(x.shape[1]).double()[:, None] * frequencies)[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin()], -1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with two query heads for each key and value, position by position."""
    out = torch.zeros_like(q[..., : v.shape[-1]])
    for h in range(q.shape[2]):
        for t in range(q.shape[1]):
            scores = torch.einsum("bd,bsd->bs", q[:, t, h], k[:, : t + 1, h // 2]) / math.sqrt(q.shape[-1])
            out[:, t, h] = torch.einsum("bs,bsd->bd", scores.softmax(-1), v[:, : t + 1, h // 2])
    return out


class Replay:
    """Logits from the weights w by path. `rounded`: the rounding of matrices in blocks, `lookup` that of the table."""

    def __init__(
        self, w: dict[str, Tensor], rounded: Callable[[Tensor], Tensor], lookup: Callable[[Tensor], Tensor] = float8
    ) -> None:
        self.w, self.rounded, self.lookup = w, rounded, lookup
        self.layers = 1 + max(int(path.split(".")[1]) for path in w if path.startswith("blocks."))

    def logits(self, ids: Tensor) -> Tensor:
        w, half = self.w, self.layers // 2
        rows = self.lookup(w["embed.weight"])[ids]
        if "embed.pre_expand.0.table.weight" in w:
            previous = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
            rows = rows + float8(w["embed.pre_expand.0.table.weight"])[previous]
        x = x0 = rms(rows @ float8(w["embed.expand.weight"]).T)
        saved = list[Tensor]()
        for i in range(self.layers):
            if i >= half and saved:
                x = x + w["layer_schedule.skip.weight"][i - half] * saved.pop()
            x = self.block(i, x, x0)
            if i < half:
                saved.append(x)
        x = rms(x)
        if "post_norm.0.scale" in w:
            x = x + torch.tanh(w["post_norm.0.scale"]) * rms(self.convolution(x))
        table = w["embed.weight"] + w.get("head.correction", torch.zeros(()))
        u = ((x @ float8(w["embed.reduce.weight"]).T @ table.T + w["head.logits_transforms.0.weight"]) / 10).clamp(
            -2, 2
        )
        return 10 * (u - u**3 / 3 + u**5 / 15).clamp(-1, 1)

    def block(self, i: int, x: Tensor, x0: Tensor) -> Tensor:
        w = {path.removeprefix(f"blocks.{i}."): v for path, v in self.w.items() if path.startswith(f"blocks.{i}.")}
        mix = w["pre_block.0.weight"]
        x = mix[0] * x + mix[1] * x0
        x = x + w["mixer_scale.0.weight"] * self.mixer(w, rms(x))
        x = x + w["mlp_scale.0.weight"] * self.mlp(w, rms(x))
        if "post_block.0.theta" in w:
            mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1).double()[:, None]
            x = x + torch.tanh(w["post_block.0.theta"]) * (mean - x)
        return x

    def mixer(self, w: dict[str, Tensor], x: Tensor) -> Tensor:
        three = [w[f"mixer.{name}.weight"] for name in ("qkv", "q", "k", "v") if f"mixer.{name}.weight" in w]
        parts = torch.cat([x @ self.rounded(m).T for m in three], -1).unflatten(-1, (8, 8))
        q, k, v = rotated(rms(parts[:, :, :4])), rotated(rms(parts[:, :, 4:6])), parts[:, :, 6:]
        q = q * w["mixer.qk.2.weight"][:, None]
        if "mixer.weight" in w:
            first, second = (attention(q[..., s], k[..., s], v[..., s]) for s in (slice(4), slice(4, 8)))
            second = w["mixer.weight"][:, None] * second
            y = torch.cat([first - second, first + second], -1)
        else:
            y = attention(q, k, v)
        return rms(y.flatten(2)) @ self.rounded(w["mixer.out.weight"]).T

    def mlp(self, w: dict[str, Tensor], x: Tensor) -> Tensor:
        if "mlp.gate_up.weight" in w:
            gate, up = self.product(w["mlp.gate_up.weight"], x).chunk(2, -1)
            hidden = gate / (1 + torch.exp(-gate)) * up
        else:
            hidden = self.product(w["mlp.up.weight"], x).clamp_min(0).square()
        return self.product(w["mlp.down.weight"], rms(hidden))

    def product(self, matrix: Tensor, x: Tensor) -> Tensor:
        """x times a matrix, which is block-diagonal if it has fewer columns than x has channels."""
        rows = self.rounded(matrix)
        return x @ torch.block_diag(*rows.chunk(x.shape[-1] // rows.shape[1])).T

    def convolution(self, x: Tensor) -> Tensor:
        weight, y = self.w["post_norm.0.project.weight"].view(DIM, DIM, 3), torch.zeros_like(x)
        for t in range(x.shape[1]):
            for j in range(max(0, 2 - t), 3):
                y[:, t] += x[:, t - 2 + j] @ weight[:, :, j].T
        return y


@pytest.mark.parametrize("chosen", ["", *OPTIONS, "refiner bigram correction differential"])
def test_the_logits_are_those_of_the_formulas(chosen: str) -> None:
    recipe = small_recipe(get_recipe("pr640")).set("model.layers", 3)
    for option in [chosen] if chosen in OPTIONS else chosen.split():
        recipe = apply_assignment(recipe, OPTIONS[option])
    model = built(recipe().model, vocab=VOCAB).double()
    ids = torch.randint(2, VOCAB, (2, 12), generator=torch.Generator().manual_seed(3))
    weights = {path: p.detach() for path, p in model.named_parameters()}
    expected = Replay(weights, ternary, int4 if chosen == "fp4" else float8).logits(ids)
    assert expected.std() > 0.1 and torch.allclose(model(ids), expected, atol=2e-5)


def test_the_binary_model_with_running_means() -> None:
    recipe = small_recipe(get_recipe("pr641")).set("model.layers", 3).set("model.residual_dtype", "auto")  # float64
    model = built(recipe().model, vocab=VOCAB).double()
    ids = torch.randint(2, VOCAB, (2, 12), generator=torch.Generator().manual_seed(3))
    expected = Replay({path: p.detach() for path, p in model.named_parameters()}, binary).logits(ids)
    assert expected.std() > 0.1 and torch.allclose(model(ids), expected, atol=2e-5)
