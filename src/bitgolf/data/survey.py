"""The first pass over a text: the fingerprints of its documents, which decide their split, and a sample of passages.

Fingerprints are kept in files. While they are compared, memory grows by about 50 bytes per document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from bitgolf.files import write_bytes, write_json
from bitgolf.runtime.ordered_map import OrderedMap
from bitgolf.text.document import Document, content_fingerprint, document_fingerprint
from bitgolf.text.read_report import ReadReport
from bitgolf.text.split import first_of_each, nominal_limit, validation_limit
from bitgolf.tokens.passages import Passage, PassageSample, passages_below

BATCH_BYTES = 1_000_000
"""Bytes of text that one call of a worker processes."""
_AS_BYTES = ">u8"  # read like this, fingerprints compare as numbers as their bytes do


class SurveySummary(msgspec.Struct, frozen=True):
    """What the first pass found, beside the files of fingerprints.

    limit: fingerprints below it belong to validation. report: what was read.
    """

    limit: int
    report: ReadReport


class Survey(NamedTuple):
    """Which split each document of a text belongs to.

    words: `document_fingerprint` of each document, uint64 (documents,), in a file. kept: whether the document is the
    first with its bytes, bool (documents,), in a file. limit: fingerprints below it belong to validation. report: what
    was read. sample: passages of the training documents, None if they have to be drawn by another pass.
    """

    words: npt.NDArray[np.uint64]
    kept: npt.NDArray[np.bool_]
    limit: int
    report: ReadReport
    sample: list[bytes] | None = None

    def fingerprints(self, *, held_out: bool) -> bytes:
        """Return the fingerprints of the documents of a split, 8 bytes each, in their order."""
        chosen = (self.words < self.limit) == held_out
        return self.words[chosen & self.kept].astype(_AS_BYTES).tobytes()


# ---- workers ---------------------------------------------------------------------------------------------------


class SurveyBatch(NamedTuple):
    """Documents to survey. limit: key below which passages may enter the sample, 0 if there is no sample."""

    documents: list[bytes]
    limit: int


class SurveyedBatch(NamedTuple):
    """Fingerprints of the documents of a batch, 8 bytes each, and passages that may enter the sample."""

    words: bytes
    contents: bytes
    passages: list[Passage]


def survey_batch(validation_below: int, batch: SurveyBatch) -> SurveyedBatch:
    """Survey the documents of a batch. Passages are taken from documents whose fingerprint is `validation_below` or above."""
    words = [document_fingerprint(data) for data in batch.documents]
    contents = [content_fingerprint(data) for data in batch.documents]
    passages: list[Passage] = []
    if batch.limit:
        for data, word, content in zip(batch.documents, words, contents, strict=True):
            if int.from_bytes(word, "big") >= validation_below:
                passages += passages_below(batch.limit, data, word, content)
    return SurveyedBatch(b"".join(words), b"".join(contents), passages)


# ---- the pass --------------------------------------------------------------------------------------------------


def survey(
    documents: Iterable[Document],
    folder: Path,
    workers: OrderedMap,
    report: ReadReport,
    *,
    fraction: float,
    sample_bytes: int,
    progress: Callable[[], None],
) -> Survey:
    """Read all documents once; write their fingerprints to `folder`, and decide their splits.

    report: counts of what `documents` reads. fraction: share of the documents for validation. sample_bytes: size of the
    sample of passages. progress: called after each batch. Raises the errors of `validation_limit`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sample, nominal, names = PassageSample(sample_bytes), nominal_limit(fraction), list[str]()

    def batches() -> Iterator[SurveyBatch]:
        for batch in document_batches(documents):
            names.extend(document.name for document in batch[: 3 - len(names)])
            yield SurveyBatch([document.data for document in batch], sample.limit if sample_bytes else 0)

    with (folder / "words").open("wb") as words, (folder / "contents").open("wb") as contents:
        for found in workers.map(partial(survey_batch, nominal), batches()):
            words.write(np.frombuffer(found.words, _AS_BYTES).astype(np.uint64).data)
            contents.write(np.frombuffer(found.contents, _AS_BYTES).astype(np.uint64).data)
            for passage in found.passages:
                sample.add(passage)
            progress()
    every = _fingerprints(folder / "words")
    limit = validation_limit(every, fraction, names)
    kept = first_of_each(every, _fingerprints(folder / "contents"))
    report.duplicates += len(kept) - int(kept.sum())
    write_bytes(folder / "kept", kept.tobytes())
    (folder / "contents").unlink()
    write_json(folder / "survey.json", msgspec.to_builtins(SurveySummary(limit, report)))
    return Survey(every, kept, limit, report, sample.passages() if limit == nominal else None)


def load_survey(folder: Path) -> Survey | None:
    """Return the survey that an earlier call wrote to `folder`, without its sample; None if it did not finish."""
    if not (folder / "survey.json").exists():
        return None
    summary = msgspec.json.decode((folder / "survey.json").read_bytes(), type=SurveySummary)
    kept = np.fromfile(folder / "kept", np.bool_)
    return Survey(_fingerprints(folder / "words"), kept, summary.limit, summary.report)


def _fingerprints(path: Path) -> npt.NDArray[np.uint64]:
    """The numbers in a file of fingerprints, memory-mapped."""
    return np.memmap(path, np.uint64, "r") if path.stat().st_size else np.zeros(0, np.uint64)


def document_batches(documents: Iterable[Document], size: int = BATCH_BYTES) -> Iterator[list[Document]]:
    """Yield the documents in lists of at least `size` bytes; the last one may be smaller."""
    batch: list[Document] = []
    length = 0
    for document in documents:
        batch.append(document)
        length += len(document.data)
        if length >= size:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch
