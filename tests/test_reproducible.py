"""The same inputs give the same bytes: in another process with another hash seed, folder and cache, on the machine on
which campaigns/reproduce.json was written, and by another Python (`$ODL_OTHER_PYTHON`, one that has odl's packages).

    python -m campaigns.reproduce

writes that file anew; the commit that does so says why the bytes changed.
"""

from __future__ import annotations

import os

import pytest

from campaigns.reproduce import EXAMPLES, Digests, differing, elsewhere, recorded
from odl.targets import TARGETS


@pytest.fixture(scope="module")
def there() -> Digests:
    return elsewhere()


@pytest.mark.qemu
def test_the_bytes_are_those_of_another_machine(there: Digests) -> None:
    assert differing(there, recorded()) == []
    projects = {what for what in there if what.endswith("C project")}
    assert len(projects) == len(EXAMPLES) * len(TARGETS)
    assert projects <= recorded().keys()


@pytest.mark.qemu
def test_another_python_makes_the_same_bytes(there: Digests) -> None:
    other = os.environ.get("ODL_OTHER_PYTHON")
    if not other:
        pytest.skip("ODL_OTHER_PYTHON names no other Python")
    assert elsewhere(other) == there


def test_what_differs_is_told() -> None:
    assert differing({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "3", "d": "4"}) == ["b"]
