"""Links of documents: relative paths of the checkout, which MkDocs needs relative to the pages of the site."""

from __future__ import annotations

import posixpath
import re

PAGES_OF_THE_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "results/README.md": "results/index.md",
}
"""Documents outside of docs/ -> their pages on the site."""
FOLDER_OF_PAGE = {page: posixpath.dirname(file) for file, page in PAGES_OF_THE_ROOT.items()}
LINK = re.compile(r"(\]\()([^()\s#]+)(#[^()\s]*)?(\))")
ROW = re.compile(r"^\|.*$", re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def site_markdown(markdown: str, page: str) -> tuple[str, list[str]]:
    """Return the Markdown of a page with the links of the site, and the files outside of docs/ that it links to.

    page: path of the page on the site. The files are paths in the checkout, and have the same paths on the site.
    Links in fenced blocks stay as they are.
    """
    outside = list[str]()

    def rewritten(match: re.Match[str]) -> str:
        target = match[2]
        if re.match(r"\w+:", target):
            return match[0]
        path = path_on_site(target, page)
        if not path.endswith(".md") and not is_below_docs(target, page):
            outside.append(path)
        start = posixpath.dirname(page) or "."
        return f"{match[1]}{posixpath.relpath(path, start)}{match[3] or ''}{match[4]}"

    pieces = FENCE.split(markdown)
    pieces[::2] = [LINK.sub(rewritten, unescaped_bars(piece)) for piece in pieces[::2]]
    return "".join(pieces), outside


def unescaped_bars(markdown: str) -> str:
    """Code hosts need a backslash before a bar in code in a table; Python-Markdown would show it."""
    return ROW.sub(lambda row: CODE.sub(lambda span: span[0].replace("\\|", "|"), row[0]), markdown)


def checkout_path(target: str, page: str) -> str:
    """The path in the checkout that a link of a page names."""
    below = "" if page.startswith("notebooks/") else posixpath.dirname(page)  # notebooks are files of docs/ itself
    folder = FOLDER_OF_PAGE.get(page, posixpath.join("docs", below))
    return posixpath.normpath(posixpath.join(folder, target))


def is_below_docs(target: str, page: str) -> bool:
    return checkout_path(target, page).startswith("docs/")


def path_on_site(target: str, page: str) -> str:
    """The path on the site that a link of a page names. A folder stands for its README.md, a notebook for its page."""
    path = checkout_path(target, page)
    if page.startswith("reference/"):  # generated: its links are those of the site
        return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    if path in PAGES_OF_THE_ROOT:
        return PAGES_OF_THE_ROOT[path]
    if path.endswith(".ipynb"):
        return f"notebooks/{posixpath.basename(path).removesuffix('.ipynb')}.md"
    path = path.removeprefix("docs/")
    return path if posixpath.splitext(path)[1] or path == "LICENSE" else f"{path}/README.md"
