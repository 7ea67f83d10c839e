"""What commands find out, as JSON has it. The text on a terminal is made of the same words, by `odl.render`.

Sizes are in bytes, shapes lists of int. A shape is ONNX's; `storage` is how the same tensor lies in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import inf
from typing import Any

import numpy as np

from odl.api import Accepted, Compiled, Run
from odl.autotune import Tuned
from odl.checkpoint import Slot, Status
from odl.compare import Difference, Verdict
from odl.graph import Graph, Persistent
from odl.memory import live_bytes, timeline
from odl.ops._importer import IMPORTS, onnx_shape
from odl.options import Option
from odl.profile import Cost, profile, total
from odl.program import ARENA, FLASH, LOCAL
from odl.render import memory_map
from odl.savings import Costs, savings
from odl.selection import Selection
from odl.targets import DEFAULT, TARGETS
from odl.tile_report import tiled_nodes
from odl.toolchain import BuildResult, ToolStatus
from odl.training import INFER
from odl.types import Array

Result = dict[str, Any]

STALLS = ("load_use", "instruction_cache", "fpu")


def supported() -> Result:
    """`odl ops`. Every operator has a gradient and runs everywhere: the tests walk the same registry."""
    operators = [
        {"operator": name, "limits": imported.limits, "gradient": True, "targets": list(TARGETS)}
        for name, imported in sorted(IMPORTS.items())
    ]
    return {"operators": operators}


def tools(statuses: Sequence[ToolStatus]) -> Result:
    """`odl doctor`: `usable` says whether the default target can be compiled and run."""
    found = {status.name for status in statuses if status.found}
    usable = {f"compiler for {DEFAULT.name}", "QEMU"} <= found
    return {"usable": usable, "target": DEFAULT.name, "tools": [asdict(status) for status in statuses]}


# --- the model --------------------------------------------------------------------------------------------------------


def checked(accepted: Accepted) -> Result:
    """`odl check`: the layers, and what binary16 takes from the weights."""
    model = accepted.model
    layers = _layers(accepted)
    weights = [weight for layer in layers for weight in layer["weights"]]
    return {
        "model": accepted.title,
        "input": [{"name": name, "shape": list(onnx_shape(type_.shape))} for name, type_ in model.graph.inputs.items()],
        "layers": layers,
        "weights": sum(weight["elements"] for weight in weights),
        "trained_weights": sum(weight["trained_elements"] for weight in weights),
        "macs": {"forward": accepted.training.graphs[INFER].macs(), "step": accepted.training.macs},
        "vanished": dict(model.vanished),
    }


def _layers(accepted: Accepted) -> list[Result]:
    """One entry a layer; a weight that layers share stands in the first of them."""
    graph, seen = accepted.training.graphs[INFER], set[str]()
    layers: dict[str, Result] = {}
    for node in graph.nodes:
        layer = layers.setdefault(node.layer, {"layer": node.layer, "operators": [], "macs": 0, "weights": []})
        shape = graph.types[node.outputs[0]].shape
        layer["operators"].append(node.op.name)
        layer.update(shape=list(onnx_shape(shape)), storage=list(shape), macs=layer["macs"] + graph.node_macs(node))
        for name in node.inputs:
            if name in graph.persistent and name not in seen:
                seen.add(name)
                layer["weights"].append(_weight(accepted, graph.persistent[name]))
    return list(layers.values())


def _weight(accepted: Accepted, tensor: Persistent) -> Result:
    return {
        "name": tensor.name,
        "shape": list(tensor.origin.shape if tensor.origin else tensor.type.shape),
        "elements": tensor.type.n_elems,
        "trained": tensor.name in accepted.training.trainable,
        "trained_elements": accepted.training.trained_elements(tensor.name),
        "largest": float(np.abs(tensor.initial).max()),
        "vanished": accepted.model.vanished.get(tensor.name, 0),
    }


# --- the plan ---------------------------------------------------------------------------------------------------------


def planned(compiled: Compiled) -> Result:
    """`odl plan`: for each entry the order of its nodes and the blocks of memory, each with its first and last node."""
    target, spaces, residents = compiled.target, compiled.program.spaces, compiled.program.residents
    ram = {
        "needed": compiled.ram_bytes_needed, "available": target.ram_bytes, "fits": compiled.missing_bytes <= 0,
        "open": target.ram_is_open,
    }  # fmt: skip
    stored = [r.buffer.type.n_bytes for r in residents if r.buffer.space == ARENA and r.tensor.initial.any()]
    return {
        "target": target.name,
        **arena(compiled),
        "persistent_bytes": compiled.program.persistent_bytes,
        "held_bytes": {role.value: n_bytes for role, n_bytes in compiled.program.held_bytes.items()},
        "updates": {"kept": compiled.recipe.keeps_gradients, "gradient_bytes": _gradient_bytes(compiled)},
        "flash_bytes": {"constants": spaces[FLASH], "initial_weights": sum(stored)},
        "input_bytes": {name: spaces[name] for name in compiled.program.inputs},
        "stack_bytes": target.stack_bytes,
        "recomputed": _saving(compiled),
        "ram": ram,
        "l1": {"needed": spaces.get(LOCAL, 0), "available": target.l1_bytes} if target.l1_bytes else None,
        "savings": _savings(compiled),
        "entries": [_entry(compiled, graph) for graph in compiled.graphs],
    }


def _gradient_bytes(compiled: Compiled) -> int:
    """The bytes of all gradients, where they are there at once."""
    training, recipe = compiled.training, compiled.recipe
    elements = sum(training.trained_elements(name) for name in training.trainable)
    return elements * (4 if recipe.gradients == "fp32" else 2) * recipe.keeps_gradients


def _savings(compiled: Compiled) -> Result | None:
    """Costs of the recipe and of training everything; None where that is the same."""
    found = savings(compiled.model, compiled.training)
    return {"chosen": _costs(found.chosen), "everything": _costs(found.everything)} if found else None


def _costs(costs: Costs) -> Result:
    return {"ram_bytes": costs.ram_bytes, **asdict(costs)}


def _saving(compiled: Compiled) -> Result | None:
    """What a budget costs: the arena with everything kept, and for each entry what is multiplied and computed again."""
    saving = compiled.saving
    if saving is None:
        return None
    return {
        "kept_arena_bytes": saving.kept_bytes,
        "entries": [
            {"entry": name, "extra_macs": macs, "macs": compiled.training.graphs[name].macs(),
             "recomputed": dict(Counter(saving.recomputed[name]))}
            for name, macs in saving.macs.items()
        ],
    }  # fmt: skip


def arena(compiled: Compiled) -> Result:
    """The size of each memory that the plan fills, and what no plan of the arena for the same order goes below."""
    program = compiled.program
    sizes = {space: program.spaces[space] for space in (ARENA, LOCAL) if space in program.spaces}
    return {"arena_bytes": sizes, "arena_lower_bound": program.lower_bound}


def _entry(compiled: Compiled, graph: Graph) -> Result:
    nodes = [
        {"node": n.name, "operator": n.op.name, "layer": n.layer, "phase": n.phase.value, "live_bytes": live}
        for n, live in zip(graph.nodes, live_bytes(graph, compiled.plan), strict=True)
    ]
    blocks = [
        {
            "values": list(block.values), "space": place.space, "offset": place.offset, "bytes": block.n_bytes,
            "first": block.first, "last": block.last,
        }
        for block, place in timeline(graph, compiled.plan)
    ]  # fmt: skip
    tiles = _tiles(compiled, graph) if compiled.program.has_team else []
    return {"entry": graph.name, "nodes": nodes, "blocks": blocks, "tiles": tiles}


def _tiles(compiled: Compiled, graph: Graph) -> list[Result]:
    """The nodes that have calls, in order. `axis` is of the node's output as it is stored, None where it is whole."""
    found = tiled_nodes(compiled.program.entries[graph.name])
    return [
        {
            "node": node.name, "calls": tiles.calls, "axis": tiles.axis if tiles.axis >= 0 else None,
            "l1_bytes": tiles.l1_bytes, "dma_in_bytes": tiles.dma_in_bytes, "dma_out_bytes": tiles.dma_out_bytes,
        }
        for node in graph.nodes if (tiles := found.get(node.name))
    ]  # fmt: skip


STAGES: Mapping[str, Callable[[Compiled], str]] = {
    "graph": lambda compiled: str(compiled.model.graph),
    "train": lambda compiled: "\n".join(map(str, compiled.training.graphs.values())),
    "schedule": lambda compiled: "\n".join(map(str, compiled.graphs)),
    "plan": lambda compiled: memory_map(planned(compiled)),
    "program": lambda compiled: str(compiled.program),
}


# --- what to train ----------------------------------------------------------------------------------------------------


def selected(found: Selection, target: str, on: str, path: str) -> Result:
    """`odl select`: every layer that could be trained; of one that is not, `weights` are empty. Times are in `unit`."""
    chosen = {option.layer: option for option in found.chosen}
    everything = found.contributions.total
    layers = [
        {
            "layer": layer,
            "weights": _chosen_weights(found, chosen[layer]) if layer in chosen else [],
            "contribution": options[-1].gain / everything,
            "trained": chosen[layer].gain / everything if layer in chosen else 0.0,
            "bytes": found.layer_bytes.get(layer, 0),
            "time": found.layer_time.get(layer, 0),
        }
        for layer, options in found.offers.items()
    ]
    ram = {"needed": found.price.ram_bytes, "allowed": found.bound.ram_bytes}
    time = {"estimated": found.estimate, "needed": found.price.time, "allowed": found.bound.time}
    return {
        "target": target,
        "on": on,
        "samples": found.contributions.samples,
        "skipped": found.contributions.skipped,
        "share": found.share,
        "ram": ram,
        "unit": found.unit,
        "time": time if found.bound.time < inf else None,
        "layers": layers,
        "recipe": asdict(found.recipe),
        "file": path,
    }


def _chosen_weights(found: Selection, option: Option) -> list[Result]:
    """`channels`: first and behind the last, of how many."""
    return [
        {"name": name, "channels": [run.first, run.last] if run else [0, len(found.contributions.rows[name])],
         "of": len(found.contributions.rows[name]), "whole": run is None}
        for name, run in option.weights
    ]  # fmt: skip


# --- on a target ------------------------------------------------------------------------------------------------------


def built(compiled: Compiled, folder: str, result: BuildResult) -> Result:
    """`odl build`. The sections of a host program are not measured: 0."""
    sizes = {"text": result.text_bytes, "data": result.data_bytes, "bss": result.bss_bytes}
    return {
        "target": compiled.target.name,
        "folder": folder,
        "elf": str(result.elf),
        "section_bytes": sizes,
        **arena(compiled),
    }


def packaged(compiled: Compiled, folder: str, package: str) -> Result:
    """`odl build --package`."""
    return {"target": compiled.target.name, "folder": folder, "package": package, **arena(compiled)}


def ran(run: Run) -> Result:
    """`odl run`: costs are of one step, the mean of all. A device that counts nothing tells MACs alone.

    Cycles of a step are those of the program as it is; cycles of layers, which add up to more, those of one that looks
    at its counters after every kernel call.
    """
    costs = profile(run.compiled.program, run.compiled.training, run.counts, run.counters)

    def cost(of: Cost) -> Result:
        return _cost(of, run.counters, len(run.counts))

    step = cost(total(c for phases in costs.values() for c in phases.values()))
    if run.counter == "cycles":
        step |= _time(_mean(int(run.whole.sum()), len(run.whole)), step["macs"])

    layers = [
        {"layer": layer, **cost(total(phases.values())), "phases": {p.value: cost(c) for p, c in phases.items()}}
        for layer, phases in costs.items()
    ]
    return {
        "target": run.compiled.target.name,
        "on": run.on,
        "steps": len(run.loss),
        "resumed_at": run.first,
        "checkpoints": {"saved": run.saves.count(Status.OK), "failed": len(run.saves) - run.saves.count(Status.OK)},
        "loss": list(run.loss),
        "updates": _updates(run),
        "per_step": step,
        "layers": layers,
        **arena(run.compiled),
        "stack_bytes": run.stack_bytes,
    }


def inspected(image: str, slots: Sequence[Slot], compiled: Compiled | None, weights: Mapping[str, Array]) -> Result:
    """`odl checkpoint inspect`: both slots, and how many elements of each tensor of a checkpoint are not those that the
    program begins with, in bits."""
    tensors = [
        {"name": held.tensor.name, "role": held.tensor.role.value, "elements": found.size,
         "changed": int(np.count_nonzero(_patterns(found) != _patterns(held.tensor.initial)))}
        for held, found in zip(compiled.program.held if compiled else (), weights.values(), strict=True)
    ]  # fmt: skip
    return {
        "image": image,
        "slots": [
            {"state": slot.state, "why": slot.why, "sequence": slot.sequence, "position": slot.position,
             "bytes": len(slot.payload), "model_id": f"{slot.model_id:08x}", "source": f"{slot.source:08x}"}
            for slot in slots
        ],
        "tensors": tensors,
    }  # fmt: skip


def _patterns(array: Array) -> Array:
    """The bits of each element."""
    patterns: Array = np.ascontiguousarray(array).view(f"u{array.itemsize}").ravel()
    return patterns


def _updates(run: Run) -> Result:
    """`lost` are elements of weights that were to move and stayed, by weight; `of` is what those tried amount to."""
    found = asdict(run.updates)
    elements = sum(run.weights[name].size for name in found["lost"])
    total = sum(found["lost"].values())
    lost = {"elements": total, "of": found["tried"] * elements, "weights": found["lost"]}
    return {**found, "master": run.compiled.recipe.master, "lost": lost}


def _cost(cost: Cost, counters: Sequence[str], steps: int) -> Result:
    """Instructions and the cycles of stalls are those of all cores together, `dma_wait` is core 0's."""
    counts = {name: _mean(cost.counts.get(name, 0), steps) for name in counters}
    stalls = {name: counts.pop(name) for name in STALLS if name in counts}
    time = _time(counts.pop("cycles"), cost.macs) if "cycles" in counts else {}
    return {**time, **counts, "macs": cost.macs, **({"stalls": stalls} if stalls else {})}


def _time(cycles: float, macs: int) -> Result:
    return {"cycles": cycles, "macs": macs, "mac_per_cycle": macs / cycles if cycles else 0.0}


def _mean(count: int, steps: int) -> float:
    """Whole where it can be; 0 of no steps."""
    whole, rest = divmod(count, max(1, steps))
    return count / steps if rest else whole


def tuned(found: Tuned, target: str, path: str) -> Result:
    """`odl tune`: cycles of a step by the cost model and with the choices; a candidate that does not fit has null."""
    return {
        "target": target,
        "file": path,
        "cycles": {"cost_model": found.before, "tuned": found.after},
        "gain": 1 - found.after / found.before,
        "candidates": {name: cycles if cycles >= 0 else None for name, cycles in found.candidates.items()},
        "tuning": found.tuning.as_json(),
    }


def verified(compiled: Compiled, on: str, verdict: Verdict) -> Result:
    """`odl verify`: patterns are hexadecimal, of the tensor's width."""
    different = verdict.first_difference
    return {
        "target": compiled.target.name,
        "on": on,
        "equal": verdict.equal,
        "steps": verdict.steps,
        "tensors": verdict.tensors,
        "values": verdict.values,
        "loss": list(verdict.loss),
        "first_difference": _difference(different) if different else None,
    }


def _difference(found: Difference) -> Result:
    places = {word: getattr(found, word) for word in ("step", "layer", "kernel", "tensor")}
    sides = {"expected": asdict(found.expected), "actual": asdict(found.actual)}
    return {**places, "index": list(found.index), **sides}
