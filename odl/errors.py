"""Every refusal: one exception type, one exit code per kind of trouble, one shape of message.

A message answers four questions in this order: what went wrong, *where* (the ONNX node, the file, the
tensor), *why*, and *how to go on*. The exit codes are part of the command line's contract.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns to the shell."""

    OK = 0
    BUG = 1
    USAGE = 2
    MODEL_REFUSED = 3
    DOES_NOT_FIT = 4
    TOOL_MISSING = 5
    BITS_DIFFER = 6
    TARGET_FAULT = 7


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    `code` is a stable, greppable word such as `unsupported-operator`; `where` names the ONNX node, tensor
    or file; `why` is a sentence; `hint` says how to go on, and may be empty.
    """

    code: str
    where: str
    why: str
    hint: str = ""

    def __str__(self) -> str:
        where, why, hint = map(_cut, (self.where, self.why, self.hint))
        text = f"{self.code}: {where}: {why}" if where else f"{self.code}: {why}"
        return f"{text}\n  hint: {hint}" if hint else text


_MOST_CHARACTERS, _MOST_PROBLEMS = 2000, 200  # that a message shows: names are anyone's, and as long as they please


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."


class OdlError(Exception):
    """A refusal: `exit_code` for the shell and at least one `Problem` for the reader."""

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, code: str, where: str = "", why: str = "", hint: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(code, where, why, hint),)
        super().__init__(str(self))

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> OdlError:
        """One error that carries all `problems`, so that a user sees every one of them at once; of hundreds the rest is
        counted."""
        first, *rest = problems
        if len(rest) >= _MOST_PROBLEMS:
            left = len(rest) + 1 - _MOST_PROBLEMS
            rest[_MOST_PROBLEMS - 1 :] = [Problem(rest[-1].code, "and so on", f"{left:,} more like these")]
        error = cls(first.code, first.where, first.why, first.hint)
        error.problems = (first, *rest)
        return error

    @property
    def code(self) -> str:
        return self.problems[0].code

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class UsageError(OdlError):
    """The command line or the recipe asks for something that does not exist."""

    exit_code = ExitCode.USAGE


class ModelError(OdlError):
    """The model or the data cannot be used as it is."""

    exit_code = ExitCode.MODEL_REFUSED


class FitError(OdlError):
    """The plan needs more memory than the target has."""

    exit_code = ExitCode.DOES_NOT_FIT


class ToolError(OdlError):
    """A compiler or a simulator is missing, too old, or does not do what it must."""

    exit_code = ExitCode.TOOL_MISSING


class BitsDifferError(OdlError):
    """The target computed other bits than NumPy did."""

    exit_code = ExitCode.BITS_DIFFER


class TargetError(OdlError):
    """The program trapped, hung, or answered with something that is not an answer.

    `step` and `call` are where it was, by number, as far as it could say; -1 if not.
    """

    exit_code = ExitCode.TARGET_FAULT
    step = -1
    call = -1
