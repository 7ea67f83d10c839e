"""Inputs that once did harm, and some made by hand: each ends as tests/corpus notes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostile_device import built  # noqa: F401  a fixture

from campaigns.hostile import replayed
from campaigns.hostile_kinds import KINDS
from campaigns.hostile_sandbox import ACCEPTED, REFUSED, documented

CORPUS = Path(__file__).with_name("corpus")


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_ends_as_it_is_noted(kind: str) -> None:
    noted = json.loads((CORPUS / kind / "expected.json").read_text())
    files = [CORPUS / kind / name for name in noted]
    assert {path.name for path in (CORPUS / kind).iterdir()} == {*noted, "expected.json"}
    found = replayed(kind, files)
    ends = {
        path.name: codes[0] if outcome == REFUSED else outcome if outcome == ACCEPTED else f"{outcome}: {why}"
        for path, (outcome, codes, why) in zip(files, found, strict=True)
    }  # fmt: skip
    assert ends == noted


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 300_000


def test_the_corpus_expects_documented_ends() -> None:
    noted = [json.loads((CORPUS / kind / "expected.json").read_text()).values() for kind in KINDS]
    assert {end for ends in noted for end in ends} - {ACCEPTED} <= documented()
