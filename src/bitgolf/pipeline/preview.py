"""What `bitgolf run` says before it trains: cautions, the forecast of the artifact, and the space on the disk."""

from __future__ import annotations

from bitgolf.cautions import cautions
from bitgolf.data.manifest import load_manifest
from bitgolf.data.shard_folder import open_shard_folder
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.pipeline.data import text_source
from bitgolf.pipeline.forecast import FORECAST_ERROR, RecipeForecast, forecast_recipe, forecast_run_bytes
from bitgolf.pipeline.state import Run
from bitgolf.quantize.diagnose.qat_consistency import qat_mismatches
from bitgolf.runtime.disk_space import free_bytes


def preview_training(run: Run, *, prepared: bool, strict_cap: bool) -> None:
    """Log the forecasts and cautions of a run that will be trained.

    prepared: the data of the run is used as it is. Raises `RecipeError` if the forecast is over the cap and `strict_cap`
    is set, and `BitgolfError` if the disk has too little space. Nothing is written.
    """
    recipe = run.recipe()
    found = forecast_recipe(recipe, _vocab(run, prepared=prepared))
    expected = found.forecast
    run.log.info(f"forecast: {expected.bytes:,} / {expected.cap:,} bytes ({FORECAST_ERROR})")
    for caution in [*cautions(run.recipe, expected.bytes), *qat_mismatches(found.model, recipe.quantize)]:
        run.log.event("warning", message=f"caution: {caution}")
    if strict_cap and expected.bytes > expected.cap:
        raise _over_cap(expected)
    text_bytes = 0 if prepared or run.shards else text_source(run)().size()
    _check_disk(run, forecast_run_bytes(recipe, found, text_bytes))


def _vocab(run: Run, *, prepared: bool) -> int:
    """Size of the vocabulary that the model will have: that of existing shards, otherwise the recipe's."""
    if prepared:
        return load_manifest(run.data_folder).vocab
    if run.shards:
        return open_shard_folder(run.shards, run.tokenizer).tokenizer.vocab
    return run.recipe().tokens().vocab


def _over_cap(expected: RecipeForecast) -> RecipeError:
    excess = f"{expected.bytes - expected.cap:,} more than the cap of {expected.cap:,}"
    return RecipeError(
        f"the artifact is forecast to have {expected.bytes:,} bytes, {excess} ({FORECAST_ERROR})",
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
