"""Names beside the points of a picture: as many as there is room for, none of them over another, over a point or over
the frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]  # left, top, right, bottom
Spot = tuple[float, float, str]  # where a point is, and its name

RADIUS = 5  # of a point
_GAP = 2
_APART = 4  # between labels in a row
_WIDE, _HIGH = 7.0, 11.0  # of a letter: no narrower font is counted on
_SAME = 2.0  # points that are nearer are one to the eye
_MOST_NAMES = 3  # of points in one place


@dataclass(frozen=True)
class Label:
    """`x` is where the text has its `anchor` (start, middle or end), `y` its base line."""

    x: float
    y: float
    text: str
    anchor: str


def labels(spots: Sequence[Spot], frame: Box) -> tuple[Label, ...]:
    """A label for each of `spots`, those that come first having the choice; none where there is no room for it. Spots
    in the same place have one together."""
    places = _together([spot for spot in spots if spot[2]])
    taken: list[Box] = []
    found = []
    for x, y, names in places:
        text = ", ".join(names[:_MOST_NAMES]) + (f" +{len(names) - _MOST_NAMES}" if names[_MOST_NAMES:] else "")
        others = [_around(a, b) for a, b, _ in spots if not _same(a - x, b - y)]
        for anchor, box in _beside(x, y, _WIDE * len(text)):
            if _inside(box, frame) and not any(_overlap(box, other) for other in (*taken, *others)):
                left, _, right, bottom = box
                taken.append((left - _APART, box[1], right + _APART, bottom))
                at = {"start": left, "middle": (left + right) / 2, "end": right}[anchor]
                found.append(Label(round(at, 1), round(bottom - _GAP, 1), text, anchor))
                break
    return tuple(found)


def _together(spots: Sequence[Spot]) -> list[tuple[float, float, list[str]]]:
    """Where there are points, and the names of all that are there."""
    places: list[tuple[float, float, list[str]]] = []
    for x, y, name in spots:
        near = next((names for a, b, names in places if _same(a - x, b - y)), None)
        if near is None:
            places.append((x, y, [name]))
        else:
            near.append(name)
    return places


def _same(across: float, down: float) -> bool:
    return abs(across) < _SAME and abs(down) < _SAME


def _around(x: float, y: float) -> Box:
    return x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS


def _beside(x: float, y: float, width: float) -> Iterator[tuple[str, Box]]:
    """The places for a label of a point and how it is anchored there, the best first: beside it, above and below, then
    in the corners."""
    far, near = RADIUS + _GAP, 0.8 * RADIUS
    places = [("start", far, -_HIGH / 2), ("end", -far - width, -_HIGH / 2)]
    places += [("middle", -width / 2, down) for down in (-far - _HIGH, far)]
    for down in (-near - _HIGH, near):
        places += [("start", near, down), ("end", -near - width, down)]
    for anchor, across, down in places:
        yield anchor, (x + across, y + down, x + across + width, y + down + _HIGH)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(a: Box, frame: Box) -> bool:
    return frame[0] <= a[0] and frame[1] <= a[1] and a[2] <= frame[2] and a[3] <= frame[3]
