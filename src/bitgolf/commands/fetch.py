"""`bitgolf data fetch`: published shards and their tokenizer from the Hugging Face hub."""

from __future__ import annotations

from bitgolf.data.hub.client import HubClient
from bitgolf.data.hub.fetch import FetchedShards, FetchSettings, fetch_published, format_bytes
from bitgolf.data.hub.published import PUBLISHED, ShardSource
from bitgolf.report.log import RunLog


def fetch_shards(source: ShardSource, settings: FetchSettings) -> FetchedShards:
    """Fetch the shards of a source; see `fetch_published`. Progress is written to standard error."""
    log = RunLog()
    try:
        return fetch_published(HubClient(log), source, settings, log)
    finally:
        log.close()


def fetched_text(fetched: FetchedShards) -> str:
    """Return the result of `fetch_shards` as text."""
    kinds = f"{fetched.train_shards} training shards, {fetched.val_shards} validation shards"
    if fetched.byte_sidecars:
        kinds += f", {fetched.byte_sidecars} byte sidecars"
    sizes = f"{format_bytes(fetched.bytes)}, of which {format_bytes(fetched.bytes_fetched)} fetched now"
    return f"{fetched.folder}: {kinds}, tokenizer {fetched.tokenizer}; {sizes} in {fetched.seconds:.1f} s"


def published_table() -> str:
    """Return the published sets as lines of text."""
    rows = [("name", "variant", "repository", "vocabulary", "training shards", "description")]
    for known in PUBLISHED:
        size = "" if known.gigabytes is None else f"{known.train_shards} ({known.gigabytes:.1f} GB)"
        rows.append((known.name, known.variant, known.repository, str(known.vocab), size, known.description))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
