"""Hooks of MkDocs: the pages that are not files of docs/, and links that work both in a checkout and on the site.

README.md is the front page, CONTRIBUTING.md and CHANGELOG.md are pages below `project/`, notebooks are pages below
`notebooks/`, and the reference is generated from the package. MkDocs calls the functions by their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from notebook_pages import notebook_page
from reference_commands import commands_page
from reference_parts import parts_pages
from reference_python import python_page
from reference_recipes import recipes_page
from site_links import PAGES_OF_THE_ROOT, site_markdown

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def generated_pages() -> dict[str, str]:
    """Path of a page on the site -> its Markdown, for all pages that have no file in docs/."""
    pages = {page: (ROOT / file).read_text() for file, page in PAGES_OF_THE_ROOT.items()}
    pages |= {f"notebooks/{file.stem}.md": notebook_page(file) for file in sorted(DOCS.glob("*.ipynb"))}
    reference = {"commands": commands_page(), "python": python_page(), "recipes": recipes_page(), **parts_pages()}
    return pages | {f"reference/{name}.md": text for name, text in reference.items()}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page into those of the site, and add the files that they name outside of docs/."""
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    text, outside = site_markdown(markdown, page.file.src_uri)
    for path in outside:
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return text
