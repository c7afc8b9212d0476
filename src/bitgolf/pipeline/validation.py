"""Validation during training: the referee's score of the first held-out targets.

Only here is held-out text read before the stage `score`, and only if the recipe has `train.validation`. Training gets
nothing from it: the weights are copied into a model of its own, and what comes back is a number for the log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bitgolf.config.spec import Spec
from bitgolf.data.manifest import load_manifest
from bitgolf.model.build import build_on_meta
from bitgolf.model.part import Scheduled
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.report.progress import WorkProgress
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.held_out_bpb import GPU_BATCH_TOKENS, HeldOutBpb
from bitgolf.score.methods import ContiguousScoring, ScoringMethod
from bitgolf.score.text import load_validation
from bitgolf.training.validation import Validation
from bitgolf.training.validator import HeldOutLoss


class HeldOutEvaluation:
    """Scores weights on the first held-out targets of a run, in windows that do not overlap.

    recipe, data: of the run. All processes of `distributed` make one and call it together.
    Raises `CorruptFileError` if a validation shard is not the one that the manifest states.
    """

    def __init__(
        self,
        recipe: Spec[Recipe],
        settings: Validation,
        data: Path,
        device: Device,
        distributed: DistributedContext,
        log: RunLog,
    ) -> None:
        manifest, text = load_manifest(data), load_validation(data)
        model = build_on_meta(recipe().model, manifest.vocab, manifest.bos)
        self.scheduled = [part for part in model.modules() if isinstance(part, Scheduled)]
        self.log, method, tokens = log, contiguous_method(recipe), settings.tokens or text.num_targets
        self.held_out = HeldOutBpb(model, text, method, device, tokens, distributed)

    @property
    def targets(self) -> int:
        """Number of targets that are scored."""
        return self.held_out.targets

    def warm_up(self, weights: Mapping[str, Tensor]) -> None:
        """Take the memory for the model, and compile its graphs: the first batch is scored."""
        self.held_out.load(weights)
        self.held_out.score_loaded(targets=min(self.held_out.targets, GPU_BATCH_TOKENS))

    def __call__(self, weights: Mapping[str, Tensor], progress: TrainingProgress) -> HeldOutLoss:
        """Score the weights in the phase of training that `progress` is in."""
        self.held_out.load(weights)
        for part in self.scheduled:
            part.update(progress)
        found = self.held_out.score_loaded(progress=self._shown())
        return HeldOutLoss(found.bpb, found.bits * math.log(2) / found.targets, found.targets)

    def _shown(self) -> ProgressCallback:
        share = -(-self.held_out.targets // self.held_out.distributed.world_size)
        work = WorkProgress(self.log.progress, "validation", "targets")
        return lambda done, _, bits: work.update(min(done, share), share)


def contiguous_method(recipe: Spec[Recipe]) -> ScoringMethod:
    """The recipe's first method without adaptation, with windows that do not overlap."""
    first = recipe["score.0"]()
    first = without() if (without := first.without_adaptation()) else first
    if isinstance(first, ContiguousScoring):
        return first
    return ContiguousScoring(window=first.window, isolated=first.isolated, rope_scaling=first.rope_scaling)
