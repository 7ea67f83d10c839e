"""A Program becomes a C project, through the templates; the only user of jinja2."""

from __future__ import annotations

import shutil
import traceback
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from odl import cnames, microkernels
from odl.errors import ToolError
from odl.fp16 import bits
from odl.graph import Kernel, Phase, fresh
from odl.program import ARENA, FLASH, LOCAL, Barrier, Buffer, Call, Move, Program, Resident, Statement
from odl.share import share
from odl.training import INFER, STEP, Training
from odl.types import DType
from odl.version import VERSION

_DIGITS_PER_LINE = 48  # of patterns
_PER_LINE = 6  # fields of a struct
_PHASES = {
    Phase.FORWARD: "forward", Phase.WEIGHT_GRADIENT: "weight gradient",
    Phase.INPUT_GRADIENT: "input gradient", Phase.UPDATE: "update",
}  # fmt: skip


def model_id(program: Program) -> int:
    """CRC-32 of the program's text and first values: what a job, a log and a binary must agree on."""
    crc = zlib.crc32(str(program).encode())
    for resident in program.residents:
        crc = zlib.crc32(np.ascontiguousarray(resident.tensor.initial).tobytes(), crc)
    return crc


def write_sources(folder: Path, program: Program, training: Training, title: str) -> tuple[str, ...]:
    """Write include/ and src/ of a C project; returns the C files of the model, relative to `folder`."""
    printer = Printer(program, training, title)
    for name, text in printer.files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii", errors="backslashreplace")
    for header in sorted(share("firmware").joinpath("include").glob("*.h")):
        if not (folder / "include" / header.name).exists():
            shutil.copyfile(header, folder / "include" / header.name)
    return tuple(name for name in printer.files() if name.endswith(".c") and name != "src/odl_trace.c")


def environment() -> jinja2.Environment:
    """The template environment: an undefined name is an error, block tags leave no blank lines."""
    return _environment(share("templates"))


@cache
def _environment(folder: Path) -> jinja2.Environment:
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    jinja.filters |= {"prototype": prototype, "paragraph": paragraph}
    return jinja


@contextmanager
def template_errors() -> Iterator[None]:
    """What goes wrong in a template is refused as `template-failed`, with the template's file and line."""
    try:
        yield
    except Exception as error:  # an expression in a template can raise anything
        if isinstance(error, jinja2.TemplateSyntaxError):
            file, line, why = error.filename or "", error.lineno, error.message or ""
        else:
            file, line = _innermost_template(error)
            why = str(error)
        if not file:
            raise
        place = f"{Path(file).relative_to(share('templates').parent)}:{line}"
        hint = "docs/NEW_OPERATOR.md tells what a template of kernels holds"
        raise ToolError("template-failed", place, f"{type(error).__name__}: {why}", hint) from error


def _innermost_template(error: Exception) -> tuple[str, int]:
    """File and line in the templates from which an error came; no file where it came from none."""
    found = "", 0
    for frame, line in traceback.walk_tb(error.__traceback__):
        template = frame.f_globals.get("__jinja_template__")  # of code that jinja2 made of one
        if template:
            found = template.filename, template.get_corresponding_lineno(line)
        elif Path(frame.f_code.co_filename).is_relative_to(share("templates")):  # jinja2 has put the template's line
            found = frame.f_code.co_filename, line
    return found


def prototype(text: str) -> str:
    """A C function's prototype with its parameters in lines of up to 120 columns, below each other."""
    head, parameters = text.split("(", 1)
    return _filled(parameters.split(", "), ", ", f"{head}(", " " * (len(head) + 1))


def paragraph(text: str) -> str:
    """A C comment in lines of up to 120 columns."""
    return _filled(text.split(), " ", "/* ", " * ") + " */"


def _filled(words: Iterable[str], separator: str, head: str, margin: str) -> str:
    """Words in lines of up to 120 columns, the first behind `head` and the others behind `margin`."""
    lines, line = [], head
    for at, word in enumerate(words):
        if at and len(line) + len(separator) + len(word) > 116:
            lines.append(line + separator.rstrip())
            line = margin + word
        else:
            line += (separator if at else "") + word
    return "\n".join([*lines, line])


@dataclass
class Printer:
    """Everything that the templates ask of one program."""

    program: Program
    training: Training
    title: str
    _structs: dict[tuple[str, tuple[tuple[str, Any], ...]], str] = field(default_factory=dict)
    _names: cnames.Names = field(default_factory=cnames.Names)
    _constants: set[str] = field(default_factory=set)

    def files(self) -> dict[str, str]:
        """Relative path -> text."""
        return self._files

    @cached_property
    def _files(self) -> dict[str, str]:
        context = self._context()
        with template_errors():
            files = self._rendered(environment(), context)
        if self.program.has_team:
            files["src/odl_micro.c"] = microkernels.source()
        return dict(sorted(files.items()))

    def _rendered(self, jinja: jinja2.Environment, context: dict[str, Any]) -> dict[str, str]:
        files: dict[str, str] = {}
        for name in ("include/odl_model.h", "include/odl_weights.h", "include/odl_kernels.h", "include/odl_config.h",
                     "include/odl_trace.h", "src/odl_model.c", "src/odl_weights.c", "src/odl_trace.c"):  # fmt: skip
            if name == "include/odl_kernels.h":
                headers, sources = self._kernels(jinja)
                context["headers"] = headers
                files |= sources
            files[name] = jinja.get_template(f"project/{Path(name).name}.j2").render(context)
        return files

    def _kernels(self, jinja: jinja2.Environment) -> tuple[list[str], dict[str, str]]:
        """The prototypes of all kernel files that the program uses, and the files."""
        used = {call.kernel.name for _, _, call in self.program.calls() if call.kernel}
        headers, sources = [], {}
        for name in sorted(jinja.list_templates(filter_func=lambda path: path.startswith("kernels/"))):
            module: Any = jinja.get_template(name).module
            header = str(module.header(used)).strip()
            if header:
                headers.append(header + "\n")
                stem = Path(name).name.removesuffix(".c.j2")
                source = str(module.source(used)).strip()
                sources[f"src/kernels/{stem}.c"] = f"/* Kernels: {stem.replace('_', ' ')}. */\n{source}\n"
        declared = "\n".join(headers)
        missing = [kernel for kernel in sorted(used) if f"odl_{kernel}(" not in declared]
        assert not missing, (
            f"templates/kernels declares no {missing}: is there a file of that operator, and the name in it?"
        )
        return headers, sources

    def _context(self) -> dict[str, Any]:
        program, training = self.program, self.training
        entries = [self._entry(name) for name in program.entries]
        (output,), target = program.results[INFER], program.inputs[training.target]
        batch = training.recipe.batch
        return {
            "title": cnames.comment(self.title), "version": VERSION, "model_id": model_id(program),
            "arena_bytes": program.spaces[ARENA], "local_bytes": program.spaces.get(LOCAL, 0),
            "counter_offset": program.resident(training.counter).buffer.offset if training.counter else None,
            "batch": batch, **self._control(),
            "persistent_bytes": program.persistent_bytes, "accumulate": training.recipe.accumulate,
            "sample": program.inputs[training.sample], "output": output.type, "target": target,
            "classes": output.type.shape[-1] if target.dtype is DType.I32 else 0,
            "loss_offset": program.results[STEP][0].offset, "output_offset": output.offset,
            "zeros": self._widest_pixel(), "entries": entries,
            "has_codes": any(resident.buffer.type.dtype is DType.U8 for resident in program.residents),
            "structs": [
                {"struct": struct, "name": name, "fields": _wrapped(map(_field, scalars), _PER_LINE)}
                for (struct, scalars), name in self._structs.items()
            ],
            "state": [self._state(resident) for resident in program.held],
            **self._weights(), **self._trace(),
        }  # fmt: skip

    def _control(self) -> dict[str, Any]:
        """Where the tensors that steer training lie in the arena."""
        control, place = self.training.control, self.program.resident
        return {
            "progress_offset": place(control.progress).buffer.offset,
            "scale_offset": place(control.loss_scale).buffer.offset if control.loss_scale else None,
            "constant_scale": _number(self.training.recipe.loss_scale),
            "lost_offsets": _wrapped((str(place(name).buffer.offset) for name in control.lost.values()), _PER_LINE),
            "n_lost": len(control.lost),
            "replay": self._replay(),
        }

    def _replay(self) -> dict[str, Any] | None:
        """How many old latents a step trains on, and where it finds how many there are, and a label."""
        replay = self.training.replay
        if not replay:
            return None
        count, label = (self.program.resident(name).buffer.offset for name in (replay.count, replay.label))
        return {"ratio": self.training.recipe.replay_ratio, "count_offset": count, "label_offset": label}

    # Calls

    def _entry(self, name: str) -> dict[str, Any]:
        numbers = {id(call): number for number, _, call in self.program.calls()}
        declared: set[str] = set()
        heading = ("", Phase.FORWARD)
        printed = []
        statements = self.program.entries[name]
        for at, statement in enumerate(statements):
            # What comes in is for the next call, all else belongs to the one before.
            prepares = isinstance(statement, Call) or (isinstance(statement, Move) and statement.inward)
            call = next((each for each in statements[at:] if isinstance(each, Call) and each.kernel), None)
            here = (call.layer, call.phase) if call and prepares else heading
            lines = self._statement(statement, declared)
            if lines:
                text = cnames.comment(f"{here[0]}, {_PHASES[here[1]]}") if here != heading else ""
                heading = here
                number = numbers.get(id(statement))
                printed.append({"number": number, "heading": text, "lines": lines, "base": self._base(statement)})
        parameters = {
            self.training.sample: "const odl_half *sample",
            self.training.target: "const int32_t *label" if self._labelled else "const odl_half *target",
        }
        wanted = [text for space, text in parameters.items() if space in self.training.graphs[name].inputs]
        first = next(number for number, entry, _ in self.program.calls() if entry == name)
        return {"name": name, "parameters": wanted, "statements": printed, "first": first}

    def _base(self, statement: Statement) -> str:
        """The memory that a call works in."""
        outputs = statement.outputs if isinstance(statement, Call) else ()
        return "odl_l1" if any(buffer.space == LOCAL for buffer in outputs) else "arena"

    def _statement(self, statement: Statement, declared: set[str]) -> list[str]:
        if isinstance(statement, Call):
            return self._call(statement, statement.kernel, declared) if statement.kernel else []
        if isinstance(statement, Move):
            return [self._move(statement)]
        return ["odl_barrier();"] if isinstance(statement, Barrier) else [f"odl_dma_wait(t{statement.number});"]

    def _move(self, move: Move) -> str:
        region, way = move.region, "in" if move.inward else "out"
        remote = self._byte_address(move.remote, region.offset)
        ends = f"odl_l1 + {move.local.offset}, {remote}"
        what = cnames.comment(_named(move.local))
        if region.n_rows == 1:
            return f"const odl_transfer t{move.number} = odl_dma_{way}({ends}, {region.row_bytes}); /* {what} */"
        shape = f"{region.n_rows}, {region.row_bytes}, {region.stride_bytes}"
        return f"const odl_transfer t{move.number} = odl_dma_{way}_rows({ends}, {shape}); /* {what} */"

    def _byte_address(self, buffer: Buffer, offset: int) -> str:
        """Byte `offset` of a tensor outside of the local memory."""
        if buffer.space == ARENA:
            return f"BYTE({buffer.offset + offset})"
        constant = "const " if buffer.space != FLASH else ""
        base = f"({constant or 'const '}unsigned char *){self._pointer(buffer, set(), [])}"
        return f"{base} + {offset}" if offset else base

    def _call(self, call: Call, kernel: Kernel, declared: set[str]) -> list[str]:
        """The declarations of tensors that appear for the first time, and the call."""
        changed = {into for out, into in call.op.overwrites if out < len(call.outputs)}
        pointers = [*call.outputs, *(buffer for i, buffer in enumerate(call.inputs) if i not in changed)]
        lines: list[str] = []
        arguments = [self._pointer(buffer, declared, lines) for buffer in pointers]
        arguments += ["NULL"] * (call.op.arity - len(call.inputs))
        scalars = [_number(value) for value in kernel.scalars.values()]
        if kernel.struct:
            scalars = ["&" + self._struct(call, kernel)]
        extra = [_number(value) for value in kernel.extra.values()]
        each = ""
        if self.program.has_team:
            each = "ODL_EACH_CORE "
            made, read = (", ".join(map(_named, buffers)) for buffers in (call.outputs, call.inputs))
            lines.append(f"/* {cnames.comment(f'{made} = {call.op.name} of {read}')} */")
        lines.append(f"{each}odl_{kernel.name}({', '.join(arguments + scalars + extra)});")
        return lines

    def _pointer(self, buffer: Buffer, declared: set[str], declarations: list[str]) -> str:
        """The C expression of a tensor; one in the arena is declared where it is first used."""
        if buffer.space == self.training.sample:
            return "sample"
        if buffer.space == self.training.target:
            return "label" if self._labelled else "target"
        if buffer.space == LOCAL:
            return f"{_accessor(buffer)}({buffer.offset})"
        if buffer.space == FLASH:
            return f"{self._flash_name(self.program.resident(buffer.held))}.values"
        key = buffer.held or buffer.value
        name = self._names[key]
        if key not in declared:
            declared.add(key)
            near = not self.program.has_team
            place = (
                f"{_accessor(buffer)}({buffer.offset})"
                if near
                else f"({buffer.type.dtype.c} *)(void *)BYTE({buffer.offset})"
            )
            role = f"{self.program.resident(key).tensor.role.value} " if buffer.held else ""
            declarations.append(f"{buffer.type.dtype.c} *const {name} = {place}; /* {role}{buffer.type} */")
        return name

    @property
    def _labelled(self) -> bool:
        return self.program.inputs[self.training.target].dtype is DType.I32

    def _struct(self, call: Call, kernel: Kernel) -> str:
        key = (kernel.struct, tuple(kernel.scalars.items()))
        if key not in self._structs:
            base = f"{call.layer}_{kernel.struct.removeprefix('odl_')}"
            # The key is no tensor's name, so no tensor gets the constant's identifier.
            self._structs[key] = self._names[f"\0{fresh(base, self._constants)}"]
            self._constants.add(fresh(base, self._constants))
        return self._structs[key]

    def _widest_pixel(self) -> int:
        """How many zeros a tap on the padding may have to deliver; 0 where no kernel has windows."""
        geometries = [dict(fields) for struct, fields in self._structs if struct in ("odl_window", "odl_pairing")]
        return max((max(each["in_c"], each.get("out_c", 0)) for each in geometries), default=0)

    # Tensors that outlive a step

    def _state(self, resident: Resident) -> dict[str, Any]:
        buffer = resident.buffer
        return {"string": cnames.string(resident.tensor.name), "n_bytes": buffer.type.n_bytes, "offset": buffer.offset}

    def _flash_name(self, resident: Resident) -> str:
        return "odl_const_" + self._names[resident.tensor.name]

    def _weights(self) -> dict[str, Any]:
        arrays, initial, constants = [], [], []
        for resident in self.program.residents:
            array = self._array(resident)
            if resident.buffer.space == FLASH:
                array["name"] = self._flash_name(resident)
                array["union"] = f"{array['name']}_bits"
                constants.append(array)
                arrays.append(array)
                continue
            item = {
                "n_bytes": resident.buffer.type.n_bytes, "offset": resident.buffer.offset, "bytes": "NULL",
                "comment": array["comment"],
            }  # fmt: skip
            if bits(resident.tensor.initial).any():
                array["name"] = "initial_" + self._names[resident.tensor.name]
                item["bytes"] = f"(const unsigned char *){array['name']}"
                arrays.append(array)
            initial.append(item)
        return {"arrays": arrays, "initial": initial, "constants": constants}

    def _array(self, resident: Resident) -> dict[str, Any]:
        """The first values of a tensor, as patterns."""
        type_ = resident.buffer.type
        width = 2 * type_.dtype.n_bytes
        words = [f"0x{value:0{width}x}" for value in bits(resident.tensor.initial).ravel().tolist()]
        return {
            "n_elems": len(words), "lines": _wrapped(words, _DIGITS_PER_LINE // width), "union": "",
            "type": f"uint{4 * width}_t", "value": type_.dtype.c,
            "comment": cnames.comment(f"{resident.tensor.name}: {type_}"),
        }  # fmt: skip

    # The hook

    def _trace(self) -> dict[str, Any]:
        traced = [
            {
                "call": number, "offset": buffer.offset, "n_bytes": buffer.type.n_bytes,
                "elem_bytes": buffer.type.dtype.n_bytes, "is_float": int(buffer.type.dtype.is_float),
                "comment": cnames.comment(buffer.value),
            }
            for number, buffer in traced_buffers(self.program)
        ]  # fmt: skip
        return {"traced": traced, "n_calls": sum(1 for _ in self.program.calls())}


def traced_buffers(program: Program) -> Iterator[tuple[int, Buffer]]:
    """(call number, buffer) of every tensor that a verifying run hashes, in the order of `odl_traced`."""
    for number, _, call in program.calls():
        for buffer in call.outputs:
            yield number, buffer


def _named(buffer: Buffer) -> str:
    """The value, and which of its bytes, for comments."""
    return f"{buffer.value}[{buffer.part}]" if buffer.part else buffer.value


def _accessor(buffer: Buffer) -> str:
    return {DType.F16: "HALF", DType.F32: "FLOAT", DType.I32: "INT", DType.U8: "CODE"}[buffer.type.dtype]


def _number(value: int | float) -> str:
    """A C constant; a float has the shortest decimal form that reads back as the same binary32 number."""
    if isinstance(value, int):
        return str(int(value))
    assert np.isfinite(np.float32(value)), f"C has no constant for {value}: hand it over as bits"
    text = str(np.float32(value))
    return f"{text}f" if any(mark in text for mark in ".en") else f"{text}.0f"


def _field(field: tuple[str, int | float]) -> str:
    """A field of a C constant."""
    return f".{field[0]} = {_number(field[1])}"


def _wrapped(words: Iterable[str], per_line: int) -> list[str]:
    """Words with commas, so many a line."""
    items = list(words)
    return [", ".join(items[at : at + per_line]) + "," for at in range(0, len(items), per_line)]
