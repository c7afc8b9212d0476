"""The text of the benchmarks: `--text FILE...`, and without it the source of Python's standard library.

Published figures (`results/`, `docs/`) of the benchmarks that train were measured on another text, described by `ENGLISH`.
Figures compare only if they come from the same text: each line of a result names its text, and lines of another text are
neither continued nor compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bitgolf.data.manifest import Manifest, load_manifest
from bitgolf.data.prepare import prepare_data
from bitgolf.text.documents import Document, PythonStandardLibrary, read_documents, train_validation_split
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import SentencePieceBPE

ENGLISH = """Text of the published figures: 144 MB of English prose in documents of 200 to 14,000 characters, deduplicated and
shuffled, 5 % of the documents held out. Sources, all public: 100 English novels (github.com/computationalstylistics/100_english_novels),
the English part of ELTeC (github.com/COST-ELTeC/ELTeC-eng, CC BY 4.0), and from NLTK's data packages (nltk.org/nltk_data)
movie_reviews, abc, state_union, webtext, inaugural and problem_reports, each under its own licence. The file itself is not
distributed: text made from the same sources gives similar figures, not the same ones."""

VOCAB, HELD_OUT = 1024, 0.05


def add_text_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", nargs="+", type=Path, metavar="FILE", help="text to train and to score on (default: the source of Python's standard library)")  # fmt: skip
    parser.add_argument("--data", type=Path, help="folder of the shards, made from the text if it is missing (default: one below runs/ for each text)")  # fmt: skip


def shards_folder(options: argparse.Namespace) -> Path:
    """The folder of the shards, made if it is missing. Exits with a message if a file of the text does not exist."""
    if options.data and (options.data / "manifest.json").exists():
        return options.data
    if missing := [str(path) for path in options.text or () if not path.exists()]:
        sys.exit(f"--text: {', '.join(missing)} does not exist. Name existing files, or leave --text out.\n\n{ENGLISH}")
    folder = (
        options.data or Path("runs") / f"bench-{'-'.join(p.name.split('.')[0] for p in options.text or ()) or 'python'}"
    )
    if not (folder / "manifest.json").exists():
        source = "the source of Python's standard library" if not options.text else ", ".join(map(str, options.text))
        print(f"{folder}: tokenizing {source}", file=sys.stderr)
        make_shards(folder, list(read_documents(options.text) if options.text else PythonStandardLibrary().documents()))
    return folder


def make_shards(folder: Path, documents: list[Document]) -> Manifest:
    """Train a SentencePiece tokenizer of 1,024 pieces and write the shards."""
    training, validation = train_validation_split(documents, HELD_OUT)
    tokenizer = tokenizer_from_bytes(SentencePieceBPE(vocab=VOCAB).train(d.data for d in training))
    return prepare_data(training, validation, tokenizer, folder)


def corpus_id(folder: Path) -> str:
    """Digest of the held-out text's tokens and of the tokenizer: figures with the same one compare."""
    manifest = load_manifest(folder)
    return f"{manifest.tokenizer[:8]}-{manifest.val.fingerprints[:8]}"
