"""The documentation as a site: every document is in its navigation, the reference is complete, and it needs no network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import bitgolf
from bitgolf.config.registry import lookup
from bitgolf.config.spec import schema
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.recipes import experiment_names, recipe_names
from helpers.browser import Browser, open_browser
from hooks import generated_pages
from notebook_pages import notebook_page
from reference_commands import commands, commands_page
from reference_parts import all_parts, docstring, kind_of, parts_pages, value_text
from reference_recipes import recipes_page
from reference_text import code, escaped
from site_links import PAGES_OF_THE_ROOT, site_markdown

ROOT = Path(__file__).parents[1]
NAVIGATION = re.findall(r"^ *- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def documents() -> set[str]:
    return {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(NAVIGATION) == sorted(documents() | generated_pages().keys())


@pytest.mark.parametrize(
    "page, link, shown",
    [
        ("index.md", "docs/api.md#models", "api.md#models"),
        ("index.md", "docs/decisions/README.md", "decisions/README.md"),
        ("api.md", "../CONTRIBUTING.md", "project/contributing.md"),
        ("decisions/README.md", "../measurements.md", "../measurements.md"),
        ("project/changelog.md", "docs/scaling.md", "../scaling.md"),
        ("tutorial.md", "api.ipynb", "notebooks/api.md"),
        ("notebooks/api.md", "api.md", "../api.md"),
        ("measurements.md", "../results/scoring.jsonl", "results/scoring.jsonl"),
        ("results/index.md", "scoring.jsonl", "scoring.jsonl"),
        ("reference/commands.md", "../architecture.md", "../architecture.md"),
        ("own_parts.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("own_parts.md", "#a-heading", "#a-heading"),
    ],
)
def test_a_link_of_a_checkout_becomes_one_of_the_site(page: str, link: str, shown: str) -> None:
    assert site_markdown(f"see [a page]({link}).", page)[0] == f"see [a page]({shown})."


def test_links_in_fenced_blocks_stay_and_files_outside_of_docs_are_named() -> None:
    fenced = "```\n[x](../CONTRIBUTING.md)\n```"
    assert site_markdown(fenced, "api.md") == (fenced, [])
    assert site_markdown("[x](../results/proof.jsonl)", "api.md")[1] == ["results/proof.jsonl"]


def test_bars_in_code_of_a_table_have_no_backslash_on_the_site() -> None:
    row = r"| `RUN\|DIR` | a\|b |"
    assert site_markdown(row, "api.md")[0] == r"| `RUN|DIR` | a\|b |"
    assert site_markdown(r"`a\|b`", "api.md")[0] == r"`a\|b`"


def test_documents_read_the_same_on_the_site_as_on_a_code_host() -> None:
    """Python-Markdown needs an empty line before a list; CommonMark does not."""
    markdown = pytest.importorskip("markdown", reason="needs the extra `docs`: make site installs it")
    extensions = ["attr_list", "tables", "pymdownx.betterem", "pymdownx.superfences"]
    for document in [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in PAGES_OF_THE_ROOT)]:
        text = document.read_text()
        shown = markdown.markdown(text, extensions=extensions)
        expected = MarkdownIt("commonmark").enable("table").render(text)
        for tag in ("li", "tr", "h2", "h3", "pre", "a", "strong", "em"):
            counts = [len(re.findall(rf"<{tag}[ >]", page)) for page in (shown, expected)]
            assert counts[0] == counts[1], f"{document}: <{tag}>, on the site and on a code host"


def test_the_reference_has_every_command_with_its_options() -> None:
    sections = dict(re.findall(r"^## bitgolf (.+?)\n(.*?)(?=^## |\Z)", commands_page(), re.MULTILINE | re.DOTALL))
    assert len(sections) > 20 and list(sections) == [name for name, _ in commands()]
    for name, command in commands():
        for parameter in command.params:
            names = parameter.opts if parameter.param_type_name == "option" else [parameter.metavar or parameter.name]
            assert all(known.strip("{}") in sections[name] for known in names), f"{name}: {names}"


def test_the_reference_has_every_recipe_and_part_once() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", recipes_page(), re.MULTILINE)
    assert rows == [*recipe_names(), *experiment_names()]
    headings = re.findall(r"^##+ (\w+)\n", "\n".join(parts_pages().values()), re.MULTILINE)
    assert {cls.__name__ for cls in all_parts()} <= set(headings) and len(all_parts()) > 150
    assert len(headings) == len(set(headings))


@pytest.mark.parametrize(
    "part, kind",
    [
        ("TernaryGroups", "Codec"),
        ("NarrowAttentionGate", "AttentionOutputPart"),
        ("Brotli", "Coder"),
        ("MultiTokenPrediction", "AuxiliaryLoss"),
        ("RowNorm", "PreOrthogonalization"),
        ("Train", "Train"),
    ],
)
def test_a_part_stands_below_the_interface_that_settings_take(part: str, kind: str) -> None:
    assert kind_of(lookup(part)).__name__ == kind


def test_a_docstring_becomes_a_paragraph_and_a_list_of_settings() -> None:
    text = docstring(TrellisCodec)
    assert text.startswith("Trellis-coded quantization: the rows of each column are one sequence")
    assert "\n\n- `bits`: mean bits per weight over the matrices of the rule, estimated" in text
    assert "- `rate_weight`: weight of the bit cost" in text and "(`bench/compression.py`)" in text
    assert value_text(schema(TrellisCodec)["states"][0]) == "integer, from 1 to 256"
    assert value_text(schema(TrellisCodec)["solver"][0]) == "`GPTQ` or none"


def test_special_characters_stand_for_themselves() -> None:
    assert escaped("a*b `c*d` e_f <g> [h] i|j") == r"a\*b `c*d` e\_f \<g\> \[h\] i\|j"
    assert code("RUN|FOLDER") == "<code>RUN&#124;FOLDER</code>" and code("a_b") == "`a_b`"


def test_a_notebook_becomes_text_and_code(tmp_path: Path) -> None:
    cells = [{"cell_type": "markdown", "source": ["# Title\n", "text"]}, {"cell_type": "code", "source": ["a = 1"]}]
    (tmp_path / "x.ipynb").write_text(json.dumps({"cells": cells}))
    page = notebook_page(tmp_path / "x.ipynb")
    assert page.startswith("# Title\ntext\n\n") and page.endswith("\n\n```python\na = 1\n```\n") and "x.ipynb" in page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` does, with warnings as errors."""
    if find_spec("mkdocs") is None or find_spec("material") is None or find_spec("mkdocstrings") is None:
        pytest.skip("needs the extra `docs`: make site installs it")
    built = tmp_path_factory.mktemp("site")
    path = os.pathsep.join([str(Path(bitgolf.__file__).parents[1]), *sys.path])
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": path}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(built)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return built


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site: Path) -> None:
    pages = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert {page.replace("README.md", "index.md") for page in NAVIGATION} <= pages
    assert (site / "results" / "compression.jsonl").is_file(), "files that pages link to are on the site"
    addresses = {
        a for page in site.rglob("*.html") for a in re.findall(r'(?:src|srcset)="(\w+://[^"]+)"', page.read_text())
    }
    assert addresses == set(), "nothing is loaded from a network"


def search(browser: Browser, words: str) -> str:
    """Type words into the search of a page; returns the text of the results."""
    browser.value(
        "(() => { const field = document.querySelector('[data-md-component=search-query]');"
        " document.querySelector('#__search').click(); field.focus();"
        f" field.value = {json.dumps(words)}; field.dispatchEvent(new KeyboardEvent('keyup', {{bubbles: true}})); }})()"
    )
    for _ in range(100):
        if found := browser.value("document.querySelector('.md-search-result__list').textContent"):
            return found
        browser.value("new Promise(done => setTimeout(done, 50))")
    raise AssertionError(f"no result for {words!r}")


@pytest.mark.slow
@pytest.mark.browser
def test_pages_fit_a_phone_and_load_nothing_from_a_network(site: Path) -> None:
    with open_browser() as browser:
        for page in ("index.html", "tutorial.html", "reference/parts_quantize.html", "reference/python.html"):
            for width in (1280, 390):
                browser.open(site / page, width)
                assert browser.value("document.documentElement.scrollWidth") <= width, page
                assert browser.complaints() == [], page
                assert all(address.startswith((site.as_uri(), "data:")) for address in browser.requested()), page
        assert "Why a trellis" in search(browser, "trellis")
        assert browser.complaints() == []
