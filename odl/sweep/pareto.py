"""The points that no other point makes pointless."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

Measured = tuple[float, float, float]  # how good (more is better), bytes of RAM, what a step counts (less is better)


def front(points: Sequence[Measured]) -> list[bool]:
    """Of each point whether it is on the Pareto front: none is as good in all three, and better in one.

    Equal points are on it together. A point with a number that is not finite is not on it, and keeps none off it.
    """
    sound = [point for point in points if all(map(isfinite, point))]
    return [point in sound and not any(_dominates(other, point) for other in sound) for point in points]


def _dominates(one: Measured, other: Measured) -> bool:
    (good, ram, count), (its_good, its_ram, its_count) = one, other
    return one != other and good >= its_good and ram <= its_ram and count <= its_count
