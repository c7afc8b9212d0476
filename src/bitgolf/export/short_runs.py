"""Short forms of functions that train, calibrate and score; see `short_forms`."""

from __future__ import annotations

from typing import Any

from bitgolf.export.short_forms import short_form_of


@short_form_of("bitgolf.training.setup")
def _usage_rows(trainer: Any) -> list[Any]:
    """The usage of parts is stated by the run."""
    return []


@short_form_of("bitgolf.training.micro_batch")
def estimate_micro_batch(trainer: Any, log: Any) -> float:
    """No estimate: whole shares of batches are tried first."""
    return float("inf")


@short_form_of("bitgolf.optim.parameter_group")
def check_same_form(saved: Any, own: Any, *, where: str, hint: str) -> None:
    """The state is the trainer's own."""


@short_form_of("bitgolf.training.loop")
def train(trainer: Any, folder: Any, report: Any, *, resume: bool, limit: float | None = None) -> Any:
    """Train until a limit is reached, without checkpoints.

    On a GPU, the loss of a step is read after the next step has been launched, so that the GPU never waits.
    """
    import math
    import time

    import torch

    from bitgolf.runtime.distributed import all_reduce_mean, broadcast_list
    from bitgolf.runtime.progress import TrainingProgress
    from bitgolf.training.checkpoint_manager import TrainResult
    from bitgolf.training.loss_reporter import AsyncScalar

    step, tokens, steps, loss, previous = 0, 0, trainer.settings.steps, math.nan, None
    every = 1 if trainer.device.torch_device.type == "cpu" else 50
    now, started = TrainingProgress(0, steps, 0.0, limit or 0.0), time.perf_counter()
    while True:
        if previous and now.steps_left < 3:
            loss, previous = previous.read(), None
        (elapsed,) = broadcast_list([time.perf_counter() - started], trainer.distributed)
        now = TrainingProgress(step, steps, elapsed, limit or 0.0)
        if now.fraction >= 1:
            break
        last, previous = previous, AsyncScalar(trainer.step(step, now))
        if every == 1:
            last, previous = previous, None
        if last:
            loss = last.read()
            if not math.isfinite(loss):
                raise ArithmeticError(f"the loss is {loss} at step {step}")
        step, tokens = step + 1, tokens + trainer.settings.batch_shape(now.fraction).tokens
        if step % every == 0:
            mean = all_reduce_mean(torch.tensor(loss), trainer.distributed)
            report("step", step=step, loss=float(mean), training_seconds=f"{elapsed:.3f}")
    return TrainResult(step, tokens, elapsed, loss, limit or 0.0)


@short_form_of("bitgolf.score.evaluate")
def evaluate_method(context: Any, method: Any, *, baseline: bool = True) -> Any:
    """Score by one method, with a batch that fits the memory."""
    from contextlib import closing

    from bitgolf.score.execution.batch_size import choose_batch_size
    from bitgolf.score.referee import score

    made, distributed = method(), context.distributed
    text, order_bits = made.order.apply(context.text)
    batch = choose_batch_size(context.model, made, context.device, distributed).tokens
    player = made.make_player(context.model, context.vocab, context.device, distributed, context.kernels)
    with closing(player):
        if player.forward:
            player.forward.set_max_tokens(batch)
        found = score(player, text, made, distributed=distributed, batch_tokens=batch)
    return found._replace(order_bits=order_bits)


@short_form_of("bitgolf.score.bit_breakdown")
def zero_charges(text: Any, tokenizer: Any) -> None:
    """A script reports totals only."""


@short_form_of("bitgolf.score.bit_breakdown")
def bit_breakdown(text: Any, charges: Any, tokenizer: Any, distributed: Any) -> None:
    """A script reports totals only."""


CALIBRATED = dict[Any, Any]()
"""Path of a file that is not written -> the statistics that it would have. The process that calibrates packs, too."""


@short_form_of("bitgolf.quantize.calibration.stats_file")
def save_calibration(path: Any, stats: Any, about: Any = None) -> None:
    """Keep the statistics."""
    CALIBRATED[path] = stats


@short_form_of("bitgolf.quantize.calibration.stats_file")
def load_calibration(path: Any) -> Any:
    """Return the statistics that `save_calibration` has kept."""
    return CALIBRATED[path]


@short_form_of("bitgolf.report.progress")
class WorkProgress:
    """Nobody watches a script."""

    def __init__(self, show: Any, stage: str, unit: str) -> None:
        pass

    def update(self, done: float, total: float) -> None:
        """Show nothing."""


def no_calibration(*arguments: Any, **options: Any) -> Any:
    """What stands for calibration in a script whose recipe has none: it is never called."""


CALIBRATION = (
    ("bitgolf.pipeline.calibration", "calibrate_run"),
    ("bitgolf.quantize.calibration.stats_file", "load_calibration"),
    ("bitgolf.pipeline.calibration", "remaining_seconds"),
    ("bitgolf.pipeline.calibration", "measure_calibration_reserve"),
)
"""(module, name) of the functions that `no_calibration` replaces."""


def no_contexts(*arguments: Any, **options: Any) -> Any:
    """What stands for the context models of codes in a script whose recipe codes none with contexts."""


CONTEXTS = (("bitgolf.quantize.encoding", "context_models"), ("bitgolf.pack.streams", "_stream_context_models"))
"""(module, name) of the functions that `no_contexts` replaces."""
