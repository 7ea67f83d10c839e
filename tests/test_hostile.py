"""Some of the campaign in every test run: hostile inputs of each kind succeed or are refused by name.

`ODL_HOSTILE_CASES` is how many are drawn of each kind; `make fuzz` has many more.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hostile_device import built  # noqa: F401  a fixture

from benchmarks.models import ROOT
from benchmarks.pages import between
from campaigns.blowups import BLOWUPS
from campaigns.hostile import bounds_page, page, replayed, tried
from campaigns.hostile_kinds import KINDS
from campaigns.hostile_sandbox import ACCEPTED, FAILED, documented, drawn

N_CASES = int(os.environ.get("ODL_HOSTILE_CASES", "50"))
SEED = 1  # another than the campaign's
CAMPAIGN = ROOT / "campaigns/hostile.json"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_hostile_does_harm(kind: str) -> None:
    outcome = tried(kind, SEED, N_CASES)
    assert not outcome.failed, outcome.failed
    assert outcome.tried == N_CASES
    assert outcome.refused > N_CASES // 10, "chance does too little harm"
    assert outcome.accepted > N_CASES // 100, "chance does so much harm that nothing gets past the door"


def test_the_same_seed_draws_the_same() -> None:
    for kind in KINDS.values():
        assert drawn(kind, 5, 7) == drawn(kind, 5, 7) != drawn(kind, 6, 7)


# --- the sandbox sees what it should ----------------------------------------------------------------------------------

MISCHIEF = {
    "raises": "raise KeyError('no code')",
    "warns": "import warnings; warnings.warn('odd')",
    "undocumented": "from odl.errors import ModelError; raise ModelError('no-such-code', 'here', 'why')",
    "says-nothing": "from odl.errors import ModelError; raise ModelError('opset', 'here')",
    "writes-outside": "(folder.parent / 'outside.bin').write_text('mine')",
    "writes-through-a-link": "(folder / 'l').symlink_to(folder.parent); (folder / 'l/new').write_text('mine')",
    "removes": "(folder.parent / 'outside.bin').unlink()",
    "leaves-something": "import pathlib; pathlib.Path('left').write_text('')",
    "starts": "import subprocess; subprocess.run(['true'])",
    "unpickles": "import pickle; pickle.loads(pickle.dumps(print))",
    "takes-memory": "bytearray(3 << 30)",
    "takes-time": "while True: pass",
    "dies": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
}


@pytest.mark.parametrize("which", MISCHIEF)
def test_the_sandbox_sees(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind whose feed does one thing that nobody may do, and does nothing for the second input."""
    (tmp_path / "mischief.py").write_text(
        "from dataclasses import replace\n"
        "import campaigns.hostile_sandbox as sandbox\n"
        "def feed(folder, _):\n"
        "    if (folder / 'recipe.toml').read_bytes():\n"
        f"        {MISCHIEF[which]}\n"
        "sandbox.KINDS['recipe'] = replace(sandbox.KINDS['recipe'], feed=feed)\n"
        "sandbox.SECONDS = 2\n"
    )
    (tmp_path / "bad").write_text("1")
    (tmp_path / "good").write_text("")
    monkeypatch.setattr("campaigns.hostile.COMMAND", ["-c", RUN.format(folder=str(tmp_path))])
    (bad, good) = replayed("recipe", [tmp_path / "bad", tmp_path / "good"])
    assert bad[0] == FAILED
    assert good[0] == ACCEPTED


RUN = "import sys; sys.path.insert(0, {folder!r}); import mischief, campaigns.hostile_sandbox as s; s.main()"


# --- what the campaign says -------------------------------------------------------------------------------------------


def test_the_page_quotes_the_campaign() -> None:
    found = json.loads(CAMPAIGN.read_text())
    measured, text = found["results"], (ROOT / "docs/RELIABILITY.md").read_text()
    assert between(text, "hostile inputs") == page(measured)
    assert [each["kind"] for each in measured] == list(KINDS)
    assert not any(each["failed"] for each in measured)
    for each in measured:
        assert each["tried"] == each["accepted"] + each["refused"] == KINDS[each["kind"]].cases
        assert set(each["codes"]) <= documented()
    assert between(text, "blow-ups") == bounds_page(found["blowups"])
    assert [each["name"] for each in found["blowups"]] == list(BLOWUPS)
    assert all(each["within"] and each["ended"] in {"compiled", *documented()} for each in found["blowups"])


def test_documented_codes_are_those_of_the_tables() -> None:
    assert {"opset", "does-not-fit", "target-io", "recipe-word"} <= documented()
    assert all(re.fullmatch(r"[a-z][a-z-]+", code) for code in documented())
