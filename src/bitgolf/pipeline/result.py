"""The result of a run. The fields are the keys of `run --json` and of `score.json` in the run's folder."""

from __future__ import annotations

import msgspec

from bitgolf.pipeline.calibration import CalibrationSummary, TrainingClock
from bitgolf.pipeline.compression import ArtifactSizes
from bitgolf.pipeline.training_result import PartUsageRow
from bitgolf.score.result import MethodResult, RoundTripResult


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run found.

    run: its folder; recipe, hash: the recipe's name and what identifies it. tokens: that were trained on.
    seconds: wall time by stage, start-up included; training_clock: what counts against the limit of time.
    bpb: by stage of the weights and by method, on held-out text.
    """

    run: str
    recipe: str
    hash: str
    seed: int
    device: str
    params: int
    tokens: int
    steps: int
    seconds: dict[str, float]
    training_clock: TrainingClock
    calibration: CalibrationSummary
    bpb: dict[str, float | None]
    bytes: ArtifactSizes
    fits: bool
    roundtrip: RoundTripResult | None
    methods: list[MethodResult]
    part_usage: list[PartUsageRow]
