"""What `bitgolf run` says before it trains: cautions, the forecast of the artifact, and the space on the disk."""

from __future__ import annotations

from bitgolf.cautions import cautions
from bitgolf.data.manifest import load_manifest
from bitgolf.data.shard_folder import open_shard_folder
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.pipeline.code_size import NOT_COUNTED, CodeSize, check_room, code_size, size_if_counted
from bitgolf.pipeline.data import text_source
from bitgolf.pipeline.forecast import FORECAST_ERROR, RecipeForecast, forecast_recipe, forecast_run_bytes
from bitgolf.pipeline.state import Run
from bitgolf.quantize.diagnose.qat_consistency import qat_mismatches
from bitgolf.runtime.disk_space import free_bytes
from bitgolf.tokens.loading import load_tokenizer


def preview_training(run: Run, *, prepared: bool, strict_cap: bool) -> None:
    """Log the forecasts and cautions of a run that will be trained.

    prepared: the data of the run is used as it is. Raises `RecipeError` if the forecast is over the cap and `strict_cap`
    is set, and `BitgolfError` if the disk has too little space. Nothing is written.
    """
    recipe = run.recipe()
    vocab, code = _vocab_and_code(run, prepared=prepared)
    check_room(recipe.pack(), code)
    found = forecast_recipe(recipe, vocab, code)
    expected = found.forecast
    run.log.info(f"forecast: {expected.total:,} / {expected.cap:,} bytes ({_parts(expected)}{FORECAST_ERROR})")
    run.log.event("forecast", bytes=expected.total, cap=expected.cap)
    if code.bytes is None and recipe.pack().counted == "model+code":
        run.log.event("warning", message=f"the cap is compared with the model alone, without code: {code.note}")
    known = [*cautions(run.recipe), *qat_mismatches(found.model, recipe.quantize)]
    for caution in filter(None, [expected.over_cap, *known]):
        run.log.event("warning", message=f"caution: {caution}")
    if strict_cap and expected.over_cap:
        raise _over_cap(expected)
    text_bytes = 0 if prepared or run.shards else text_source(run)().size()
    _check_disk(run, forecast_run_bytes(recipe, found, text_bytes))


def _vocab_and_code(run: Run, *, prepared: bool) -> tuple[int, CodeSize]:
    """Size of the vocabulary that the model will have, and of the script, which is made only if the cap limits it.

    Both depend on the tokenizer: that of existing shards, otherwise the recipe's.
    """
    counted = run.recipe().pack().counted == "model+code"
    if not (prepared or run.shards):
        return run.recipe().tokens().vocab, size_if_counted(run.recipe)
    if prepared:
        tokenizer, vocab = load_tokenizer(run.data_folder / "tokenizer.model"), load_manifest(run.data_folder).vocab
    else:
        assert run.shards
        tokenizer = open_shard_folder(run.shards, run.tokenizer).tokenizer
        vocab = tokenizer.vocab
    return vocab, code_size(run.recipe, tokenizer.kind) if counted else NOT_COUNTED


def _parts(expected: RecipeForecast) -> str:
    """What the forecast consists of, if that is more than the model."""
    return f"model {expected.bytes:,}, script {expected.code:,}; " if expected.total > expected.bytes else ""


def _over_cap(expected: RecipeForecast) -> RecipeError:
    return RecipeError(
        f"{expected.over_cap}; {FORECAST_ERROR}",
        where="--strict-cap",
        hint="use fewer bits (quantize), a smaller model or a larger pack.cap, or leave --strict-cap out",
    )


def _check_disk(run: Run, needed: int) -> None:
    """Log the space that the run needs. Raises `BitgolfError` if the disk has less."""
    free = free_bytes(run.folder)
    run.log.info(f"disk: the run needs about {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free")
    if needed > free:
        message = f"the run needs about {needed:,} bytes, but the disk has {free:,} free"
        raise BitgolfError(message, where=str(run.folder), hint="free some space, or choose another disk with --out")
