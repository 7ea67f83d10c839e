"""A recipe as TOML, which `odl.recipe.read_recipe` reads back as the same recipe."""

from __future__ import annotations

import json
from dataclasses import asdict

from odl.recipe import Recipe


def recipe_toml(recipe: Recipe, comment: str = "") -> str:
    """Every key, so that the recipe stays what it is where a default changes; `comment` is its first lines."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [f"{key} = {_value(value)}" for key, value in asdict(recipe).items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        items = "".join(f"    {_value(item)},\n" for item in value)
        return f"[\n{items}]" if items else "[]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")  # JSON lets it stand, TOML does not
    return repr(value)
