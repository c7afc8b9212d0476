"""A packed model in Python: score, generate, compress, logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from bitgolf.api.calls import library_call, torch_defaults
from bitgolf.api.paths import AnyPath, newest_or_named, to_path
from bitgolf.api.tables import Table
from bitgolf.api.texts import Buffer, Text, as_bytes, open_source, to_bytes
from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.ledger import LedgerEntry, ledger
from bitgolf.artifact.model import LoadedArtifact, StoredRecipe, load_model
from bitgolf.commands.artifacts import find_artifact, sample_text
from bitgolf.commands.to_web import write_web_page
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.model.lm import LM
from bitgolf.pipeline.coding import compress_bytes, decompress_bytes, text_codec
from bitgolf.pipeline.scoring import ScoringJob, run_scoring_job
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.score.continuations import BATCH_TOKENS, Continuation, ContinuationScore, score_continuations
from bitgolf.score.document_order import parse_order
from bitgolf.score.method_selection import select_methods
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.result import MethodResult
from bitgolf.tokens.tokenizer import Ids, Tokenizer

TokenIds: TypeAlias = Sequence[int] | npt.NDArray[np.integer] | torch.Tensor
LARGEST = {"tokens": 10**15, "temperature": 100, "top_k": 10**15, "seed": 2**63}
"""Limits of the arguments of `generate`, as in the command."""
Methods: TypeAlias = str | Spec[ScoringMethod] | Sequence[str | Spec[ScoringMethod]]


def load(artifact: AnyPath, *, device: str = "auto") -> Model:
    """Load a packed model.

    artifact: the file artifact.bg, the folder of its run, or `latest`, the newest run below runs/. device: where it
    computes scores and logits: auto (CUDA if available), cuda, cpu or mps. Raises `UsageError` if there is no artifact
    or no such device, and `CorruptFileError` if the file is damaged.
    """
    with library_call(progress=False):
        select_device(device_type=device)  # raises before the model is read
        path = find_artifact(newest_or_named(artifact))
        return Model(path, load_model(path), device)


class Model:
    """A packed model, as `load` returns it.

    path: of its file. name: of the recipe that made it. recipe: the fields of the recipe that the artifact stores.
    tokenizer: from bytes to token ids and back. ledger: what each byte of the file is used for. bytes: size of the
    file. params: number of parameters.
    """

    def __init__(self, path: Path, loaded: LoadedArtifact, device: str = "auto") -> None:
        self._loaded, self._device = loaded, device
        self._model = loaded.model.eval()
        self.path, self.name = path, loaded.name
        self.recipe: StoredRecipe = loaded.recipe
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.ledger: Table[LedgerEntry] = Table(LedgerEntry, ledger(read_artifact(path)))
        self.bytes = sum(entry.bytes for entry in self.ledger)
        self.params = sum(p.numel() for p in self._model.parameters())

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}: {self.name}, {self.params:,} parameters, {self.bytes:,} bytes)"

    # ---- scores ------------------------------------------------------------------------------------------------------

    def bpb(self, text: Text, *, method: str | Spec[ScoringMethod] | None = None, progress: bool = True) -> float:
        """Return the referee's score of a text in bits per byte, as `bitgolf score --text` prints it.

        text: see `score`. method: a name or a part; None for the last method of the recipe.
        """
        chosen = self.recipe.score[-1] if method is None else method
        return self.score(text, methods=chosen, progress=progress)[-1].bpb

    def score(
        self,
        text: Text | None = None,
        *,
        shards: AnyPath | None = None,
        tokenizer: AnyPath | None = None,
        key: str = "",
        methods: Methods = (),
        order: str | None = None,
        seed: int | None = None,
        batch: int | None = None,
        processes: int = 1,
        progress: bool = True,
    ) -> list[MethodResult]:
        """Score a text, or validation shards, with one method after the other. Each target is scored exactly once.

        text: a `str` or `bytes` is the text itself, cut into documents like a file; a `Path` is a file, a folder or a
        pattern; a list has documents (`str`, `bytes`) or paths. shards, tokenizer, key, order, seed, batch,
        processes: as the options of `bitgolf score`. methods: names or parts; none for those of the recipe.
        Raises `UsageError` for an unknown method, a text without documents, or the name of a file given as a `str`.
        """
        with library_call(progress=progress):
            chosen_order, chosen = parse_order(order, seed), tuple(self._selected(methods))
            job = ScoringJob(
                artifact=self.path.resolve(),
                text=open_source(self._loaded, text, shards, tokenizer, key),
                methods=chosen,
                order=chosen_order,
                batch_tokens=batch,
                device=self._device,
            )
            with self._on(torch.device("cpu")):  # players move the model to the device themselves
                return run_scoring_job(job, self._loaded, processes=processes)

    def _selected(self, methods: Methods) -> list[Spec[ScoringMethod]]:
        """The methods that names and parts stand for; those of the recipe if there are none."""
        own, given = self.recipe.score, [methods] if isinstance(methods, str | Spec) else list(methods)
        if not given:
            return list(own)
        found: list[Spec[ScoringMethod]] = []
        for method in given:
            found += [method] if isinstance(method, Spec) else select_methods(own, [method], ())
        return found

    # ---- text --------------------------------------------------------------------------------------------------------

    def generate(
        self, prompt: str | bytes = "", *, tokens: int = 200, temperature: float = 0.8, top_k: int = 0, seed: int = 0
    ) -> str:
        """Return the prompt and a sampled continuation, which ends early where the model ends the document.

        tokens: most tokens to sample. temperature: 0 takes the likeliest token. top_k: sample among the k likeliest
        tokens; 0 means all. The text depends on the seed alone, and is that of `bitgolf generate`.
        """
        return "".join(self.stream(prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed))

    def stream(
        self, prompt: str | bytes = "", *, tokens: int = 200, temperature: float = 0.8, top_k: int = 0, seed: int = 0
    ) -> Iterator[str]:
        """Yield the text of `generate` in pieces of about a word, while it is sampled."""
        limits = {"tokens": tokens, "temperature": temperature, "top_k": top_k, "seed": seed}
        for name, value in limits.items():
            if not 0 <= value < LARGEST[name]:
                raise UsageError(
                    f"{name} must be at least 0 and below {LARGEST[name]:g}, got {value}", where="generate"
                )
        data = to_bytes(prompt)
        pieces = sample_text(self._loaded, data, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed)
        return _each_with_defaults(pieces)

    def to_web(self, folder: AnyPath) -> Path:
        """Write a page that runs the model, as `bitgolf to-web` does; returns its path, `index.html` in the folder.

        Raises `BitgolfError` for a part or tokenizer that pages do not have, and `UsageError` if another file is there.
        """
        with library_call(progress=False):
            return Path(write_web_page(self.path, to_path(folder)).page)

    def encode(self, text: str | bytes) -> Ids:
        """Return the token ids of a text, int32 (n,), without the token that begins a document (`tokenizer.bos`)."""
        return self.tokenizer.encode(to_bytes(text))

    def decode(self, ids: TokenIds) -> str:
        """Return the text of token ids; bytes that are not UTF-8 become U+FFFD. `tokenizer.decode` returns the bytes."""
        return self.tokenizer.decode_lenient(self._token_ids(ids).tolist()).decode(errors="replace")

    def logits(self, ids: TokenIds) -> torch.Tensor:
        """Return the logits after each of T tokens, float32 (T, V), on the CPU.

        Row t belongs to the token after `ids[t]`, and depends on `ids[: t + 1]` alone. The ids are used as they are:
        begin with `tokenizer.bos` for the start of a document, as in training.
        """
        tokens, device = self._token_ids(ids), select_device(device_type=self._device).torch_device
        if not len(tokens):
            raise UsageError(
                "there are no tokens, so there are no logits", where="logits", hint="begin with tokenizer.bos"
            )
        with torch_defaults(), torch.no_grad(), self._on(device) as model:
            return model(torch.from_numpy(tokens).to(device)[None])[0].float().cpu()

    def continuations(
        self, pairs: Sequence[tuple[TokenIds, TokenIds]], *, batch: int = BATCH_TOKENS
    ) -> list[ContinuationScore]:
        """Return how likely the model finds the second tokens of each pair after the first ones.

        The ids are used as they are: begin with `tokenizer.bos` for the start of a document. batch: most tokens at a
        time. Raises `UsageError` if there are no tokens before a continuation, or none in it.
        """
        asked = [Continuation(*(torch.from_numpy(self._token_ids(ids)) for ids in pair)) for pair in pairs]
        if any(not len(one.context) or not len(one.tokens) for one in asked):
            message = "a continuation needs at least one token, and one before it"
            raise UsageError(message, where="continuations", hint="begin with tokenizer.bos")
        device = select_device(device_type=self._device).torch_device
        with torch_defaults(), self._on(device) as model:
            return score_continuations(model, asked, device, batch)

    @contextmanager
    def _on(self, device: torch.device) -> Iterator[LM]:
        """The model on a device; afterwards it is on the CPU again, where `generate` and `compress` compute."""
        try:
            yield self._model.to(device)
        finally:
            self._model.to("cpu")

    def _token_ids(self, ids: TokenIds) -> npt.NDArray[np.int64]:
        """Token ids as an array. Raises `UsageError` for another shape, or an id that is no token."""
        found = np.asarray(ids.cpu() if isinstance(ids, torch.Tensor) else ids)
        if found.ndim != 1 or (found.size and not np.issubdtype(found.dtype, np.integer)):
            message = f"expected a sequence of token ids, got an array of shape {found.shape} and type {found.dtype}"
            raise UsageError(message, where="ids", hint="`encode` makes them from a text")
        wrong = found[(found < 0) | (found >= self.tokenizer.vocab)]
        if wrong.size:
            raise UsageError(f"{wrong[0]} is not a token: ids are 0 to {self.tokenizer.vocab - 1}", where="ids")
        return found.astype(np.int64)

    # ---- compression -------------------------------------------------------------------------------------------------

    def compress(self, data: Buffer, *, portable: bool | None = None, progress: bool = True) -> bytes:
        """Compress any bytes without loss. The result is the contents of the file that `bitgolf compress` writes.

        portable: True for arithmetic that is the same on every machine, False for that of torch, which machines of this
        kind share. None means portable unless the method adapts.
        """
        with library_call(progress=progress):
            return compress_bytes(text_codec(self._loaded), as_bytes(data), RunLog(), portable)

    def decompress(self, data: Buffer, *, progress: bool = True) -> bytes:
        """Restore the bytes that `compress`, or `bitgolf compress`, was given.

        Raises `CorruptFileError` if the data is damaged, and `BitgolfError` if another model compressed it. Wrong bytes
        are never returned.
        """
        with library_call(progress=progress):
            return b"".join(decompress_bytes(text_codec(self._loaded), as_bytes(data), RunLog()))


def _each_with_defaults(pieces: Iterator[str]) -> Iterator[str]:
    """Compute each piece with `torch_defaults`; between two of them the program has its own settings."""
    while True:
        with torch_defaults():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece
