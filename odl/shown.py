"""Results that show themselves in a notebook: Jupyter asks an object for `_repr_html_`.

What draws them knows all of odl, and they know nothing of it. So they are told from above who draws
(`odl/__init__.py`), and the drawing is imported when the first of them is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar


class Shown:
    """A result that a notebook shows as a card. Where nobody draws, it is shown as its text."""

    drawn_by: ClassVar[Callable[[Any], str] | None] = None

    def _repr_html_(self) -> str | None:
        draw = Shown.drawn_by
        return draw(self) if draw else None
