"""What the recipe `auto` has chosen, as a table: the value, because of what, and how to override it."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.recipes import scaling_laws
from bitgolf.recipes.choose import CALIBRATION_SHARE, Choice
from bitgolf.report.progress import duration
from bitgolf.report.text_table import text_table

Row = tuple[str, str, str, str]


COLUMNS = ("choice", "value", "because of", "override")


def auto_table(choice: Choice, width: int) -> str:
    """A row for each choice, and the forecasts on which they rest, in lines of at most `width` columns."""
    budget = choice.budget
    given = f"{budget.cap:,} bytes, {duration(budget.seconds)}, {budget.text_bytes:,} bytes of text"
    title = f"auto: chosen for {given}, at {budget.speed / 1e9:,.4g} GFLOP/s of training"
    rows = list(_rows(choice))
    if choice.recipe:
        rows = [("recipe", choice.recipe, "it was tuned at this cap and clock", "another --cap or --seconds")]
    forecasts = [] if choice.recipe else ["", *text_table(("", ""), _forecasts(choice), text_columns=2, width=width)]
    return "\n".join([title, *text_table(COLUMNS, rows, text_columns=4, width=width), *forecasts])


def _rows(choice: Choice) -> Iterator[Row]:
    sizes, budget = choice.sizes, choice.budget
    yield "width", f"{sizes.width:,}", _limit(choice), "--set model.dim=N"
    yield "layers", str(sizes.layers), "the width: 2 at 128, 11 at 512", "--set model.layers=N"
    yield "hidden units", f"{sizes.hidden:,}", "the width", "--set model.hidden=N"
    text = "the shards" if budget.vocab else "least predicted loss; the table is stored and takes time"
    yield "vocabulary", f"{sizes.vocab:,}", text, "other shards" if budget.vocab else "--set tokens.vocab=N"
    bits = (
        "the cap" if choice.limit == "cap" else f"the cap has room; more than {scaling_laws.MOST_BITS:g} gain nothing"
    )
    yield "bits per weight", f"{sizes.bits:.2f}", bits, "--set TrellisCodec.bits=N"
    batch = f"{sizes.rows:,} x {sizes.length:,} tokens"
    yield "batch", batch, f"{choice.tokens:,} training tokens", "--set train.rows=N --set train.length=N"
    rates = f"Muon {sizes.matrix_lr:g}, Adam {sizes.table_lr:g}, decay {sizes.weight_decay:.2g}"
    yield "learning rates", rates, "as in quickstart", "--set Muon.lr=X"
    if sizes.steps:
        yield (
            "steps",
            f"{sizes.steps:,}",
            f"{scaling_laws.MOST_EPOCHS} passes over the text end training",
            "--set train.steps=0",
        )
    calibration = f"{sizes.calibration_batches:,} batches"
    yield "calibration", calibration, f"the clock: {CALIBRATION_SHARE:.0%} of it", "--set calibrate.source.batches=N"
    yield "scored tokens", f"{choice.score_tokens:,}", "the clock: scoring takes about as long", "--score-tokens N"


def _limit(choice: Choice) -> str:
    """Why the model is not larger."""
    return {
        "cap": f"the cap: a wider model would have too few bits, at least {scaling_laws.LEAST_BITS:g}",
        "text": "the text: a wider model would not learn more from it",
        "clock": "the clock: a wider model would be trained on too few tokens",
    }[choice.limit]


def _forecasts(choice: Choice) -> Iterator[tuple[str, str]]:
    yield "weights", f"{choice.sizes.weights:,}"
    yield "training tokens", f"{choice.tokens:,}, {choice.epochs:.2g} passes over the text"
    yield (
        "bits per byte",
        f"{choice.trained_bpb:.3f} trained, {choice.packed_bpb:.3f} packed, if the text is English prose",
    )
    budget = choice.budget
    room = f", of which at most {budget.cap - budget.model_bytes:,} are for the script"
    code = room if budget.counted == "model+code" else ""
    yield "bytes", f"{choice.bytes:,} / {budget.cap:,}{code}"
