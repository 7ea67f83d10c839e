"""The device's program under sanitizers, built once for all sandboxes of a test file that imports `built`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from campaigns.hostile_kinds import RUNNER, runner


@pytest.fixture(scope="module", autouse=True)
def built() -> Iterator[None]:
    """The device's program, once for all sandboxes."""
    with runner() as elf, pytest.MonkeyPatch.context() as patch:
        patch.setenv(RUNNER, str(elf))
        yield
