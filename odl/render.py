"""Results as text: tables and a few lines, made of the words of the JSON answers (`odl.results`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from odl.graph import Phase
from odl.tuning import Knobs

_NUMBER = re.compile(r"([-+]?[\d,.]+(e[-+]\d+)?( %)?)?")
_LONGEST_CELL = 44
_MAP_WIDTH = 40
_LINE_WIDTH, _MOST_CLASSES = 110, 8

Result = Mapping[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns two spaces apart, numbers to the right, long words cut except in the last column."""
    body = [[cell_text(value) for value in row] for row in rows]
    cut = [[*(_cut(cell) for cell in row[:-1]), row[-1]] for row in (list(header), *body)]
    columns = list(zip(*cut, strict=True))
    right = [all(_NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cut
    )


def cell_text(value: object) -> str:
    """A value as a table has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("\n", "\\n")


def _cut(cell: str) -> str:
    return cell if len(cell) <= _LONGEST_CELL else f"{cell[: _LONGEST_CELL - 3]}..."


def _facts(*facts: tuple[str, str]) -> str:
    """Words and what they are, one a line."""
    width = max(len(word) for word, _ in facts)
    return "\n".join(f"{word.ljust(width)}  {text}" for word, text in facts)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def loss_text(loss: float) -> str:
    """The shortest decimal that reads back as the same binary32 number."""
    return str(np.float32(loss))


# --- without a target -------------------------------------------------------------------------------------------------


def supported(result: Result) -> str:
    """`odl ops`."""
    rows = [(o["operator"], o["gradient"], ", ".join(o["targets"]), o["limits"]) for o in result["operators"]]
    return table(("operator", "gradient", "targets", "limits"), rows)


def tools(result: Result) -> str:
    """`odl doctor`."""
    rows = [(t["name"], "found" if t["found"] else "missing", t["version"], t["path"]) for t in result["tools"]]
    hints = [f"{t['name']}: {t['hint']}" for t in result["tools"] if t["hint"]]
    can = "can" if result["usable"] else "cannot"
    verdict = f"target {result['target']} {can} be compiled and run here"
    return _paragraphs(table(("tool", "", "version", "path"), rows), "\n".join(hints), verdict)


def checked(result: Result) -> str:
    """`odl check`."""
    macs, weights = result["macs"], f"{result['weights']:,}, of which {result['trained_weights']:,} are trained"
    inputs = ", ".join(f"{value['name']}: {_by(value['shape'])}" for value in result["input"])
    lost = (f"binary16: {n:,} elements of '{name}' become zero" for name, n in result["vanished"].items())
    facts = _facts(
        ("model", f"{result['model']}: accepted"),
        ("input", inputs),
        ("weights", weights),
        ("MACs", f"{macs['forward']:,} forward, {macs['step']:,} a training step"),
    )
    return _paragraphs(facts, table(LAYERS, map(layer_row, result["layers"])), "\n".join(lost))


LAYERS = ("layer", "output", "MACs", "weights", "trained", "largest", "vanished", "operators")


def layer_row(layer: Result) -> tuple[object, ...]:
    """A row under LAYERS."""
    weights, words = layer["weights"], "+".join(layer["operators"])
    if not weights:
        return layer["layer"], _by(layer["shape"]), layer["macs"], "", "", "", "", words
    elements = sum(weight["elements"] for weight in weights)
    trained = sum(weight["trained_elements"] for weight in weights)
    largest, vanished = max(w["largest"] for w in weights), sum(w["vanished"] for w in weights)
    return layer["layer"], _by(layer["shape"]), layer["macs"], elements, trained, largest, vanished, words


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan(result: Result) -> str:
    """`odl plan`: sizes, then the order of each entry with a picture of the arena while each node runs. The last line
    is the verdict: on a terminal the first ones are out of sight."""
    size, bound, kept = result["arena_bytes"]["arena"], result["arena_lower_bound"], result["persistent_bytes"]
    flash, ram = result["flash_bytes"], result["ram"]
    inputs = ", ".join(f"{name} {n_bytes:,}" for name, n_bytes in result["input_bytes"].items())
    facts = _facts(
        ("target", result["target"]),
        ("arena", f"{size:,} bytes: {kept:,} persistent, {size - kept:,} transient"),
        ("of it", ", ".join(f"{role} {n_bytes:,}" for role, n_bytes in result["held_bytes"].items())),
        ("updates", _kept(result["updates"])),
        ("lower bound", f"{bound:,} bytes; the arena is {size - bound:,} above it"),
        ("flash", f"{flash['constants']:,} bytes of constants, {flash['initial_weights']:,} of initial weights"),
        ("inputs", f"{inputs} bytes, in the caller's memory"),
        ("L1", _local(result)),
        ("RAM", f"{ram['needed']:,} bytes with {result['stack_bytes']:,} of stack{_of_available(ram)}"),
    )
    return _paragraphs(
        facts,
        _saved(result["savings"]),
        _recomputed(result),
        *(_order(entry, size, kept) for entry in result["entries"]),
        _verdict(ram, sum(flash.values())),
    )


def _of_available(ram: Result) -> str:
    """Whether it fits; nothing of a memory that no chip has."""
    if ram["fits"] and ram["open"]:
        return ""
    return f", of {ram['available']:,}: {'fits' if ram['fits'] else 'does not fit'}"


def _verdict(ram: Result, flash_bytes: int) -> str:
    """All that a chip has to have, and whether this one has it."""
    needed, available = ram["needed"], ram["available"]
    flash = f"{flash_bytes:,} of flash beside the code"
    if not ram["fits"]:
        missing = f"{needed - available:,} too many"
        return f"does not fit: {needed:,} of {available:,} bytes of RAM at the peak, {missing}; {flash}"
    if ram["open"]:
        return f"needs {needed:,} bytes of RAM at the peak, {flash}; --ram tells whether a chip has them"
    return f"fits: {needed:,} of {available:,} bytes of RAM at the peak, {flash}"


def _kept(updates: Result) -> str:
    """Which gradients are there together, and what one that is not finite does."""
    if updates["kept"]:
        return f"after all gradients, {updates['gradient_bytes']:,} bytes; one that is not finite skips the whole step"
    return "each as soon as its gradient is known; one that is not finite skips its own tensor"


def _saved(savings: Result | None) -> str:
    """What the recipe saves against training everything."""
    if not savings:
        return ""
    words = {
        "ram_bytes": "RAM at least, bytes", "persistent_bytes": "of it persistent", "macs": "MACs a step",
        "updated_elements": "updated elements",
    }  # fmt: skip
    rows = []
    for key, word in words.items():
        chosen, everything = savings["chosen"][key], savings["everything"][key]
        share = 100 * (1 - chosen / everything) if everything else 0
        rows.append((word, everything, chosen, everything - chosen, f"{share:.1f} %"))
    return "what is saved, in a flat memory\n" + table(("", "everything", "this recipe", "saved", ""), rows)


def _recomputed(result: Result) -> str:
    """What is computed again so that it fits."""
    saving, size = result["recomputed"], result["arena_bytes"]["arena"]
    if not saving:
        return ""
    whole = saving["kept_arena_bytes"]
    lines = [f"computed again: the arena has {whole - size:,} bytes less than the {whole:,} with everything kept"]
    for entry in saving["entries"]:
        more, macs, times = entry["extra_macs"], entry["macs"], entry["recomputed"]
        if times:
            values = ", ".join(value + (f" ({n} times)" if n > 1 else "") for value, n in times.items())
            lines.append(
                f"{entry['entry']}: {more:,} MACs more, {100 * more / max(macs, 1):.1f} % of {macs:,}: {values}"
            )
    return "\n".join(lines)


def _local(result: Result) -> str:
    """The memory next to the cores, and what moves between it and the others in each entry."""
    local = result["l1"]
    if not local:
        return "none: the memory is flat"
    moved = (
        f"{entry['entry']} moves {sum(t['dma_in_bytes'] for t in entry['tiles']):,} bytes in and "
        f"{sum(t['dma_out_bytes'] for t in entry['tiles']):,} out"
        for entry in result["entries"]
    )
    return f"{local['needed']:,} bytes of {local['available']:,}; {', '.join(moved)}"


def _order(entry: Result, size: int, kept: int) -> str:
    tiles = {each["node"]: each for each in entry["tiles"]}
    rows = (
        (
            at,
            node["live_bytes"],
            _map(entry["blocks"], at, size, kept),
            *(_tiled(tiles.get(node["node"])) if tiles else ()),
            node["operator"],
            _words(node["phase"]),
            node["layer"],
        )
        for at, node in enumerate(entry["nodes"])
    )
    local = ("tiles", "L1", "in", "out") if tiles else ()
    header = ("node", "live", "arena: = persistent, # live", *local, "operator", "phase", "layer")
    return f"{entry['entry']}\n{table(header, rows)}"


def _tiled(tiles: Result | None) -> tuple[object, ...]:
    """How often a node is called, if often along which axis, what a call has in L1, what moves; nothing for a view."""
    if not tiles:
        return ("",) * 4
    cut = "" if tiles["axis"] is None or tiles["calls"] == 1 else f" (axis {tiles['axis']})"
    return f"{tiles['calls']}{cut}", tiles["l1_bytes"], tiles["dma_in_bytes"], tiles["dma_out_bytes"]


def _words(phase: str) -> str:
    return phase.replace("_", " ")


def _map(blocks: Iterable[Result], at: int, size: int, kept: int) -> str:
    """The arena while node `at` runs, from its first byte to its last."""
    cells = ["."] * _MAP_WIDTH
    used = ((b["offset"], b["bytes"]) for b in blocks if b["space"] == "arena" and b["first"] <= at <= b["last"])
    for offset, n_bytes in sorted(used, reverse=True):
        for cell in range(offset * _MAP_WIDTH // size, -(-(offset + n_bytes) * _MAP_WIDTH // size)):
            cells[cell] = "=" if offset < kept else "#"
    return "".join(cells)


def memory_map(result: Result) -> str:
    """The plan in full: for each entry its nodes by number, and every block with its bytes and its life."""
    return "".join(f"{line}\n" for entry in result["entries"] for line in _blocks(entry))


def _blocks(entry: Result) -> Iterator[str]:
    yield f"entry {entry['entry']}"
    for at, node in enumerate(entry["nodes"]):
        yield f"  node {at}: {node['node']}, {node['phase']}, {node['live_bytes']} bytes live"
    for block in sorted(entry["blocks"], key=lambda block: (block["space"], block["offset"], block["first"])):
        begin, end = block["offset"], block["offset"] + block["bytes"]
        values = ", ".join(block["values"])
        yield f"  {block['space']} {begin:#08x}..{end:#08x} nodes {block['first']}..{block['last']}: {values}"


def selected(result: Result) -> str:
    """`odl select`."""
    ram, time, unit = result["ram"], result["time"], result["unit"]
    skipped = f", of which {result['skipped']:,} were not finite and did not count" if result["skipped"] else ""
    facts = [
        (
            "trained",
            f"{100 * result['share']:.1f} % of what everything contributes, on {result['samples']:,} samples{skipped}",
        ),
        ("RAM", f"{ram['needed']:,} bytes of {ram['allowed']:,}, arena and stack on {result['target']}"),
    ]
    if time:
        needed = f"{time['needed']:,.0f} {unit} of {time['allowed']:,} on {result['on']}"
        facts.append(("a step", f"{needed}; the estimate was {time['estimated']:,.0f}"))
    facts.append(("recipe", result["file"] or "not kept; -o recipe.toml writes it"))
    header = ("layer", "contributes", "trained", "bytes", *([unit] if time else []), "weights and their channels")
    rows = [
        (each["layer"], f"{100 * each['contribution']:.2f} %", f"{100 * each['trained']:.2f} %", each["bytes"],
         *([round(each["time"])] if time else []), ", ".join(map(_channels, each["weights"])) or "frozen")
        for each in result["layers"]
    ]  # fmt: skip
    return _paragraphs(_facts(*facts), table(header, rows))


def _channels(weight: Result) -> str:
    first, last = weight["channels"]
    return weight["name"] if weight["whole"] else f"{weight['name']} {first}:{last} of {weight['of']}"


# --- on a target ------------------------------------------------------------------------------------------------------


def built(result: Result) -> str:
    """`odl build`."""
    sizes, arena = result["section_bytes"], result["arena_bytes"]["arena"]
    measured = f"text {sizes['text']:,}, data {sizes['data']:,}, bss {sizes['bss']:,} bytes"
    return _facts(
        ("project", result["folder"]),
        ("runner", result["elf"]),
        ("sections", measured if any(sizes.values()) else "not measured on this target"),
        ("arena", f"{arena:,} bytes (lower bound {result['arena_lower_bound']:,})"),
    )


def packaged(result: Result) -> str:
    """`odl build --package`."""
    arena = result["arena_bytes"]["arena"]
    return _facts(
        ("package", f"{result['folder']}, for {result['package']}"),
        ("arena", f"{arena:,} bytes (lower bound {result['arena_lower_bound']:,})"),
    )


def tuned(result: Result) -> str:
    """`odl tune`: what each candidate takes, what each layer chose, and what that gained."""
    cycles = result["cycles"]
    lines = [
        f"{name:12} {'does not fit' if n is None else f'{n:>12,} cycles'}" for name, n in result["candidates"].items()
    ]
    usual = asdict(Knobs())
    for key, knobs in result["tuning"].get("choices", {}).items():
        lines.append(f"{key}: " + ", ".join(f"{name} {value}" for name, value in knobs.items() if value != usual[name]))
    lines.append(
        f"{result['target']}: {cycles['cost_model']:,} cycles a step by the cost model, {cycles['tuned']:,} tuned, "
        f"{100 * result['gain']:.2f} % fewer; kept in {result['file']}"
    )
    return "\n".join(lines)


def ran(result: Result) -> str:
    """`odl run`: what stands under the stream of losses."""
    step, arena = result["per_step"], result["arena_bytes"]["arena"]
    counter = _counter(result)
    cost = "".join(f"{step[word]:,.0f} {word}, " for word in [counter] if word)
    rate = f", {step['mac_per_cycle']:.2f} a cycle" if "mac_per_cycle" in step else ""
    facts = _facts(
        ("steps", f"{result['steps']:,} on {result['on']}{_resumed(result)}"),
        ("loss", _edges(result["loss"]) if result["loss"] else "all steps were done before"),
        ("updates", _updates_text(result["updates"])),
        ("a step", f"{cost}{step['macs']:,} MACs{rate}"),
        ("arena", f"{arena:,} bytes (lower bound {result['arena_lower_bound']:,})"),
        ("stack", f"{result['stack_bytes']:,} bytes" if result["stack_bytes"] else "not measured on this target"),
    )
    return "\n" + _paragraphs(facts, _costs(result, counter or "macs"))


def _resumed(result: Result) -> str:
    """What checkpoints had to do with it."""
    first, saved = result["resumed_at"], result["checkpoints"]["saved"]
    behind = f", behind {first:,} of the checkpoint" if first else ""
    return behind + (f", {saved:,} checkpoints saved" if saved else "")


def inspected(result: Result) -> str:
    """`odl checkpoint inspect`."""
    words = ("sequence", "position", "bytes", "model_id", "source")
    rows = [
        (at, slot["state"], *(slot[word] if slot["bytes"] else "" for word in words))
        for at, slot in enumerate(result["slots"])
    ]
    header = ("slot", "", "save", "steps", "bytes", "program", "data")
    damaged = "\n".join(f"slot {at}: {slot['why']}" for at, slot in enumerate(result["slots"]) if slot["why"])
    tensors = [(t["role"], t["elements"], t["changed"], t["name"]) for t in result["tensors"]]
    told = table(("role", "elements", "changed", "tensor"), tensors) if tensors else ""
    return _paragraphs(table(header, rows), damaged, told)


def _updates_text(updates: Result) -> str:
    lost = updates["lost"]
    share = 100 * lost["elements"] / lost["of"] if lost["of"] else 0
    skipped = f", {updates['skipped']:,} not finite and skipped" if updates["skipped"] else ""
    scale = f", loss scale {updates['loss_scale']:g}" if updates["loss_scale"] != 1 else ""
    lost_to = "not taken, by chance and right in the mean" if updates["master"] == "stochastic" else "lost to rounding"
    return f"{updates['tried']:,}{skipped}; {share:.1f} % of the weights' steps {lost_to}{scale}"


def _edges(losses: Sequence[float]) -> str:
    """The mean losses of the first and of the last tenth: those of single samples would tell little."""
    first, last, n = ends(losses)
    return f"{first:.4g} at first, {last:.4g} at last" + (f", means of {n:,} steps" if n > 1 else "")


def ends(losses: Sequence[float]) -> tuple[float, float, int]:
    """The means of the first and of the last tenth of losses, and of how many each is."""
    n = max(1, len(losses) // 10)
    return sum(losses[:n]) / n, sum(losses[-n:]) / n, n


def _counter(result: Result) -> str:
    return next((word for word in ("cycles", "instructions") if word in result["per_step"]), "")


def _costs(result: Result, unit: str) -> str:
    """`unit` of a step by layer and phase, and each layer's share of their sum."""
    whole = sum(layer[unit] for layer in result["layers"])
    rows = [
        (*(_rounded(layer["phases"].get(phase.value, {}).get(unit)) for phase in Phase), _rounded(layer[unit]),
         f"{100 * layer[unit] / whole if whole else 0:.1f} %", layer["layer"])
        for layer in result["layers"]
    ]  # fmt: skip
    phases = [_words(phase.value) for phase in Phase]
    return f"{unit if unit != 'macs' else 'MACs'} a step\n" + table((*phases, "all", "share", "layer"), rows)


def _rounded(value: float | None) -> object:
    return "" if value is None else round(value)


def verified(result: Result) -> str:
    """`odl verify`."""
    compared = f"{result['tensors']:,} tensors, {result['values']:,} values over {result['steps']:,} steps"
    if result["equal"]:
        return f"equal: {compared} are the same bits on {result['on']} and in NumPy"
    found = result["first_difference"]
    sides = (
        (side, f"{found[word]['bits']} ({found[word]['value']:g})")
        for side, word in ((f"on {result['on']}", "actual"), ("in NumPy", "expected"))
    )
    return "different: the first element that differs, of " + compared + "\n\n" + _facts(
        ("step", str(found["step"])),
        ("layer", found["layer"]),
        ("kernel", found["kernel"]),
        ("tensor", found["tensor"]),
        ("index", f"[{', '.join(map(str, found['index']))}], in storage order"),
        *sides,
    )  # fmt: skip


def evaluated(result: Result) -> str:
    """`odl eval`."""
    if "accuracy" in result:
        right = f"{result['correct']:,} of {result['samples']:,} on {result['on']}"
        lost = f"{result['undecided']:,} of them have NaN among their outputs: taken for no class, and wrong"
        return _paragraphs(
            f"accuracy {result['accuracy']:.4f}: {right}", confusion(result), lost if result["undecided"] else ""
        )
    return f"mean squared error {result['mean_squared_error']:.6g} of {result['samples']:,} samples on {result['on']}"


def confusion(result: Result, before: Sequence[float | None] = ()) -> str:
    """A row for each class: its samples, the share that is right, and how many were taken for which class; if given,
    the share that was right `before`.

    There is a column for every class that a sample was taken for, or, where that is too wide, one for all of them.
    """
    matrix, shares = result["confusion"], result["class_accuracy"]
    columns = [each for each in (before, shares) if each]
    facts = [
        (at, sum(row), *("" if of[at] is None else f"{of[at]:.4f}" for of in columns)) for at, row in enumerate(matrix)
    ]
    seen = [column for column in range(len(matrix)) if any(row[column] for row in matrix)]
    words = ("class", "samples", *(["before"] if before else []), "right")
    header = (*words, *(f"as {column}" for column in seen))
    text = table(header, ((*fact, *(row[c] or "." for c in seen)) for fact, row in zip(facts, matrix, strict=True)))
    if max(map(len, text.splitlines())) <= _LINE_WIDTH:
        return text
    return table((*words, "taken for"), ((*fact, most_taken_for(row)) for fact, row in zip(facts, matrix, strict=True)))


def most_taken_for(row: Sequence[int]) -> str:
    """The classes that most samples were taken for, with their numbers."""
    order = sorted((-n, column) for column, n in enumerate(row) if n)
    named = [f"{column}: {-n:,}" for n, column in order[:_MOST_CLASSES]]
    return ", ".join(named + ["..."] * (len(order) > _MOST_CLASSES))


def exported(result: Result) -> str:
    """`odl export`."""
    return f"{result['model']}: {len(result['trained'])} trained initializers"
