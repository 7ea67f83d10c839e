"""python -m campaigns.blowups NAME: a model that aims at time or memory, compiled or refused within bounds.

Each is small as a file, or as large as what it costs, and sound as far as ONNX can tell.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.models import ROOT
from campaigns.hostile_models import Proto, draw, model, node
from odl.api import compile_model
from odl.errors import OdlError
from odl.recipe import Recipe

SECONDS, BYTES = 60, 2 << 30


@dataclass(frozen=True)
class Blowup:
    """`quick`: whether it takes so little that every test run can have it."""

    what: str
    make: Callable[[], Proto]
    target: str = "qemu-zhinx"
    quick: bool = False


def chain(n: int) -> Proto:
    relus = [node("Relu", f"v{at}", f"v{at + 1}", f"relu{at}") for at in range(n - 2)]
    return model([node("Gemm", "x w", "v0", "fc"), *relus, node("Identity", f"v{n - 2}", "y")], (1, 4), w=draw(4, 3))


def fan(n: int) -> Proto:
    """One value, n readers, one node that reads them all."""
    relus = [node("Relu", "h", f"r{at}") for at in range(n)]
    together = node("Concat", " ".join(f"r{at}" for at in range(n)), "c", axis=1)
    return model(
        [node("Gemm", "x w", "h"), *relus, together, node("Gemm", "c v", "y")], (1, 4), w=draw(4, 1), v=draw(n, 2)
    )


def initializers(n: int) -> Proto:
    """A node and a trained weight of four elements, n times."""
    adds = [node("Add", f"v{at} w{at}" if at else "x w0", f"v{at + 1}") for at in range(n)]
    adds[-1].output[0] = "y"
    return model(adds, (1, 4), **{f"w{at}": draw(4) for at in range(n)})


def long_lives(n: int) -> Proto:
    """n values, of which all are read again at the end."""
    nodes, total = [node("Gemm", "x w", "v0", "fc")], "v0"
    nodes += [node("Relu", f"v{at}", f"v{at + 1}") for at in range(n)]
    for at in range(1, n + 1):
        nodes.append(node("Add", f"{total} v{at}", f"s{at}"))
        total = f"s{at}"
    nodes[-1].output[0] = "y"
    return model(nodes, (1, 4), w=draw(4, 3))


def _function(name: str, *body: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function(
        "custom", name, ["a"], ["b"], body, [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    )


def _call(name: str, source: str, result: str) -> onnx.NodeProto:
    return helper.make_node(name, [source], [result], domain="custom")


def functions(n: int) -> Proto:
    """n functions, each of which calls the one before twice."""
    found = [_function("F0", node("Relu", "a", "b"))]
    found += [_function(f"F{at}", _call(f"F{at - 1}", "a", "c"), _call(f"F{at - 1}", "c", "b")) for at in range(1, n)]
    return model([_call(f"F{n - 1}", "x", "h"), node("Gemm", "h w", "y")], (1, 4), found, w=draw(4, 3))


def heavy_function(n: int) -> Proto:
    """A function with a constant of 4 MiB, called n times."""
    big = numpy_helper.from_array(np.ones((1, 1 << 20), np.float32), "k")
    calls = [_call("F", f"v{at}" if at else "x", f"v{at + 1}") for at in range(n)]
    body = _function("F", node("Constant", "", "k", value=big), node("Relu", "a", "b"))
    return model([*calls, node("Gemm", f"v{n} w", "y")], (1, 4), [body], w=draw(4, 3))


def long_names(n: int, length: int) -> Proto:
    letter = "n" * length
    relus = [node("Relu", f"{letter}{at}" if at else "x", f"{letter}{at + 1}", f"{letter}{at}") for at in range(n)]
    return model([*relus, node("Gemm", f"{letter}{n} w", "y")], (1, 4), w=draw(4, 3))


def one_name(n: int) -> Proto:
    proto = chain(n)
    for each in proto.graph.node:
        each.name = "same"
    return proto


def image(size: int) -> Proto:
    nodes = [
        node("Relu", "x", "h"),
        node("GlobalMaxPool", "h", "m"),
        node("Flatten", "m", "f"),
        node("Gemm", "f w", "y"),
    ]
    return model(nodes, (1, 1, size, size), w=draw(1, 3))


def window(size: int) -> Proto:
    pool = node("AveragePool", "x", "h", kernel_shape=[size] * 2, pads=[size // 2] * 4)
    tail = [node("GlobalMaxPool", "h", "m"), node("Flatten", "m", "f"), node("Gemm", "f w", "y")]
    return model([pool, *tail], (1, 1, 64, 64), w=draw(1, 3))


def kernel(size: int) -> Proto:
    conv = node("Conv", "x k", "h", kernel_shape=[size] * 2, pads=[size // 2] * 4)
    tail = [node("GlobalMaxPool", "h", "m"), node("Flatten", "m", "f"), node("Gemm", "f w", "y")]
    return model([conv, *tail], (1, 1, 64, 64), k=draw(1, 1, size, size), w=draw(1, 3))


def dense(size: int) -> Proto:
    return model([node("Gemm", "x w", "y")], (1, size), w=draw(size, size))


def unsupported(n: int) -> Proto:
    nodes = [node("Erf", f"v{at}" if at else "x", f"v{at + 1}", f"e{at}") for at in range(n)]
    return model([*nodes, node("Gemm", f"v{n} w", "y")], (1, 4), w=draw(4, 3))


def cycle(n: int) -> Proto:
    nodes = [node("Relu", f"v{(at + 1) % n}", f"v{at}", f"e{at}") for at in range(n)]
    return model([*nodes, node("Gemm", "v0 w", "y")], (1, 4), w=draw(4, 3))


BLOWUPS = {
    "chain": Blowup("a chain of 10,000 nodes", lambda: chain(10_000)),
    "chain-pulp": Blowup("a chain of 5,000 nodes, for a cluster", lambda: chain(5_000), "pulp-open"),
    "chain-longer": Blowup("a chain of 30,000 nodes", lambda: chain(30_000), quick=True),
    "fan": Blowup("one value with 4,000 readers, which one node reads", lambda: fan(4_000)),
    "fan-wider": Blowup("the same with 10,000", lambda: fan(10_000), quick=True),
    "initializers": Blowup("10,000 trained weights of 4 elements", lambda: initializers(10_000)),
    "long-lives": Blowup("3,000 values that live to the end", lambda: long_lives(3_000)),
    "functions": Blowup("40 functions, each calling the one before twice", lambda: functions(40), quick=True),
    "functions-deep": Blowup("4,000 of them", lambda: functions(4_000), quick=True),
    "functions-unfolded": Blowup("13 of them: 4,096 nodes", lambda: functions(13)),
    "heavy-function": Blowup("a function of 4 MiB, called 1,000 times", lambda: heavy_function(1_000), quick=True),
    "long-names": Blowup("3,000 nodes with names of 1,000 characters", lambda: long_names(3_000, 1_000), quick=True),
    "longer-names": Blowup("100 nodes with names of 100,000 characters", lambda: long_names(100, 100_000), quick=True),
    "one-name": Blowup("5,000 nodes of one name", lambda: one_name(5_000)),
    "image": Blowup("an image of 4,096 x 4,096", lambda: image(4_096), quick=True),
    "image-larger": Blowup("an image of 16,384 x 16,384", lambda: image(16_384), quick=True),
    "image-largest": Blowup("an image of 2^30 x 2^30", lambda: image(1 << 30), quick=True),
    "window": Blowup("a pooling window of 4,096 x 4,096", lambda: window(4_096), quick=True),
    "kernel": Blowup("a kernel of 512 x 512 over 64 x 64", lambda: kernel(512), quick=True),
    "dense": Blowup("a dense layer of 2,048 x 2,048", lambda: dense(2_048)),
    "dense-larger": Blowup("a dense layer of 6,000 x 6,000", lambda: dense(6_000)),
    "unsupported": Blowup("10,000 unsupported nodes", lambda: unsupported(10_000), quick=True),
    "cycle": Blowup("a cycle of 10,000 nodes", lambda: cycle(10_000), quick=True),
}

Result = dict[str, Any]


def measured(name: str) -> Result:
    """How a process of its own ends, within SECONDS of a processor and BYTES: `ended` is a code, "compiled", or what
    went wrong."""
    here = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "campaigns.blowups", name]
    told = {"name": name, "what": BLOWUPS[name].what, "target": BLOWUPS[name].target}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=here, capture_output=True, text=True, timeout=8 * SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {**told, "ended": "out of time", "within": False}
    if done.returncode:
        return {**told, "ended": (done.stderr.splitlines() or ["killed"])[-1], "within": False}
    found: Result = json.loads(done.stdout)
    return {**told, **found, "within": found["seconds"] <= SECONDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(BLOWUPS))
    blowup = BLOWUPS[parser.parse_args().name]
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        path = Path(scratch, "model.onnx")
        path.write_bytes(blowup.make().SerializeToString())
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = BYTES + pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        started, ended = time.process_time(), "compiled"
        try:
            compile_model(path, Recipe(), blowup.target)
        except OdlError as error:
            ended = error.code
        seconds = round(time.process_time() - started, 1)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({"ended": ended, "seconds": seconds, "mib": most, "file_bytes": path.stat().st_size}))


if __name__ == "__main__":
    main()
