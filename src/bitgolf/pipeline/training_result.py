"""The outcome of the stage `train`, which is also the contents of `train.json`."""

from __future__ import annotations

import msgspec


class PartUsageRow(msgspec.Struct, frozen=True):
    """Tensors and parameters of a kind of part or of an optimizer rule; calls: in one forward pass."""

    part: str
    tensors: int
    parameters: int
    calls: int


class ReserveRecord(msgspec.Struct, frozen=True):
    """Measured time that calibration needs; fields as in `runtime.progress.CalibrationReserve`."""

    rounds: int
    round_seconds: float
    fixed_seconds: float


class TrainingTime(msgspec.Struct, frozen=True, kw_only=True):
    """Duration of training.

    training_seconds: on the training clock. time_limit_seconds: limit of training_seconds, 0 for none.
    calibration_reserve: None if it was not measured.
    """

    training_seconds: float
    time_limit_seconds: float
    calibration_reserve: ReserveRecord | None


class TrainingResult(TrainingTime, frozen=True, kw_only=True):
    """Outcome of training.

    loss: of the last step, in nats per token. graph: whether the step was compiled. kernels: one line per kind of part.
    part_usage: parameters and calls of each part. epochs: training tokens divided by tokens of the text.
    device: description of the device and of its number format.
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
