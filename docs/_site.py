"""What `make docs` does beside rendering: pages that lie elsewhere or are made from the code, and links out of docs/.

A link from a page to a file that is no page (a source, the licence) leads to a copy of it, under files/ of the site, so
that the site is whole by itself and every link of it can be checked.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

from _reference import PAGES  # noqa: E402  found by the line above

BROUGHT_IN = {  # file of the repository -> page
    "README.md": "index.md", "examples/README.md": "examples.md",
    "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
}  # fmt: skip
FOLDERS = {ROOT / "examples": ROOT / "examples/README.md", DOCS: ROOT / "README.md"}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The decisions are all that lie there."""
    pages = sorted(f"decisions/{path.name}" for path in (DOCS / "decisions").glob("[0-9]*.md"))
    for section in config.nav or []:
        for inside in section.values():
            for entry in inside if isinstance(inside, list) else ():
                if entry.get("Decisions") == "decisions/":
                    entry["Decisions"] = ["decisions/README.md", *pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in BROUGHT_IN.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for page, make in PAGES.items():
        files.append(File.generated(config, page, content=make()))
    for path in sorted({path for file in files.documentation_pages() for path in _strangers(file)}):
        files.append(File.generated(config, _copy(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Links as the site has them; and a comment alone in its line ends a paragraph, as on other sites."""
    uri = page.file.src_uri
    place = PurePosixPath(uri).parent

    def led(found: re.Match[str]) -> str:
        goal = _goal(uri, found[2])
        return f"{found[1]}{os.path.relpath(goal, place)}{found[3]}" if goal else found[0]

    return re.sub(r"^(<!-- .* -->)$", r"\n\1\n", LINK.sub(led, markdown), flags=re.M)


def _source(uri: str) -> Path:
    """The file that a page is; that of a page which is made is where it would lie."""
    return next((ROOT / source for source, page in BROUGHT_IN.items() if page == uri), DOCS / uri)


def _goal(uri: str, link: str) -> str:
    """Where a link of a page leads in the site, or nothing if it is not ours to say."""
    if re.match(r"[a-z]+:", link) or uri in PAGES:
        return ""
    path = Path(os.path.normpath(_source(uri).parent / link))
    path = FOLDERS.get(path, path)
    if not path.is_relative_to(ROOT):
        return ""
    name = path.relative_to(ROOT).as_posix()
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return BROUGHT_IN.get(name) or (_copy(path) if path.is_file() else "")


def _copy(path: Path) -> str:
    return f"files/{path.relative_to(ROOT).as_posix()}"


def _strangers(file: File) -> Iterator[Path]:
    """The files that a page links to and that are no pages."""
    for found in LINK.finditer(file.content_string):
        goal = _goal(file.src_uri, found[2])
        if goal.startswith("files/"):
            yield ROOT / goal.removeprefix("files/")
