"""What training leaves of itself: the outcome of the stage `train`, and the contents of `train.json`."""

from __future__ import annotations

import msgspec


class PartUsageRow(msgspec.Struct, frozen=True):
    """What a kind of part, or a rule of the optimizer, owns, and how often it ran in one forward pass."""

    part: str
    tensors: int
    parameters: int
    calls: int


class ReserveRecord(msgspec.Struct, frozen=True):
    """Seconds of the training clock that calibration was measured to need: see `runtime.progress.CalibrationReserve`."""

    rounds: int
    round_seconds: float
    fixed_seconds: float


class TrainingTime(msgspec.Struct, frozen=True, kw_only=True):
    """How long training took.

    training_seconds: on the training clock; time_limit_seconds: of it, 0 is none.
    calibration_reserve: None where it was not measured.
    """

    training_seconds: float
    time_limit_seconds: float
    calibration_reserve: ReserveRecord | None


class TrainingResult(TrainingTime, frozen=True, kw_only=True):
    """How training went.

    loss: of the last step, nats per token. graph, kernels: how a step was computed. epochs: how often the text was read.
    device: which one, and why.
    """

    steps: int
    tokens: int
    loss: float
    graph: str
    kernels: list[str]
    part_usage: list[PartUsageRow]
    epochs: float
    device: str
    processes: int
    parameters: int
