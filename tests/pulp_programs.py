"""Bare programs on the pulp ports, which the benchmarks use as well."""

from __future__ import annotations

from benchmarks.bare import PRELUDE, Words, build, finish, run

__all__ = ["PRELUDE", "Words", "build", "finish", "run"]
