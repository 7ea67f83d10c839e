"""Parts of pages that are made from measurements: what stands between two marks, the rest is written by hand."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.models import ROOT


def between(text: str, mark: str) -> str:
    """What a page has between `<!-- mark: ... -->` and `<!-- end of mark -->`."""
    found: list[str] = re.findall(_pattern(mark), text, re.S)
    assert len(found) == 1, f"{mark} is {len(found)} times on the page"
    return found[0]


def filled(text: str, mark: str, made: str) -> str:
    """The page with `made` there."""
    (found,) = re.finditer(_pattern(mark), text, re.S)
    return text[: found.start(1)] + made + text[found.end(1) :]


def fill(page: str, mark: str, made: str) -> None:
    path = Path(ROOT, page)
    path.write_text(filled(path.read_text(), mark, made))


def _pattern(mark: str) -> str:
    return rf"<!-- {re.escape(mark)}: [^\n]*-->\n(.*?)<!-- end of {re.escape(mark)} -->"
