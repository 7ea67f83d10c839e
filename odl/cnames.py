"""ONNX names as C: identifiers, comments and string literals that any model name survives."""

from __future__ import annotations

import re

# C's keywords, those of C23 too, the names that odl_model.c itself uses, and the types of stdint.h and stddef.h.
# fmt: off
_RESERVED = frozenset({
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern",
    "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed",
    "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while", "asm",
    "typeof", "bool", "true", "false", "nullptr", "constexpr", "alignas", "alignof", "thread_local", "static_assert",
    "typeof_unqual", "offsetof",
    "arena", "sample", "label", "target", "loss", "output", "train_step", "apply_batch", "infer", "main", "from", "to",
    "at", "i", "index",
    *(f"{sign}int{form}{bits}_t" for sign in ("", "u") for form in ("", "_least", "_fast") for bits in (8, 16, 32, 64)),
    "intptr_t", "uintptr_t", "intmax_t", "uintmax_t", "size_t", "ptrdiff_t", "wchar_t", "max_align_t",
})
# fmt: on
_LONGEST = 48


class Names:
    """Unique C identifiers: the same name always gets the same one, two names never share one."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._taken: set[str] = set(_RESERVED)

    def __getitem__(self, name: str) -> str:
        if name not in self._known:
            self._known[name] = self.new(name)
        return self._known[name]

    def new(self, name: str) -> str:
        """An identifier that nothing has yet, not even `name`."""
        base = candidate = identifier(name)
        number = 1
        while candidate in self._taken:
            number += 1
            candidate = f"{base}_{number}"
        self._taken.add(candidate)
        return candidate


def identifier(name: str) -> str:
    """A C identifier that resembles `name`; not unique. Never all capitals, as macros are, nor odl's own."""
    word = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")[:_LONGEST] or "tensor"
    word = word.lower() if word.isupper() else word
    return f"t_{word}" if word[0].isdigit() or word.lower().startswith("odl_") else word


def comment(text: str) -> str:
    """`text` on one line, unable to end a C comment, to begin another one, or to splice lines."""
    printable = "".join(character if character.isprintable() and character != "\\" else "_" for character in text)
    return printable.replace("*/", "*_/").replace("/*", "/_*").replace("??", "?_")[:200]


def string(text: str) -> str:
    """A C string literal of UTF-8, itself in ASCII and without trigraphs; U+FFFD stands for NUL, which would end it."""
    parts = []
    for byte in text.replace("\0", "\ufffd").encode():
        character = chr(byte)
        plain = 32 <= byte < 127 and character not in '"\\?'
        parts.append(character if plain else f"\\{byte:03o}")
    return f'"{"".join(parts)}"'
