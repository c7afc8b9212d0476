"""The page of a run: the result at a glance, charts, and the sections that say how it was obtained."""

from __future__ import annotations

from bitgolf.pipeline.html_report.charts import run_charts
from bitgolf.pipeline.html_report.contents import ReportContents
from bitgolf.pipeline.html_report.sections import WARNINGS, run_sections
from bitgolf.pipeline.result import RunResult
from bitgolf.report.web_page import Tile, chart_grid, escape, paragraph, section, tiles, web_page


def render_report(contents: ReportContents) -> str:
    """The HTML page of a finished run."""
    result = contents.result
    title = f"{result.recipe} ({result.hash}), seed {result.seed}"
    body = (
        f"<header>\n<h1>{escape(result.recipe)}</h1>\n<p class=subtitle>{escape(_subtitle(contents))}</p>\n"
        f"{_notes(result)}{tiles(_tiles(result))}{_warnings_link(len(contents.warnings))}</header>\n"
        f"{''.join(section(title, chart_grid(cards)) for title, cards in run_charts(contents))}"
        f"{run_sections(contents)}"
    )
    return web_page(f"bitgolf: {title}", body)


def _notes(result: RunResult) -> str:
    """That the run is a quick one, and how much of the text was scored; "" if there is nothing to say."""
    return "".join(paragraph(note) for note in (result.quick_note, result.sample_note) if note)


def _warnings_link(count: int) -> str:
    """How many warnings there are, as a link to them; "" if there are none."""
    return f'<p><a href="#{WARNINGS}">{count:,} warning{"s" * (count != 1)}</a></p>\n' if count else ""


def _subtitle(contents: ReportContents) -> str:
    """Recipe, seed, date, machine and device."""
    result, environment = contents.result, contents.environment
    machine = environment.get("cpu_name") or environment.get("machine")
    said = (f"recipe {result.hash}", f"seed {result.seed}", contents.finished, machine, result.device)
    return " · ".join(str(part) for part in said if part)


def _tiles(result: RunResult) -> list[Tile]:
    """The result: score, size, time."""
    found = []
    if result.methods:
        last = result.methods[-1]
        found.append(Tile("Bits per byte", f"{last.bpb:.4f}", f"held-out text, method {last.method}"))
    sizes, clock = result.bytes, result.training_clock
    share = sizes.total / sizes.cap if sizes.cap else None
    of_cap = f"of {sizes.cap:,} bytes: {'fits' if result.fits else 'does not fit'}"
    counted = "Bytes of model and code" if sizes.code_counts else "Bytes, without the tokenizer"
    found.append(Tile(counted, f"{sizes.total:,}", of_cap, share, result.fits))
    in_time = clock.total <= clock.limit
    limit = f"of {clock.limit:,.1f} s: {'within the limit' if in_time else 'over the limit'}"
    clock_tile = ("Training clock", f"{clock.total:,.1f} s")
    found.append(
        Tile(*clock_tile, limit, clock.total / clock.limit, in_time) if clock.limit else Tile(*clock_tile, "no limit")
    )
    stages = f"{len(result.seconds)} stages"
    found.append(Tile("Time of the run", f"{sum(result.seconds.values()):,.1f} s", stages))
    found.append(Tile("Parameters", f"{result.params:,}", f"{result.steps:,} steps, {result.tokens:,} tokens"))
    return found
