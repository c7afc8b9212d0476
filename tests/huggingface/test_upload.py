"""`to-hf --push` with `huggingface_hub` itself, on a hub of the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.huggingface.upload import ModelRepository
from helpers.hub_repository import library_on
from helpers.model_hub import ModelHub, model_hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the library's own upload
FILES = {"README.md": b"---\ntags: [a]\n---\n", "model.safetensors": b"weights" * 1000, "config.json": b"{}\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (made := tmp_path / "hf").mkdir()
    for name, data in FILES.items():
        (made / name).write_bytes(data)
    return made


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    with model_hub() as hub, library_on(hub, tmp_path) as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", hub.token)
        yield hub


def test_a_folder_is_pushed_again_and_again(hub: ModelHub, folder: Path) -> None:
    address = ModelRepository("some-one/My.model_1").push(folder, private=True)
    assert hub.repositories == {"some-one/My.model_1": FILES} and hub.private == {"some-one/My.model_1"}
    assert address.startswith(f"{hub.url}/some-one/My.model_1/commit/")
    (folder / "config.json").write_bytes(b"[]\n")
    ModelRepository("some-one/My.model_1").push(folder, private=False)
    assert hub.repositories["some-one/My.model_1"] == {**FILES, "config.json": b"[]\n"}
    assert not hub.unknown


def test_a_hub_that_refuses(hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 400
    with pytest.raises(BitgolfError, match=r"(?s)a/b: the hub refuses \(400\).*hf upload a/b") as caught:
        ModelRepository("a/b").push(folder, private=False)
    assert caught.value.where == "a/b" and caught.value.exit_code == 1
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(BitgolfError, match=r"(?s)refuses \(401\).*set HF_TOKEN"):
        ModelRepository("a/b").push(folder, private=False)


def test_no_hub(hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = ModelRepository("a/b")
    repository._api.endpoint = "http://127.0.0.1:9"
    with pytest.raises(BitgolfError, match="the upload failed"):
        repository.push(folder, private=False)


@pytest.mark.parametrize("name", ["", "a", "a/b/c", "/b", "a/", "a b/c", "-a/b", "a/" + "b" * 100, "ä/b", "a/b\n"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        ModelRepository(name)
