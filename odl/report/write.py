"""A report as the library writes it: what `odl report -o` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from odl.report.facts import Tell, Wishes, facts
from odl.report.page import page
from odl.staging import write_whole


def write_report(
    folder: str | Path,
    output: str | Path,
    data: str | Path | None = None,
    test: str | Path | None = None,
    steps: int = 2,
    tell: Tell = lambda _text: None,
) -> dict[str, Any]:
    """Look again at the run in `folder`, which `save_run` or `odl run -o` wrote, and write all about it as one page.

    The run is trained again in NumPy and compared, `steps` steps of it are verified tensor by tensor on the target.
    `data` is what it learned from (default: the file that it noted), `test` what accuracy is measured on (default:
    `data`). `output` is an HTML file that needs no network; `tell` hears what is being done. Gives back what the page
    shows, in the words of `odl report --json`. What cannot be had, such as a flash size without a compiler, holds
    {"missing": why}. Raises UsageError `not-a-run`, `file-unwritable`.
    """
    wishes = Wishes(Path(data) if data else None, Path(test) if test else None, steps)
    result = {"runs": [facts(Path(folder), wishes, tell)]}
    write_whole(Path(output), page(result).encode())
    return result
