"""The predicted cost of an error: its formula, and its agreement with the loss of a trained model."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.model.head import UntiedHead
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.lm import LM
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.stats import MatrixStats, identity_stats
from helpers.toy import VOCAB, toy_model

MODELS: dict[str, Spec[LM]] = {
    "flat": toy_model(),
    "looped and untied": toy_model().replace(
        layer_schedule=part(UNet, order=part(LoopedLayers, first_layer=1, last_layer=2, since=(0.3,))),
        head=part(UntiedHead),
    ),
}


def text(rows: int, seed: int) -> Tensor:
    """Ids (rows, 33) of a toy language: a token depends on the previous one, and eight tokens recur sometimes."""
    g = torch.Generator().manual_seed(seed)
    chances = torch.softmax(2 * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1)), 1)
    ids = [torch.randint(VOCAB, (rows,), generator=g)]
    for _ in range(15):
        ids.append(torch.multinomial(chances[ids[-1]], 1, generator=g).squeeze(1))
    half = torch.stack(ids, 1)
    return torch.cat([half, half, half[:, :1]], 1)


@functools.cache
def trained(kind: str) -> LM:
    """A model trained for a few seconds: about 3 nats on the first half of a text, less on its repetition."""
    torch.manual_seed(0)
    model = MODELS[kind](BuildContext(vocab=VOCAB))
    adam, steps = torch.optim.Adam(model.parameters()), 150
    for step in range(steps):
        adam.param_groups[0]["lr"] = 6e-3 * min(1.0, 2 * (1 - step / steps))
        ids = text(8, 100 + step)
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        adam.step()
        adam.zero_grad()
    return model.eval()


class Rises:
    """Increase of the loss by a change of one matrix, in nats per token, computed in float64."""

    def __init__(self, model: LM, ids: Tensor) -> None:
        self.model, self.ids = model.double(), ids
        self.plain = self.logs()

    @torch.no_grad()
    def logs(self) -> Tensor:
        return self.model(self.ids).log_softmax(-1)

    @torch.no_grad()
    def of(self, path: str, error: Tensor) -> float:
        """Increase of the cross-entropy, averaged over targets drawn from the model's own predictions."""
        w = self.model.get_parameter(path)
        before = w.clone()
        w += error
        rise = (self.plain.exp() * (self.plain - self.logs())).sum(-1).mean()
        w.copy_(before)
        return float(rise)

    def both_ways(self, path: str, error: Tensor) -> float:
        return (self.of(path, error) + self.of(path, -error)) / 2


def test_the_formula_row_by_row() -> None:
    g = torch.Generator().manual_seed(0)
    x, outputs, error = (torch.randn(size, generator=g) for size in ((9, 4), (3,), (3, 4)))
    stats = MatrixStats(x.T @ x / 9, outputs.square(), 9)
    by_hand = [0.5 * outputs[i] ** 2 * (x @ error[i]).square().mean() for i in range(3)]
    assert torch.allclose(stats.cost(error), torch.stack(by_hand), rtol=1e-5)
    assert torch.allclose(stats.cost(-2 * error.double()), 4 * torch.stack(by_hand), rtol=1e-5)
    assert torch.allclose(identity_stats(3, 4).cost(error), 0.5 * error.square().sum(1))


def test_the_cost_of_an_error_in_a_model_of_one_matrix() -> None:
    """Logits x Wᵀ of independent inputs: the Fisher information is known, so the cost must be exact."""
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(4000, 6, generator=g).double(), 0.1 * torch.randn(5, 6, generator=g).double()
    p = (x @ w.T).softmax(1)
    stats = MatrixStats((x.T @ x / 4000).float(), (p * (1 - p)).mean(0).float(), 4000)
    rises, costs = [], []
    for _ in range(50):
        error = 0.01 * torch.randn(5, 6, generator=g).double()
        rises.append((p * ((x @ w.T).log_softmax(1) - (x @ (w + error).T).log_softmax(1))).sum(1).mean())
        costs.append(stats.cost(error).sum())
    assert sum(costs) == pytest.approx(float(sum(rises)), rel=0.1)


@pytest.mark.parametrize("kind", [pytest.param("flat", marks=pytest.mark.exhaustive), "looped and untied"])
def test_the_cost_foretells_the_rise_of_the_loss(kind: str) -> None:
    """Each matrix in turn gets a small random error; the costs span three orders of magnitude.

    The cost of the value matrices is underestimated: attention sums their errors over positions, and errors of similar
    positions add up, which a sum over independent positions does not model.
    """
    model, ids = trained(kind), text(32, 0)[:, :-1]
    stats = matrix_stats(observe(model.float(), ids.split(8)))
    rises, g = Rises(model, ids), torch.Generator().manual_seed(0)
    foretold, measured = [], []
    for path, known in stats.items():
        w = model.get_parameter(path).detach()
        errors = [0.02 * w.std() * torch.randn(w.shape, generator=g, dtype=w.dtype) for _ in range(2)]
        foretold.append(sum(float(known.cost(e).sum()) for e in errors))
        measured.append(sum(rises.both_ways(path, e) for e in errors))
    both = torch.tensor([foretold, measured])
    assert torch.corrcoef(both.log())[0, 1] > 0.95 and torch.corrcoef(both)[0, 1] > 0.9
    off = dict(zip(stats, (both[0] / both[1]).tolist(), strict=True))
    values = [path for path in off if path.endswith("mixer.v.weight")]
    assert all(0.2 < off[path] < 2 for path in values)
    assert len(values) == 3 and all(0.5 < ratio < 2 for path, ratio in off.items() if path not in values)


@pytest.mark.slow
def test_the_cost_foretells_what_rounding_does() -> None:
    """Quantization errors of all matrices at once. GPTQ, which uses the Hessian only, lowers the cost."""
    model, ids = trained("flat"), text(32, 0)[:, :-1]
    stats = matrix_stats(observe(model.float(), ids.split(8)))
    plain = {path: model.get_parameter(path).detach().clone() for path in stats}
    rises, found = Rises(model, ids), {}
    for name, codec in {"nearest": IntRows(bits=6), "gptq": IntRows(bits=6, solver=part(GPTQ))}.items():
        errors = {p: codec.decode(codec.encode(w, stats[p]), tuple(w.shape)) - w for p, w in plain.items()}
        cost = sum(float(stats[path].cost(error).sum()) for path, error in errors.items())
        with torch.no_grad():
            for path, error in errors.items():
                model.get_parameter(path).copy_(plain[path] + error)
            rise = float((rises.plain.exp() * (rises.plain - rises.logs())).sum(-1).mean())
            for path, w in plain.items():
                model.get_parameter(path).copy_(w)
        found[name] = cost, rise
        assert 0.5 < cost / rise < 2
    assert found["gptq"][1] < 0.8 * found["nearest"][1]
