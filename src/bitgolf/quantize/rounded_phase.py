"""The last phase of training on weights rounded by the codecs that will store them: settings, and the rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.ranges import Count, FractionBelowOne
from bitgolf.config.registry import register
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.model.parameters import parameter_roles
from bitgolf.quantize.calibration.calibrate import Calibrate, check_calibration
from bitgolf.quantize.calibration.sources import CalibrationContext
from bitgolf.quantize.codecs.codec import Codec, Float
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import Roles, codecs_by_path, decode_model, encode_model
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext


@register
class RoundedPhase:
    """Training from the fraction `since` of the run on with the weights as `quantize` and `calibrate` would store them.

    The weights are calibrated and encoded at the first step of the phase and at every `every`-th step, on the training
    clock; in between, the rounding errors of the last encoding are added to the weights. Gradients are applied to the
    weights themselves. Parameters that are stored as floats are not rounded.
    quantize, calibrate: those of the recipe, or coarser or faster ones.
    An average of weights is one of the weights themselves.
    """

    def __init__(
        self,
        *,
        quantize: tuple[Spec[Rule[Codec]], ...],
        calibrate: Spec[Calibrate] | None = None,
        since: FractionBelowOne = 0.9,
        every: Count = 25,
    ) -> None:
        check_calibration(quantize, calibrate)
        if all(isinstance(rule().use(), Float) for rule in quantize):
            message = "every codec stores floats, so there is nothing to round"
            raise RecipeError(message, where="RoundedPhase.quantize", hint="use the rules of `quantize` of the recipe")
        self.quantize, self.calibrate, self.since, self.every = quantize, calibrate, since, every

    def paths(self, roles: Roles) -> list[str]:
        """The paths of the parameters that are rounded, of all those with these roles."""
        codecs = codecs_by_path(roles, self.quantize)
        return [path for path, codec in codecs.items() if not isinstance(codec, Float)]

    def stored(
        self, subject: CalibrationContext, distributed: DistributedContext = SINGLE_PROCESS
    ) -> dict[str, Tensor]:
        """Path -> the weights of the model as stored, float32, for the parameters that are rounded.

        The model and the random state stay as they are.
        """
        roles = parameter_roles(subject.model)
        weights = {path: p.detach() for path, p in subject.model.named_parameters()}
        device = next(iter(weights.values())).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            known = self.calibrate().collect(subject, distributed).stats if self.calibrate else None
        codes = encode_model(weights, roles, self.quantize, known, EncodingSession(device=device))
        decoded = decode_model(codes, {path: tuple(w.shape) for path, w in weights.items()}, roles, self.quantize)
        return {path: decoded[path].to(device) for path in self.paths(roles)}
