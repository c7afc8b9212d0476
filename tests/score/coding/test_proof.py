"""The proof of a score: the compressed size is the claimed one, and another process restores the text."""

from __future__ import annotations

import hashlib
import random
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bitgolf.artifact.model import load_model, write_model
from bitgolf.cli import app
from bitgolf.config.spec import part
from bitgolf.data.manifest import load_manifest
from bitgolf.data.prepare import prepare_data
from bitgolf.errors import BitgolfError, FormatVersionError, UsageError
from bitgolf.files import read_json
from bitgolf.model.parameters import parameter_roles
from bitgolf.quantize.encoding import encode_model
from bitgolf.report.log import RunLog
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.ngram_mixing import NGramMixing
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.coding import compress, proof
from bitgolf.score.coding.coded_text import TextCodec
from bitgolf.score.coding.open_predictor import CPU_FLOAT32
from bitgolf.score.coding.proof import Restore, prove
from bitgolf.score.coding.proof_task import ProofTask, group_documents, leading_documents
from bitgolf.score.coding.sampling import max_false_fraction, sample_groups
from bitgolf.score.document_order import LongestFirstOrder
from bitgolf.score.methods import SlidingScoring
from bitgolf.score.referee import score
from bitgolf.score.result import ProofResult
from bitgolf.score.text import load_validation
from bitgolf.text.documents import Document
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import SentencePieceBPE
from helpers.toy import toy_recipe
from helpers.toy_training import make_trainer

STEPS, DOCUMENTS = 40, 128
SCORE = (
    part(SlidingScoring, window=32, stride=16),
    part(DocumentLoRA, window=32, stride=16, rows=3, rank=2, lr=0.02, target_modules=("q",)),
    part(NGramMixing, window=32, stride=16),
    part(
        PhasedLoRA,
        lora=part(DocumentLoRA, window=32, stride=16, rows=2, rank=2, full_windows=True, order=part(LongestFirstOrder)),
        boundaries=(2,),
        chunk=64,
        sgd=part(SGDAdaptation, lr=0.01, epochs=1, split_documents=True),
    ),
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A briefly trained artifact and shards with 50 kB of held-out text: `artifact.bg` and `shards`."""
    return make_artifact(tmp_path_factory.mktemp("proof"), words=(60, 100))


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with documents that are twice as long, 100 kB of held-out text."""
    return make_artifact(tmp_path_factory.mktemp("longer"), words=(130, 200))


def make_artifact(folder: Path, words: tuple[int, int]) -> Path:
    """Train for `STEPS` steps on random documents with this range of lengths in words, most of which are one token."""
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    texts = [" ".join(draw.choices(vocabulary, k=draw.randint(*words))).encode() for _ in range(DOCUMENTS + 40)]
    proto, made = SentencePieceBPE(vocab=370).train(texts), [Document(str(i), text) for i, text in enumerate(texts)]
    prepare_data(made[DOCUMENTS:], made[:DOCUMENTS], tokenizer_from_bytes(proto), folder / "shards")
    recipe = toy_recipe(steps=STEPS).set("model.layers", 1).set("score", SCORE)
    trainer = make_trainer(folder / "shards", recipe, noisy=False)
    for step in range(STEPS):
        trainer.step(step, TrainingProgress(step, STEPS, 0.0, 0.0))
    model = trainer.model
    weights = {path: p.detach().float() for path, p in model.named_parameters()}
    write_model(folder / "artifact.bg", recipe, encode_model(weights, parameter_roles(model), recipe().quantize), proto)
    return folder


def claim(toy: Path, size: int = 0, *, method: int = 0, tokens: int = 1 << 17, rows: int = 64) -> ProofTask:
    loaded = load_model(toy / "artifact.bg")
    methods = loaded.recipe.score
    text = load_validation(toy / "shards")
    text = leading_documents(text, loaded.tokenizer, size) if size else text
    codec = TextCodec(loaded.model, loaded.tokenizer, loaded.digest, methods)
    return ProofTask(toy / "artifact.bg", codec, text, methods[method], tokens, rows)


class RestoreHere:
    """Restores groups in this process, since another takes seconds to start. The artifact is loaded again."""

    def __init__(self) -> None:
        self.restored = list[Path]()

    def __call__(self, artifact: Path, source: Path, target: Path) -> list[int]:
        self.restored.append(source)
        loaded = load_model(artifact)
        codec = TextCodec(loaded.model, loaded.tokenizer, loaded.digest, loaded.recipe.score)
        texts = compress.decompress(codec, source.read_bytes())
        target.write_bytes(b"".join(texts))
        return [len(text) for text in texts]


HERE = RestoreHere()


def proved(
    claim: ProofTask, folder: Path, *, sample: int = 0, challenge: str = "", restore: Restore = HERE
) -> ProofResult:
    return prove(claim, folder, sample=sample, challenge=challenge, log=RunLog(quiet=True), restore=restore)


@pytest.fixture
def in_this_process() -> list[Path]:
    """The list of files that were restored."""
    HERE.restored.clear()
    return HERE.restored


@pytest.mark.parametrize("name", ["toy", pytest.param("longer", marks=pytest.mark.exhaustive)])
def test_a_score_is_proved_with_the_command(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 kB, or more than 100 kB: another process restores every byte, and the size is the claimed one within 0.1 %."""
    folder: Path = request.getfixturevalue(name)
    words = ["--proof", tmp_path / "proof", "--shards", folder / "shards", "--with", "sliding", "--challenge", "coin"]
    app(["compress", str(folder), *map(str, words), "--json"], standalone_mode=False)
    report = read_json(tmp_path / "proof" / "proof.json")
    least = 100_000 if name == "longer" else 40_000
    assert report["bytes"] == load_manifest(folder / "shards").val.encoded_bytes > least
    assert -0.3 < report["overhead_percent"] < 0.1 + 100 * 64 / report["coded_bytes"]
    assert report["claimed_bpb"] < 3.5  # the model is trained: uniform probabilities give 5.2
    assert report["groups"] == 1 and report["sampled"] == [0] and report["max_false_fraction"] == 0
    assert report["format"] == proof.FORMAT and '"verified": true' in capsys.readouterr().out


def test_groups_claims_and_files_add_up(toy: Path, tmp_path: Path, in_this_process: list[Path]) -> None:
    what = claim(toy, 5_000, tokens=280, rows=8)
    report = proved(what, tmp_path, sample=2, challenge="doubt")
    document = read_json(tmp_path / "commitment.json")
    rows = document["groups"]
    assert len(rows) == report.groups > 2 and len(in_this_process) == 2
    assert sum(row["bytes"] for row in rows) == document["bytes"] == what.text.bytes
    assert sum(row["targets"] for row in rows) == document["targets"] == what.text.num_targets
    assert sum(row["documents"] for row in rows) == len(what.text.documents())
    assert sum(row["bits"] for row in rows) == pytest.approx(report.claimed_bits)
    assert sum(row["coded_bytes"] for row in rows) == report.coded_bytes
    for row in rows:
        data = (tmp_path / row["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"] and len(data) == row["coded_bytes"]
        assert abs(8 * len(data) - row["bits"]) < 0.002 * row["bits"] + 8 * 72
    with closing(
        what.proved_method.make_player(what.codec.model, what.codec.tokenizer.vocab, CPU_FLOAT32, SINGLE_PROCESS)
    ) as player:
        assert document["bits"] == pytest.approx(score(player, what.text, what.proved_method).bits, rel=1e-9)
    tokens = what.codec.tokenizer.decode(what.text.tokens)
    assert rows[0]["text_sha256"] == hashlib.sha256(tokens[: rows[0]["bytes"]]).hexdigest()
    commitment = (tmp_path / "commitment.json").read_bytes()
    assert report.sampled == sample_groups(commitment, "doubt", len(rows), 2)
    assert report.max_false_fraction == pytest.approx(1 - 0.05**0.5)


def test_adapters_are_proved_too(toy: Path, tmp_path: Path, in_this_process: list[Path]) -> None:
    report = proved(claim(toy, 1_500, method=1), tmp_path)
    assert report.method == "lora" and len(in_this_process) == report.groups == 1
    assert abs(8 * report.coded_bytes - report.claimed_bits) < 0.001 * report.claimed_bits + 8 * 100


@pytest.mark.parametrize("method", [2, 3])
def test_a_method_that_learns_over_documents_is_one_group(
    toy: Path, tmp_path: Path, in_this_process: list[Path], method: int
) -> None:
    """The claim is the score with all that the method does, and its order of the documents."""
    what = claim(toy, 1_500, method=method, tokens=160)
    report, made = proved(what, tmp_path), what.method()
    assert report.groups == len(in_this_process) == 1 and report.arithmetic == "native"
    text, order_bits = made.order.apply(what.text)
    with closing(made.make_player(what.codec.model, what.codec.tokenizer.vocab, CPU_FLOAT32, SINGLE_PROCESS)) as player:
        bits = score(player, text, made).bits
    assert report.claimed_bits == pytest.approx(bits + order_bits, rel=1e-9)
    assert abs(8 * report.coded_bytes - report.claimed_bits) < 0.001 * report.claimed_bits + 8 * 100
    assert read_json(tmp_path / "commitment.json")["method"]["isolated"] is made.isolated


def test_a_proof_that_was_cut_off_goes_on(
    toy: Path, tmp_path: Path, in_this_process: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    what, made, real = claim(toy, 2_500, tokens=160, rows=4), list[int](), compress.compress

    def dies(*args: Any, **words: Any) -> compress.Compressed:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return real(*args, **words)

    monkeypatch.setattr(compress, "compress", dies)
    with pytest.raises(KeyboardInterrupt):
        proved(what, tmp_path / "cut")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*.bgz")}
    assert len(kept) == 2 and not (tmp_path / "cut" / "commitment.json").exists() and not in_this_process
    monkeypatch.setattr(compress, "compress", real)
    monkeypatch.setattr(proof, "score", None)  # the bits of the first call must be reused
    report = proved(what, tmp_path / "cut")
    monkeypatch.undo()
    assert report.groups > 2
    assert all((tmp_path / "cut" / name).stat().st_mtime_ns == time for name, time in kept.items())


def test_a_folder_stays_committed(toy: Path, tmp_path: Path, in_this_process: list[Path]) -> None:
    """A second proof may use another challenge, but not another text."""
    what = claim(toy, 1_500, tokens=160, rows=4)
    proved(what, tmp_path, sample=1)
    before = (tmp_path / "commitment.json").read_bytes()
    proved(what, tmp_path, sample=1, challenge="another")
    assert (tmp_path / "commitment.json").read_bytes() == before
    with pytest.raises(UsageError, match="committed to another proof"):
        proved(claim(toy, 2_500, tokens=160, rows=4), tmp_path, sample=1)


def test_what_does_not_come_back_is_named(toy: Path, tmp_path: Path) -> None:
    """A group that restores another document, and a damaged file that cannot be decompressed."""
    what = claim(toy, 1_500, tokens=160, rows=4)

    def wrong(artifact: Path, source: Path, target: Path) -> list[int]:
        number = int(source.name[:5])
        texts = list(group_documents(what))[number].decode(what.codec.tokenizer)
        target.write_bytes(b"".join([*texts[:-1], texts[-1][::-1]]))
        return [len(text) for text in texts]

    with pytest.raises(BitgolfError, match=r"group 0 \(00000-.*document \d+ of the group is not restored"):
        proved(what, tmp_path, restore=wrong)
    assert not (tmp_path / "proof.json").exists()
    other = tmp_path / "other"
    other.mkdir()
    file = next(iter(sorted(tmp_path.glob("*.bgz"))))
    data = bytearray(file.read_bytes())
    data[-9] ^= 4
    shutil.copy(tmp_path / "group_bits.json", other)
    (other / file.name).write_bytes(data)
    with pytest.raises(BitgolfError, match=r"group 0 .*(?s:.)*checksum does not match"):
        proved(what, other)


def test_files_of_another_format_are_an_error(toy: Path, tmp_path: Path) -> None:
    for name in ("commitment.json", "group_bits.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text('{"bits": [1.0], "key": ""}')
        with pytest.raises(FormatVersionError, match=f"{name} has no format number; this version reads format 2"):
            proved(claim(toy, 1_500, tokens=160, rows=4), folder)


def test_a_text_must_have_the_bytes_that_it_says(toy: Path, tmp_path: Path) -> None:
    what = claim(toy, 2_000)
    with pytest.raises(BitgolfError, match="but its tokens decode to"):
        proved(what._replace(text=what.text._replace(bytes=what.text.bytes + 1)), tmp_path)
    cut = what.text._replace(tokens=what.text.tokens[5:])
    with pytest.raises(BitgolfError, match="must begin with a document"):
        proved(what._replace(text=cut), tmp_path)


def test_the_draw_is_of_the_commitment_and_the_challenge() -> None:
    drawn = sample_groups(b"commitment", "", 1000, 30)
    assert drawn == sorted(set(drawn)) == sample_groups(b"commitment", "", 1000, 30) and len(drawn) == 30
    assert drawn != sample_groups(b"commitmenu", "", 1000, 30) and drawn != sample_groups(
        b"commitment", "coin", 1000, 30
    )
    assert sample_groups(b"commitment", "", 7, 0) == sample_groups(b"commitment", "", 7, 9) == list(range(7))
    often = [sum(3 in sample_groups(bytes([i]), "", 10, 4) for i in range(256))]
    assert 70 < often[0] < 135  # 4 in 10, of 256


def test_what_a_sample_says() -> None:
    for sample in (1, 5, 100, 1000):
        share = max_false_fraction(sample, 10_000)
        assert (1 - share) ** sample == pytest.approx(0.05)
    assert max_false_fraction(1000, 10_000) == pytest.approx(0.00299, abs=1e-5)
    assert max_false_fraction(12, 12) == 0.0
