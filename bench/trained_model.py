"""The model of `bench/compression.py` and `bench/scoring.py`: trained and calibrated once, then measured in many forms."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import torch
from compression_schemes import LENGTH
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.spec import Spec
from bitgolf.files import write_json
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.pipeline.averaging import average
from bitgolf.pipeline.calibration import calibrate
from bitgolf.pipeline.data import prepare
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training import train
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.score.execution.forward import kernel_selector
from bitgolf.score.methods import ContiguousScoring
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import load_validation

WINDOWS = 64
"""Number of held-out windows on which the KL divergence is measured."""


def train_once(folder: Path, data: Path, seed: int, recipe: Spec[Recipe]) -> None:
    """Train, average and calibrate on the shards of `data`, in `folder`, unless that was done before."""
    if (folder / "calibration.safetensors").exists():
        return
    print(f"{folder}: training {recipe().train().steps} steps", file=sys.stderr)
    with closing(RunLog(folder)) as log:
        run = Run(recipe, folder, log, seed, shards=data, resume=True)
        write_json(folder / "recipe.json", recipe.to_json())
        prepare(run)
        run.completed["train"] = msgspec.to_builtins(train(run))
        average(run)
        calibrate(run)


class TrainedModel:
    """A trained and calibrated model, and the held-out tokens on which its compressed forms are scored."""

    def __init__(self, folder: Path, data: Path, seed: int, recipe: Spec[Recipe], tokens: int) -> None:
        train_once(folder, data, seed, recipe)
        self.weights = load_file(folder / "averaged.safetensors")
        self.stats = load_calibration(folder / "calibration.safetensors")
        self.shapes = {path: tuple(w.shape) for path, w in self.weights.items()}
        self.text = load_validation(data).head(tokens)
        self.vocab = len(self.weights["embed.weight"])
        self.recipe = recipe
        self.kinds = parameter_roles(self.model({}))
        self.device = select_device()
        self.kernels = kernel_selector(self.device)
        self.averaged, self.reference = self.bpb(self.weights), self.predictions(self.weights)

    def model(self, weights: dict[str, Tensor]) -> LM:
        model = build_on_meta(self.recipe().model, self.vocab)
        model.load_state_dict(weights, assign=True, strict=bool(weights))
        return model.eval()

    def bpb(self, weights: dict[str, Tensor]) -> float:
        model = self.model({path: w.clone() for path, w in weights.items()})
        player = StaticPlayer(model, self.vocab, self.device, kernels=self.kernels)
        return score(player, self.text, ContiguousScoring(window=LENGTH)).bpb

    def predictions(self, weights: dict[str, Tensor]) -> Tensor:
        """(windows, length, vocabulary) log-probabilities of the first held-out windows."""
        windows = min(WINDOWS, self.text.num_targets // LENGTH)
        rows = torch.from_numpy(self.text.tokens[: windows * LENGTH].copy()).view(windows, LENGTH)
        model = self.model(weights)
        with torch.inference_mode():
            return torch.cat([model(row[None]).float().log_softmax(-1) for row in rows])

    def kl_divergence(self, weights: dict[str, Tensor]) -> float:
        """KL divergence from the averaged model's predictions to those of these weights, in bits per byte.

        The gap in bits per byte also contains the slope of the held-out loss, noise of either sign: the weights are not a
        minimum of that loss. The divergence does not.
        """
        other = self.predictions(weights)
        nats = (self.reference.exp() * (self.reference - other)).sum(-1).mean().item()
        return nats / math.log(2) * self.text.num_targets / self.text.bytes

    def predicted_gap(self, weights: dict[str, Tensor]) -> float:
        """The increase of the loss in bits per byte that the calibration statistics predict for the rounding errors."""
        nats = sum(float(known.cost(weights[path] - self.weights[path]).sum()) for path, known in self.stats.items())
        return nats / math.log(2) * self.text.num_targets / self.text.bytes
