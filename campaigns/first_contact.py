"""python -m campaigns.first_contact: the README followed word for word, where nothing was set up.

Clones the last commit into an empty folder and runs each line of the README's `sh` blocks in a shell that knows only
the system's own programs: no compiler for RISC-V, no build tools of a developer's, no Python environment, an empty home
and an empty cache. Writes what was typed, what came of it and how long it took to docs/first-contact.md, and ends with
1 where a line failed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import ROOT

PAGE = "docs/first-contact.md"
_DEVELOPERS = re.compile(r"^(clang|lld|ld\.lld|llvm|opt|llc|cmake|ninja|meson|cargo|rustc|npm|node)(\W|$)")
_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PASSED_ON = ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_MOST_LINES = 14


@dataclass(frozen=True)
class Line:
    """A line as it was typed, and what came of it."""

    typed: str
    said: str
    status: int
    seconds: float


def blocks(page: str) -> list[list[str]]:
    """The lines of the page's `sh` blocks, in order."""
    found = re.findall(r"^```sh\n(.*?)^```", page, re.S | re.M)
    return [block.splitlines() for block in found]


def bare_path(folder: Path) -> str:
    """A PATH with the system's own programs: links to them, without those that a developer would have installed."""
    folder.mkdir()
    for directory in map(Path, _DIRECTORIES):
        for program in sorted(directory.iterdir()) if directory.is_dir() else []:
            if not _DEVELOPERS.match(program.name) and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return str(folder)


def environment(folder: Path) -> dict[str, str]:
    """What a shell knows there. How to reach the package registries is the machine's, and is passed on."""
    (folder / "home").mkdir()
    bare = {"HOME": str(folder / "home"), "PATH": bare_path(folder / "bin"), "LANG": "C.UTF-8", "TERM": "dumb"}
    return bare | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def follow(lines: list[str], clone: Path, env: dict[str, str]) -> Iterator[Line]:
    """Type the lines of a block into one shell, with what those before have set up; yields each as it ends."""
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile"], cwd=clone, env=env, text=True, errors="replace",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert shell.stdin
    assert shell.stdout
    with shell:
        for typed in lines:
            started, said = time.monotonic(), ""
            shell.stdin.write(f'{typed}\necho "@@@ $?"\n')
            shell.stdin.flush()
            for word in shell.stdout:
                before, mark, status = word.partition("@@@ ")
                said += before
                if mark:
                    yield Line(typed, said, int(status), time.monotonic() - started)
                    break
        shell.stdin.close()


def told(line: Line, clone: Path) -> str:
    """A line as the page has it: what it said is cut in the middle."""
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.said).replace(str(clone), "odl").rstrip().split("\n")
    said = [part.split("\r")[-1].rstrip() for part in said]
    if len(said) > _MOST_LINES:
        half = _MOST_LINES // 2
        said = [*said[:half], f"[{len(said) - 2 * half} lines]", *said[-half:]]
    status = f", ended with {line.status}" if line.status else ""
    return "\n".join([f"$ {line.typed}", *filter(None, said), f"[{line.seconds:.1f} s{status}]"])


def page(found: list[list[Line]], clone: Path) -> str:
    """The whole page."""
    total = sum(line.seconds for lines in found for line in lines)
    failed = sum(bool(line.status) for lines in found for line in lines)
    parts = [
        "# First contact",
        "The README's commands, each as it stands there, typed by `python -m campaigns.first_contact` into a shell in "
        "a fresh clone: an empty home, an empty cache, and a PATH with the system's own programs alone (no clang, no "
        "CMake, no Python environment). Behind each line is how long it took.",
        f"{sum(map(len, found))} lines, {total / 60:.1f} minutes on {os.cpu_count()} cores, {failed} failed.",
        *("```text\n" + "\n\n".join(told(line, clone) for line in lines) + "\n```" for lines in found),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--skip", action="append", default=[], help="a line to leave out, such as 'make test'")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        clone = Path(scratch, "odl")
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True, timeout=120)
        env = environment(Path(scratch))
        found: list[list[Line]] = []
        for lines in blocks((clone / "README.md").read_text()):
            found.append([])
            for line in follow([each for each in lines if each.split("#")[0].strip() not in asked.skip], clone, env):
                print(told(line, clone), flush=True)
                found[-1].append(line)
        (ROOT / PAGE).write_text(page(found, clone))
    sys.exit(any(line.status for lines in found for line in lines))


if __name__ == "__main__":
    main()
