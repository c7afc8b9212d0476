"""The page of an artifact: in a browser it generates what `generate` does, and asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import bitgolf
from bitgolf.artifact.model import LoadedArtifact, load_model
from bitgolf.commands.artifacts import generate_text
from bitgolf.commands.to_web import WebPageResult, write_web_page
from bitgolf.errors import UsageError
from bitgolf.model.decoding.generate import generate
from helpers.browser import Browser, open_browser
from helpers.javascript import Node
from helpers.toy_artifact import ToyArtifact, make_toy

PROMPT = "Once, "
ENDLESS = "async function* (prompt, settings) { for (;;) { await settings.pause(); yield 5; } }"
STATUS = "ready.then(() => element('status').textContent)"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyArtifact:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def written(toy: ToyArtifact) -> WebPageResult:
    return write_web_page(toy.artifact, toy.artifact.parent / "page")


@pytest.fixture(scope="module")
def any_browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def browser(any_browser: Browser, written: WebPageResult) -> Browser:
    any_browser.open(Path(written.page), 390, dark=True)
    assert any_browser.value(STATUS) == "Ready."
    return any_browser


def greedy(artifact: LoadedArtifact, prompt: str, tokens: int) -> list[int]:
    window = artifact.recipe.score[-1]().window
    return list(
        generate(
            artifact.model, artifact.tokenizer, prompt.encode(),
            tokens=tokens, temperature=0.0, top_k=0, seed=0, window=window,
        )
    )  # fmt: skip


def page_tokens(prompt: str, tokens: int, options: str = "temperature: 0, top: 0") -> str:
    """JavaScript: the tokens that the page generates."""
    settings = f"{{tokens: {tokens}, {options}}}"
    return f"(async () => {{ const found = []; for await (const token of generate({json.dumps(prompt)}, {settings})) found.push(token); return found; }})()"


def test_the_first_tokens_are_those_of_generate(browser: Browser, toy: ToyArtifact) -> None:
    loaded = load_model(toy.artifact)
    for prompt in ("", PROMPT, "\u2581 and an emoji \U0001f600"):  # more than the window of 32 tokens
        assert browser.value(page_tokens(prompt, 50)) == greedy(loaded, prompt, 50)
    assert browser.requested() == [browser.value("location.href")]
    assert browser.complaints() == []


def test_the_form_shows_the_text_and_the_speed(browser: Browser, toy: ToyArtifact) -> None:
    browser.value(f"element('prompt').value = {json.dumps(PROMPT)}; element('temperature').value = 0; run()")
    expected = generate_text(toy.artifact, PROMPT, tokens=200, temperature=0.0, top_k=0, seed=0).text
    assert browser.value("shown.textContent") == expected
    assert float(browser.value("element('speed').textContent")) > 0
    assert browser.value("element('status').textContent").startswith("200 tokens, done.")


def test_the_page_works_with_the_keyboard_on_a_phone(browser: Browser) -> None:
    assert browser.value("document.documentElement.scrollWidth") <= 390
    reached = []
    for _ in range(5):
        browser.press("Tab")
        reached.append(browser.value("document.activeElement.id"))
        assert browser.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert reached == ["prompt", "temperature", "top", "length", "start"]
    browser.value("element('length').value = 100000")
    browser.value(f"(generate = {ENDLESS}, true)")  # the toy model may end the document at any time
    browser.press("Enter")
    assert browser.value("[running, document.activeElement.id, stop.disabled]") == [True, "stop", False]
    browser.press("Enter")
    browser.value("new Promise((resolve) => setTimeout(resolve, 100))")
    assert browser.value("[running, document.activeElement.id]") == [False, "start"]
    assert "stopped" in browser.value("element('status').textContent")
    browser.value("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', ctrlKey: true}))")
    assert browser.value("running")
    browser.value("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert browser.value("new Promise((resolve) => setTimeout(() => resolve(running), 100))") is False


def test_the_policy_forbids_other_scripts_and_all_requests(browser: Browser) -> None:
    browser.value(
        "let s = document.createElement('script'); s.textContent = 'window.other = 1'; document.body.append(s);"
    )
    assert browser.value("window.other") is None
    assert browser.value("fetch('data:,x').then(() => 'answered', () => 'refused')") == "refused"


def test_sampling_takes_the_likeliest_k_tokens_by_their_probability(node: Node, written: WebPageResult) -> None:
    page = Path(written.page).read_text()
    script = page[page.index("<script>") + 8 : page.rindex("</script>")].partition("// The form:")[0]
    body = """
const scores = Float32Array.from([0, 2, 1, 2, -Infinity]), counts = [0, 0, 0, 0, 0];
const tally = (temperature, top) => {
  counts.fill(0);
  for (let i = 0; i < 1000; i++) counts[sampled(scores, temperature, top, () => (i + 0.5) / 1000)]++;
  return Array.from(counts);
};
return [tally(0, 0), tally(1, 0), tally(1, 2), tally(1, 1), tally(1, 9), tally(0.5, 3)];"""
    greedy_counts, all_counts, two, tied, more, sharper = node.run(script + body)
    assert greedy_counts == [0, 1000, 0, 0, 0]
    assert all_counts == more and all_counts == pytest.approx([54, 399.5, 147, 399.5, 0], abs=1)
    assert two == tied == [0, 500, 0, 500, 0]  # equal scores are both among the likeliest
    assert sharper == pytest.approx([0, 468, 63, 468, 0], abs=1)


# ---- the file --------------------------------------------------------------------------------------------------------


def test_the_result_has_the_size_that_the_page_states(written: WebPageResult, toy: ToyArtifact) -> None:
    page = Path(written.page).read_bytes()
    assert len(page) == written.bytes and f"{written.bytes:,}".encode() in page
    assert written.artifact_bytes == toy.artifact.stat().st_size
    assert written.parameters == sum(p.numel() for p in load_model(toy.artifact).model.parameters())
    assert 0.9 * written.parameters < written.integers < written.parameters
    assert (written.window, written.webassembly) == (32, True)


def test_the_same_artifact_gives_the_same_page(written: WebPageResult, toy: ToyArtifact, tmp_path: Path) -> None:
    again = bitgolf.load(toy.artifact).to_web(tmp_path / "new" / "folder")
    assert again == tmp_path / "new" / "folder" / "index.html"
    assert again.read_bytes() == Path(written.page).read_bytes()


def test_a_page_is_replaced_and_nothing_else(toy: ToyArtifact, tmp_path: Path) -> None:
    write_web_page(toy.artifact, tmp_path)
    write_web_page(toy.artifact, tmp_path)
    (tmp_path / "index.html").write_text("notes")
    for folder, message in ((tmp_path, "the file exists and is no page"), (toy.artifact, "this is a file")):
        with pytest.raises(UsageError, match=message):
            write_web_page(toy.artifact, folder)
    assert (tmp_path / "index.html").read_text() == "notes"


def test_without_webassembly_the_page_says_so(
    any_browser: Browser,
    toy: ToyArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("bitgolf.commands.to_web.webassembly_module", lambda: None)
    result = write_web_page(toy.artifact, tmp_path)
    assert not result.webassembly and "several times slower" in capsys.readouterr().err
    any_browser.open(Path(result.page), 800)
    assert "several times slower" in any_browser.value(STATUS)
    assert any_browser.value(page_tokens(PROMPT, 20)) == greedy(load_model(toy.artifact), PROMPT, 20)


def test_a_damaged_page_says_that_it_cannot_be_loaded(
    any_browser: Browser, written: WebPageResult, tmp_path: Path
) -> None:
    page = Path(written.page).read_text()
    start = page.index("id=constants>") + 100
    (tmp_path / "index.html").write_text(page[:start] + page[start + 400 :])
    any_browser.open(tmp_path / "index.html", 800)
    assert "cannot be loaded" in any_browser.value(STATUS)
    assert any_browser.value("start.disabled")
