"""Graphs of every kind of trouble: what can be put right is, the rest is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import (
    codes,
    compiled,
    draw,
    infer,
    input_shape,
    load,
    mlp,
    model,
    node,
    reference,
    refusal,
    value,
    widened,
)  # fmt: skip
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from odl import memory_check
from odl.api import Compiled
from odl.errors import ExitCode
from odl.executor import Executor
from odl.fp16 import half
from odl.graph import Role
from odl.interpreter import interpret
from odl.ops.sgd import SgdUpdate
from odl.training import INFER, STEP
from odl.types import Array


def refused(folder: Path, proto: onnx.ModelProto) -> str:
    error = refusal(lambda: load(folder, proto))
    assert error.exit_code == ExitCode.MODEL_REFUSED
    return error.code


# --- order


def test_unsorted_nodes_are_sorted(tmp_path: Path) -> None:
    shuffled = mlp()
    nodes = list(shuffled.graph.node)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend([nodes[2], nodes[0], nodes[1]])
    assert str(load(tmp_path, shuffled).graph) == str(load(tmp_path, mlp()).graph)


def test_sorting_keeps_the_order_of_the_file_where_it_can(tmp_path: Path) -> None:
    proto = model(
        node("Add", "p q", "y", "sum"), node("Relu", "x", "q", "second"), node("Tanh", "x", "p", "third"),
        node("Add", "y w", "z", "last"), outputs="z", w=draw(1, 4),
    )  # fmt: skip
    assert [n.layer for n in load(tmp_path, proto).graph.nodes] == ["second", "third", "sum", "last"]


def test_cycle(tmp_path: Path) -> None:
    proto = model(node("Add", "x b", "a", "one"), node("Relu", "a", "b", "two"), node("Gemm", "a w", "y"), w=draw(4, 3))
    error = refusal(lambda: load(tmp_path, proto))
    assert (error.code, error.exit_code) == ("cycle", 3)
    assert "one, two" in error.problems[0].where


def test_node_that_reads_itself(tmp_path: Path) -> None:
    assert refused(tmp_path, model(node("Add", "x y", "y"))) == "cycle"


def test_dangling_input(tmp_path: Path) -> None:
    proto = model(node("Gemm", "x w", "h", "fc"), node("Add", "h nowhere", "y", "sum"), w=draw(4, 3))
    error = refusal(lambda: load(tmp_path, proto))
    assert (error.code, error.exit_code, error.problems[0].where) == ("dangling-input", 3, "Add 'sum'")


def test_dangling_output(tmp_path: Path) -> None:
    assert refused(tmp_path, model(node("Gemm", "x w", "h"), outputs="y", w=draw(4, 3))) == "dangling-input"


def test_input_without_a_name(tmp_path: Path) -> None:
    assert refused(tmp_path, model(node("Gemm", "x .", "y"), w=draw(4, 3))) == "onnx-checker"
    assert refused(tmp_path, model(node("Concat", "x . x", "h", axis=1), node("Gemm", "h w", "y"), w=draw(8, 3))) == (
        "dangling-input"
    )


# --- names


def test_duplicate_value(tmp_path: Path) -> None:
    assert refused(tmp_path, model(node("Relu", "x", "y"), node("Gemm", "x w", "y"), w=draw(4, 3))) == "duplicate-name"


def test_duplicate_initializer(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.initializer.append(proto.graph.initializer[0])
    assert refused(tmp_path, proto) == "duplicate-name"


def test_node_that_computes_the_input(tmp_path: Path) -> None:
    assert refused(tmp_path, model(node("Gemm", "x w", "x"), outputs="x", w=draw(4, 4))) == "duplicate-name"


def test_duplicate_node_names_make_layers_of_their_own(tmp_path: Path) -> None:
    proto = mlp()
    for n in proto.graph.node:
        n.name = "layer"
    assert [n.layer for n in load(tmp_path, proto).graph.nodes] == ["layer", "layer.1", "layer.2"]


def test_nodes_without_names_do_not_take_those_of_others(tmp_path: Path) -> None:
    proto = mlp()
    for n, name in zip(proto.graph.node, ("", "Gemm_0", "Gemm_0"), strict=True):
        n.name = name
    assert [n.layer for n in load(tmp_path, proto).graph.nodes] == ["Gemm_0.1", "Gemm_0", "Gemm_0.2"]


def test_twins_are_folded_each_for_itself(tmp_path: Path) -> None:
    """Two Conv and BatchNormalization pairs under the same node names."""
    nodes, weights = [], {}
    for at, (source, result) in enumerate((("x", "h"), ("h", "y"))):
        weights |= {f"{name}{at}": draw(2, seed=at) + 1 for name in ("gamma", "beta", "mean")}
        weights |= {f"w{at}": draw(2, 2, 3, 3, seed=at), f"var{at}": 1 + draw(2, seed=at) ** 2}
        nodes.append(node("Conv", f"{source} w{at}", f"c{at}", "conv", kernel_shape=[3, 3]))
        nodes.append(node("BatchNormalization", f"c{at} gamma{at} beta{at} mean{at} var{at}", result, "bn"))
    proto = model(*nodes, x=(1, 2, 6, 6), **weights)
    program = compiled(tmp_path, proto, loss="mse")
    assert [n.op.name for n in program.training.graphs[INFER].nodes] == ["conv2d", "conv2d"]
    x = draw(1, 2, 6, 6, seed=9, scale=1)
    np.testing.assert_allclose(infer(program, x), reference(proto, x), atol=0.05)


@pytest.mark.parametrize(
    "name", ["label", "target", "loss", "probabilities", "flash", "w.grad", "w.velocity", "h.relu"]
)
def test_names_that_odl_uses_itself(tmp_path: Path, name: str) -> None:
    proto = model(
        node("Gemm", "x w", name, "h"), node("Relu", name, "r", "r"), node("Gemm", f"r {name}2", "y", "y"),
        w=draw(4, 3), **{f"{name}2": draw(3, 3)},
    )  # fmt: skip
    program = compiled(tmp_path, proto, momentum=0.5, batch=2)
    assert program.training.trainable == ("w", f"{name}2")
    x = draw(1, 4, seed=1)
    np.testing.assert_allclose(infer(program, x), reference(proto, x), atol=0.01)


def test_initializer_named_like_a_value_that_odl_makes(tmp_path: Path) -> None:
    """BatchNormalization on its own makes values n.centred and n.mean; initializers of these names come later."""
    proto = model(
        node("BatchNormalization", "x gamma beta mean var", "n", "bn"), node("Mul", "n n.centred", "m", "mul"),
        node("Add", "m n.mean", "y", "add"), gamma=draw(4), beta=draw(4), mean=draw(4), var=1 + draw(4) ** 2,
        **{"n.centred": draw(4, seed=1), "n.mean": draw(4, seed=2)},
    )  # fmt: skip
    program = compiled(tmp_path, proto, loss="mse")
    x = draw(1, 4, seed=1)
    np.testing.assert_allclose(infer(program, x), reference(proto, x), atol=0.01)


def test_input_named_like_a_memory(tmp_path: Path) -> None:
    proto = model(node("Gemm", "arena w", "y"), inputs=[value("arena", (1, 4))], w=draw(4, 3))
    error = refusal(lambda: compiled(tmp_path, proto))
    assert (error.code, error.exit_code) == ("reserved-name", 3)


# --- gradients where paths meet


def gradients(program: Compiled, x: Array, target: Array) -> dict[str, Array]:
    """The gradient of each trained weight in one step, by a Graph evaluated without memory."""
    step, training = program.training.graphs[STEP], program.training
    stored = half(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)
    values = interpret(step, {training.sample: stored, training.target: half(target)})
    return {n.inputs[0]: values[n.inputs[n.op.gradient_at]] for n in step.nodes if isinstance(n.op, SgdUpdate)}


def slopes(proto: onnx.ModelProto, x: Array, target: Array, name: str) -> Array:
    """Central differences of the mean squared error in binary64, by ONNX's reference evaluator."""
    wide = widened(proto)
    (tensor,) = (t for t in wide.graph.initializer if t.name == name)
    start = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float64)
    step = 1e-6
    slope = np.zeros_like(start)
    for at in np.ndindex(start.shape):
        losses = []
        for sign in (1, -1):
            moved = start.copy()
            moved[at] += sign * step
            tensor.CopyFrom(numpy_helper.from_array(moved, name))
            y = ReferenceEvaluator(wide).run(None, {"x": half(x).astype(np.float64)})[0]
            losses.append(((y - target) ** 2).mean())
        slope[at] = (losses[0] - losses[1]) / (2 * step)
    return slope


SHARED = {
    "dense": model(
        node("Gemm", "x w b", "h", transB=1), node("Tanh", "h", "r"), node("Gemm", "r w b", "y", transB=1),
        w=draw(4, 4), b=draw(4),
    ),
    "three-times": model(
        node("Gemm", "x w", "h"), node("Gemm", "h w", "g"), node("Gemm", "g w", "y"), w=draw(4, 4)
    ),
    "convolution": model(
        node("Conv", "x w b", "h", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), node("Relu", "h", "r"),
        node("Conv", "r w b", "y", kernel_shape=[3, 3]), x=(1, 2, 4, 4), w=draw(2, 2, 3, 3), b=draw(2),
    ),
    "bias-of-dense-and-addend": model(
        node("Gemm", "x v w", "h", transB=1), node("Tanh", "h", "r"), node("Add", "r w", "y"), v=draw(4, 4), w=draw(4)
    ),
    "addend-of-one-row-twice": model(
        node("Add", "x w", "h"), node("Tanh", "h", "r"), node("Add", "r w", "s"), node("Mul", "s w", "y"), w=draw(1, 4)
    ),
    "factor-and-addend": model(  # one reader gives a gradient in binary32, the other in binary16
        node("Reshape", "x s", "r"), node("Gemm", "r w", "h", transB=1), node("Tanh", "h", "t"),
        node("Add", "t w", "y"), x=(1, 16), s=np.array([4, 4]), w=draw(4, 4),
    ),
    "by-identity": model(
        node("Identity", "w", "same"), node("Gemm", "x w", "h"), node("Tanh", "h", "r"), node("Gemm", "r same", "y"),
        w=draw(4, 4),
    ),
    "fan-out": model(
        node("Gemm", "x w", "h"), node("Relu", "h", "a"), node("Tanh", "h", "b"), node("Sigmoid", "h", "c"),
        node("Add", "a b", "d"), node("Mul", "d c", "e"), node("Sub", "e h", "y"), w=draw(4, 4),
    ),
    "one-value-twice": model(
        node("Gemm", "x w", "h"), node("Mul", "h h", "m"), node("Add", "m m", "a"), node("Sub", "a h", "y"),
        w=draw(4, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", SHARED)
def test_gradients_add_where_paths_meet(tmp_path: Path, which: str) -> None:
    proto = SHARED[which]
    program = compiled(tmp_path, proto, loss="mse")
    x = draw(*input_shape(proto), seed=3, scale=1)
    target = draw(*reference(proto, x).shape, seed=4)
    found = gradients(program, x, target.transpose(0, 2, 3, 1) if target.ndim == 4 else target)
    assert "w" in found
    for name, gradient in found.items():
        slope = slopes(proto, x, target, name)
        origin = program.model.graph.persistent[name].origin
        assert origin is not None
        np.testing.assert_allclose(origin.restore(gradient), slope, atol=0.02 * np.abs(slope).max())


def test_shared_weight_that_is_needed_in_two_layouts(tmp_path: Path) -> None:
    proto = model(node("Gemm", "x w", "h", transB=1), node("Gemm", "h w", "y"), w=draw(4, 4))
    assert refused(tmp_path, proto) == "shared-weight-layout"


# --- what does not take part


def test_dead_branches_are_dropped(tmp_path: Path) -> None:
    """With their weights, and whatever their operators are."""
    proto = mlp()
    proto.graph.node.extend([node("Gemm", "h dead", "d1"), node("Einsum", "d1", "d2", equation="ij")])
    proto.graph.initializer.append(numpy_helper.from_array(draw(5, 2), "dead"))
    assert str(load(tmp_path, proto).graph) == str(load(tmp_path, mlp()).graph)


@pytest.mark.parametrize("op_type", ["Relu", "Softmax"])
def test_no_path_from_the_loss_to_a_weight(tmp_path: Path, op_type: str) -> None:
    error = refusal(lambda: compiled(tmp_path, model(node(op_type, "x", "y"))))
    assert (error.code, error.exit_code) == ("nothing-to-train", 3)


def test_all_weights_frozen(tmp_path: Path) -> None:
    error = refusal(lambda: compiled(tmp_path, mlp(), trainable=("none.*",)))
    assert (error.code, error.exit_code) == ("no-such-weight", 2)
    assert "fc1" in error.problems[0].hint


def test_some_weights_frozen(tmp_path: Path) -> None:
    program = compiled(tmp_path, mlp(), trainable=("fc2",))
    assert program.training.trainable == ("w2", "b2")
    residents = program.program.residents
    flash = {r.tensor.name for r in residents if r.buffer.space == "flash" and r.tensor.role is Role.WEIGHT}
    assert flash == {"w1", "b1"}


@pytest.mark.parametrize(
    "proto", [model(node("Gemm", "x w", "y", alpha=0.0), w=draw(4, 3))], ids=["alpha-0"]
)  # fmt: skip
def test_weight_that_could_not_go_back_is_not_trained(tmp_path: Path, proto: onnx.ModelProto) -> None:
    assert refusal(lambda: compiled(tmp_path, proto)).code == "nothing-to-train"


# --- control flow, functions, domains


def branch(name: str) -> onnx.GraphProto:
    return helper.make_graph([node("Relu", "x", f"{name}_y")], name, [], [value(f"{name}_y", (1, 4))])


def test_control_flow(tmp_path: Path) -> None:
    body = helper.make_graph(
        [node("Identity", "go", "go_on"), node("Relu", "state", "next")], "body",
        [value("i", (), TensorProto.INT64), value("go", (), TensorProto.BOOL), value("state", (1, 4))],
        [value("go_on", (), TensorProto.BOOL), value("next", (1, 4))],
    )  # fmt: skip
    scan = helper.make_graph([node("Relu", "row", "out")], "scan", [value("row", (4,))], [value("out", (4,))])
    proto = model(
        node("ReduceMax", "x", "most", "most", keepdims=0), node("Cast", "most", "maybe", "cast", to=9),
        node("If", "maybe", "a", "if", then_branch=branch("then"), else_branch=branch("else")),
        node("Loop", "count yes a", "b", "loop", body=body),
        node("Scan", "b", "c", "scan", body=scan, num_scan_inputs=1), node("Gemm", "c w", "y"),
        w=draw(4, 3), yes=np.array(True), count=np.array(3),
    )  # fmt: skip
    error = refusal(lambda: load(tmp_path, proto))
    assert codes(error) == ["unsupported-operator"] * 5
    assert [problem.where for problem in error.problems[2:]] == ["If 'if'", "Loop 'loop'", "Scan 'scan'"]
    assert "(1, 4)" in error.problems[3].why
    assert "unroll" in error.problems[3].hint


def function(name: str, *nodes: onnx.NodeProto, inputs: str = "a", attributes: tuple[str, ...] = ()) -> object:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    return helper.make_function("custom", name, inputs.split(), ["b"], nodes, opsets, attributes)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    scaled = node("LeakyRelu", "a", "b")
    scaled.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    leak = node("Leak", "c", "b", domain="custom", slope=0.25)
    functions = [
        function("Leak", scaled, attributes=("slope",)),
        function("Layer", node("Gemm", "a k", "c", "fc"), leak, inputs="a k"),
    ]
    proto = model(
        node("Layer", "x w1", "h", "one", domain="custom"), node("Layer", "h w2", "y", "two", domain="custom"),
        functions=functions, w1=draw(4, 5), w2=draw(5, 3),
    )  # fmt: skip
    program = compiled(tmp_path, proto)
    assert program.training.trainable == ("w1", "w2")
    x = draw(1, 4, seed=1)
    inlined = model(
        node("Gemm", "x w1", "g"), node("LeakyRelu", "g", "h", alpha=0.25), node("Gemm", "h w2", "i"),
        node("LeakyRelu", "i", "y", alpha=0.25), w1=draw(4, 5), w2=draw(5, 3),
    )  # fmt: skip
    np.testing.assert_allclose(infer(program, x), reference(inlined, x), atol=0.01)


def test_functions_that_call_each_other(tmp_path: Path) -> None:
    functions = [
        function("F", node("G", "a", "b", domain="custom")),
        function("G", node("F", "a", "b", domain="custom")),
    ]
    assert refused(tmp_path, model(node("F", "x", "y", domain="custom"), functions=functions)) == "function-recursion"


def test_functions_that_multiply(tmp_path: Path) -> None:
    """Thirty functions, each of which calls the one before twice: a billion nodes."""
    functions = [function("F0", node("Relu", "a", "b"))]
    for at in range(1, 31):
        calls = node(f"F{at - 1}", "a", "c", domain="custom"), node(f"F{at - 1}", "c", "b", domain="custom")
        functions.append(function(f"F{at}", *calls))
    assert refused(tmp_path, model(node("F30", "x", "y", domain="custom"), functions=functions)) == "too-many-nodes"


def test_custom_domain(tmp_path: Path) -> None:
    proto = model(node("Gemm", "x w", "h"), node("Relu", "h", "y", "own", domain="custom"), w=draw(4, 3))
    error = refusal(lambda: load(tmp_path, proto))
    assert (error.code, error.problems[0].where) == ("unsupported-operator", "custom.Relu 'own'")


def test_unknown_operator(tmp_path: Path) -> None:
    assert (
        refused(tmp_path, model(node("Rely", "x", "h"), node("Gemm", "h w", "y"), w=draw(4, 3)))
        == "unsupported-operator"
    )


# --- interface


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    proto = model(
        node("Add", "x z", "h"), node("Gemm", "h w", "y"), inputs=[value("x", (1, 4)), value("z", (1, 4))],
        outputs="y h", w=draw(4, 3),
    )  # fmt: skip
    error = refusal(lambda: load(tmp_path, proto))
    assert codes(error) == ["one-input", "one-output"]
    assert "x, z" in str(error)


def test_no_inputs(tmp_path: Path) -> None:
    assert refused(tmp_path, model(node("Relu", "w", "y"), inputs=[], w=draw(1, 4))) == "one-input"


def test_initializer_that_is_listed_as_an_input(tmp_path: Path) -> None:
    """As models of IR version 3 have all of theirs."""
    proto = mlp()
    proto.graph.input.append(value("w1", (5, 4)))
    assert str(load(tmp_path, proto).graph) == str(load(tmp_path, mlp()).graph)


def test_constants_as_nodes(tmp_path: Path) -> None:
    shape = helper.make_tensor("t", TensorProto.INT64, (2,), [1, -1])
    proto = model(
        node("Constant", "", "shape", value=shape), node("Constant", "", "half", value_float=0.5),
        node("Constant", "", "row", value_floats=[1.0, 2.0, 3.0, 4.0]), node("Reshape", "x shape", "r"),
        node("Mul", "r half", "m"), node("Add", "m row", "a"), node("Gemm", "a w", "y"), x=(1, 4, 1), w=draw(4, 3),
    )  # fmt: skip
    program = compiled(tmp_path, proto)
    assert program.training.trainable == ("w",)
    x = draw(1, 4, 1, seed=1)
    np.testing.assert_allclose(infer(program, x), reference(proto, x), atol=0.01)


def test_constant_of_strings(tmp_path: Path) -> None:
    proto = model(node("Constant", "", "s", value_string="no"), node("Add", "x s", "y"))
    assert refused(tmp_path, proto) == "type-mismatch"


# --- size


def test_chain_of_four_thousand_nodes(tmp_path: Path) -> None:
    """Four times as deep as Python lets a function call itself."""
    relus = [node("Relu", f"v{at}", f"v{at + 1}", f"relu{at}") for at in range(4000)]
    first = node("Gemm", "x w", "v0", "fc")
    program = compiled(tmp_path, model(first, *reversed(relus), outputs="v4000", w=draw(4, 3)))
    assert len(program.program.entries[STEP]) > 8000
    x = draw(1, 4, seed=1)
    y = Executor(program.program).run(INFER, {"x": half(x)})[0]
    np.testing.assert_allclose(y, np.maximum(half(x).astype(float) @ draw(4, 3), 0), atol=0.01)


def test_value_with_a_thousand_readers(tmp_path: Path) -> None:
    relus = [node("Relu", "h", f"r{at}") for at in range(1000)]
    proto = model(
        node("Gemm", "x w", "h"), *relus, node("Concat", " ".join(n.output[0] for n in relus), "c", axis=1),
        node("Gemm", "c v", "y"), w=draw(4, 1), v=draw(1000, 2, scale=0.03),
    )  # fmt: skip
    program = compiled(tmp_path, proto)
    longest = max(map(len, program.training.graphs[STEP].types))
    assert longest < 100, "names grow with every sum"


TOO_LARGE = {
    "input": model(node("Relu", "x", "h"), node("GlobalAveragePool", "h", "y"), x=(1, 1, 2**16, 2**16)),
    "product": model(node("Transpose", "x", "t"), node("MatMul", "t x", "y"), x=(1, 2**16)),
    "image": model(node("Pad", "x p", "y"), x=(1, 1, 4, 4), p=np.array([0, 0, 2**15, 2**15] * 2)),
    "image-2^62": model(node("Pad", "x p", "y"), x=(1, 1, 4, 4), p=np.array([0, 0, 2**31, 2**31] * 2)),
    "padding": model(
        node("Conv", "x w", "y", kernel_shape=[1, 1], strides=[2**20] * 2, pads=[2**20] * 4), x=(1, 1, 4, 4),
        w=draw(1, 1, 1, 1),
    ),
    "window": model(
        node("AveragePool", "x", "y", kernel_shape=[2**20] * 2, pads=[2**19] * 4), x=(1, 1, 4, 4)
    ),
    "stride": model(node("MaxPool", "x", "y", kernel_shape=[1, 1], strides=[2**40, 1]), x=(1, 1, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("which", TOO_LARGE)
def test_index_products_beyond_32_bits(tmp_path: Path, which: str) -> None:
    assert refused(tmp_path, TOO_LARGE[which]) == "tensor-too-large"


def test_what_does_not_fit_is_refused_before_its_bytes_are_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replay allocates four bytes for each byte of a plan, and a file can declare a plan of any size."""

    def replay(*_: object) -> list[str]:
        raise MemoryError

    monkeypatch.setattr(memory_check, "check", replay)
    proto = model(
        node("Relu", "x", "h"), node("GlobalMaxPool", "h", "m"), node("Flatten", "m", "f"), node("Gemm", "f w", "y"),
        x=(1, 1, 2**14, 2**14), w=draw(1, 3),
    )  # fmt: skip
    error = refusal(lambda: compiled(tmp_path, proto, "qemu-zhinx"))
    assert (error.code, error.exit_code) == ("does-not-fit", ExitCode.DOES_NOT_FIT)
