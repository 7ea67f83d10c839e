"""Files that are no models, or not quite: each is refused by name, and none brings odl down."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import cnn, codes, compiled, draw, load, mlp, model, node, refusal, save, value
from onnx import TensorProto, helper, numpy_helper

from odl.errors import ExitCode, ModelError
from odl.frontend import load_model
from odl.recipe import Recipe
from odl.training import build_training

GEMM = node("Gemm", "x w", "y", "fc", transB=1)


def refused(path: Path) -> str:
    """The code with which the file is refused; it must be the model's fault."""
    error = refusal(lambda: load_model(path))
    assert error.exit_code == ExitCode.MODEL_REFUSED
    assert all(problem.where and problem.why for problem in error.problems)
    return error.code


# --- not a model at all


def test_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.onnx") == "file-missing"


def test_directory(tmp_path: Path) -> None:
    assert refused(tmp_path) == "not-a-file"


def test_name_that_no_file_can_have(tmp_path: Path) -> None:
    assert refused(tmp_path / ("n" * 1000)) == "file-unreadable"


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    assert refused(path) == "empty-graph"


@pytest.mark.parametrize(
    "content",
    [b"\x00", b"\x08", b"this is text\n", b"<!DOCTYPE html>\n<html></html>", random.Random(0).randbytes(4096)],
    ids=["zero-byte", "one-byte", "text", "html", "random"],
)
def test_bytes_that_are_no_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert refused(path) == "file-unreadable"


def test_text_format_is_not_read_by_its_extension(tmp_path: Path) -> None:
    path = tmp_path / "model.onnxtxt"
    path.write_text("ir_version: 8")
    assert refused(path) == "file-unreadable"


def test_extension_does_not_matter(tmp_path: Path) -> None:
    assert load_model(save(tmp_path, mlp(), "model.json")).graph.nodes


# --- damaged


def survives(path: Path) -> bool:
    """Whether a damaged file is a model that trains, or else refused; nothing else may happen."""
    try:
        build_training(load_model(path).graph, Recipe())
    except ModelError:
        return False
    return True


@pytest.mark.parametrize("make", [mlp, cnn])
def test_truncated(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    proto = make()
    del proto.opset_import[1:]  # the last field, without which a file could do
    whole = proto.SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert not survives(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [mlp, cnn])
def test_flipped_bytes(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    """Every byte that is no weight's, under a few masks each."""
    proto = make()
    whole = proto.SerializeToString()
    data = [whole.index(tensor.raw_data) for tensor in proto.graph.initializer]
    sizes = [len(tensor.raw_data) for tensor in proto.graph.initializer]
    weights = {at for begin, size in zip(data, sizes, strict=True) for at in range(begin, begin + size)}
    rng = random.Random(1)
    path = tmp_path / "model.onnx"
    accepted = 0
    for at in [at for at in range(len(whole)) if at not in weights]:
        damaged = bytearray(whole)
        damaged[at] ^= rng.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
        path.write_bytes(damaged)
        accepted += survives(path)
    assert 0 < accepted < len(whole)


# --- data in other files


def external(folder: Path, **changes: str) -> Path:
    """An mlp whose first weight lies in another file, described by `changes`."""
    proto = mlp()
    tensor = proto.graph.initializer[0]
    (folder / "weights.bin").write_bytes(bytes(16) + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": "weights.bin", "offset": "16", "length": "80", **changes}
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return save(folder, proto)


def test_external_data(tmp_path: Path) -> None:
    found = load_model(external(tmp_path)).graph.persistent["w1"].initial
    assert np.array_equal(found, draw(5, 4).astype(np.float16))


def test_external_data_missing(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    assert refused(path) == "external-data-missing"


def test_external_data_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(95))
    assert refused(path) == "external-data-short"


@pytest.mark.parametrize("location", ["../weights.bin", "sub/../../weights.bin", "/etc/passwd", ".."])
def test_external_data_escapes_its_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = external(folder, location=location)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    assert refused(path) == "external-data-outside"


def test_external_data_escapes_by_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = external(folder)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    assert refused(path) == "external-data-outside"


@pytest.mark.parametrize(
    "changes",
    [{"offset": "-16"}, {"offset": "many"}, {"length": "4"}, {"length": "99999999999"}, {"location": "a\0b"}],
    ids=["negative", "no-number", "too-little", "too-much", "nul"],
)  # fmt: skip
def test_external_data_malformed(tmp_path: Path, changes: dict[str, str]) -> None:
    assert refused(external(tmp_path, **changes)) == "external-data-malformed"


def test_external_data_huge(tmp_path: Path) -> None:
    path = external(tmp_path)
    proto = onnx.ModelProto.FromString(path.read_bytes())
    tensor = proto.graph.initializer[0]
    del tensor.external_data[1:]
    tensor.dims[0] = 2**40
    assert refused(save(tmp_path, proto)) == "external-data-short"


# --- what onnx.checker lets through


@pytest.mark.parametrize(
    "shape",
    [("batch", 4), (None, 4), (0, 4), (1, 0), (1, -1), None],
    ids=["named", "unknown", "0", "dim-0", "-1", "rank"],
)
def test_dynamic_or_empty_input(tmp_path: Path, shape: tuple[int | str | None, ...] | None) -> None:
    assert refused(save(tmp_path, model(GEMM, x=shape, w=draw(3, 4)))) == "dynamic-shape"


@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (1, 1, 1, 1, 4)])
def test_input_that_is_not_one_sample(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert refused(save(tmp_path, model(GEMM, x=shape, w=draw(3, 4)))) == "input-shape"


def test_input_of_another_type(tmp_path: Path) -> None:
    proto = model(GEMM, inputs=[value("x", (1, 4), TensorProto.FLOAT16)], w=draw(3, 4))
    assert refused(save(tmp_path, proto)) == "input-type"


@pytest.mark.parametrize("opset", [0, 1, 12, 99])
def test_opset(tmp_path: Path, opset: int) -> None:
    assert refused(save(tmp_path, model(GEMM, opset=opset, w=draw(3, 4)))) == "opset"


def test_opset_missing(tmp_path: Path) -> None:
    proto = mlp()
    del proto.opset_import[:]
    assert refused(save(tmp_path, proto)) == "opset"


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_opset_supported(tmp_path: Path, opset: int) -> None:
    assert load(tmp_path, model(GEMM, opset=opset, w=draw(3, 4))).graph.nodes


def test_no_ir_version(tmp_path: Path) -> None:
    proto = mlp()
    proto.ClearField("ir_version")
    assert refused(save(tmp_path, proto)) == "onnx-checker"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weight_that_is_no_number(tmp_path: Path, bad: float) -> None:
    weight = draw(3, 4)
    weight[1, 2] = bad
    assert refused(save(tmp_path, model(GEMM, w=weight))) == "weight-not-finite"


def test_every_bad_weight_is_listed(tmp_path: Path) -> None:
    proto = mlp()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), np.nan), tensor.name))
    error = refusal(lambda: load(tmp_path, proto))
    assert codes(error) == ["weight-not-finite"] * 4


@pytest.mark.parametrize(("top", "fits"), [(65504.0, True), (65519.0, True), (65520.0, False), (1e30, False)])
def test_weight_beyond_binary16(tmp_path: Path, top: float, fits: bool) -> None:
    weight = draw(3, 4)
    weight[2, 3] = -top
    path = save(tmp_path, model(GEMM, w=weight))
    if fits:
        assert load_model(path).graph.persistent["w"].initial[2, 3] == -65504
    else:
        assert refused(path) == "weight-overflow"


def test_weight_of_whole_numbers(tmp_path: Path) -> None:
    assert refused(save(tmp_path, model(GEMM, w=np.ones((3, 4), np.int64)))) == "type-mismatch"


def test_weight_without_elements(tmp_path: Path) -> None:
    assert refused(save(tmp_path, model(GEMM, w=draw(0, 4)))) == "empty-weight"


def test_weight_with_less_data_than_its_shape(tmp_path: Path) -> None:
    proto = model(GEMM, w=draw(3, 4))
    proto.graph.initializer[0].dims[0] = 2**40
    assert refused(save(tmp_path, proto)) == "onnx-checker"


def test_weight_of_unknown_type(tmp_path: Path) -> None:
    proto = model(GEMM, w=draw(3, 4))
    proto.graph.initializer[0].data_type = 77
    assert refused(save(tmp_path, proto)) == "type-mismatch"


def test_sparse_weight(tmp_path: Path) -> None:
    proto = model(GEMM)
    values = numpy_helper.from_array(draw(2), "w")
    indices = numpy_helper.from_array(np.array([1, 5]), "at")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, (3, 4)))
    assert refused(save(tmp_path, proto)) == "sparse-initializer"


@pytest.mark.parametrize(("channels", "group"), [(3, 2), (4, 3), (4, 0), (4, -1)])
def test_group_that_does_not_divide_the_channels(tmp_path: Path, channels: int, group: int) -> None:
    conv = node("Conv", "x w", "y", kernel_shape=[3, 3], group=group)
    proto = model(conv, x=(1, channels, 5, 5), w=draw(6, 2, 3, 3))
    assert refused(save(tmp_path, proto)) == "unsupported-attribute"


def test_graph_without_nodes(tmp_path: Path) -> None:
    assert refused(save(tmp_path, model(outputs="x"))) == "empty-graph"


def test_output_that_is_the_input(tmp_path: Path) -> None:
    assert refused(save(tmp_path, model(GEMM, outputs="x", w=draw(3, 4)))) == "empty-graph"
    assert refused(save(tmp_path, model(node("Identity", "x", "y")))) == "empty-graph"


def test_output_that_is_a_weight(tmp_path: Path) -> None:
    assert refused(save(tmp_path, model(GEMM, outputs="w", w=draw(3, 4)))) == "empty-graph"


@pytest.mark.parametrize("op_type", ["Identity", "Relu"])
def test_output_that_the_input_does_not_reach(tmp_path: Path, op_type: str) -> None:
    assert refused(save(tmp_path, model(node(op_type, "w", "y"), w=draw(3, 4)))) == "constant-output"


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Shape, interface and operators in one list, in a text that names each node."""
    proto = model(
        node("Gemm", "x w", "h", "fc"), node("Erf", "h", "e", "first"),
        node("Einsum", "e", "y", "second", equation="ij"), x=("batch", 4), outputs="y h", w=draw(4, 3),
    )  # fmt: skip
    error = refusal(lambda: load(tmp_path, proto))
    assert sorted(codes(error)) == ["dynamic-shape", "one-output", "unsupported-operator", "unsupported-operator"]
    assert "'first'" in str(error)
    assert "'second'" in str(error)
    assert isinstance(error, ModelError)


def told(folder: Path, proto: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """(code, node, why) of all that is wrong."""
    return [(p.code, p.where, p.why) for p in refusal(lambda: load(folder, proto)).problems]


def test_ten_unsupported_nodes_are_ten_short_lines(tmp_path: Path) -> None:
    """What to do is told once; `odl ops` has the list of what is supported."""
    erfs = [node("Erf", f"e{at}", f"e{at + 1}", f"erf{at}") for at in range(8)]
    others = node("Hardmax", "e8", "h", "hard"), node("Elu", "h", "y", "elu")
    proto = model(node("Gemm", "x w", "e0"), *erfs, *others, w=draw(4, 3))
    assert str(refusal(lambda: load(tmp_path, proto))).splitlines() == [
        "unsupported-operator: Erf 'erf0': is not supported (it reads (1, 3))",
        "  hint: try Relu, LeakyRelu or HardSwish in place of Gelu; `odl ops` lists what is supported",
        *(f"unsupported-operator: Erf 'erf{at}': is not supported (it reads (1, 3))" for at in range(1, 8)),
        "unsupported-operator: Hardmax 'hard': is not supported (it reads (1, 3))",
        "unsupported-operator: Elu 'elu': is not supported (it reads (1, 3))",
        "  hint: try Relu, LeakyRelu or HardSwish",
    ]


DILATED = "dilations other than 1 are not supported"


def test_attributes_and_operators_of_all_nodes_at_once(tmp_path: Path) -> None:
    """A refused node's result has the shape that ONNX knows, so that the nodes behind it are looked at too."""
    proto = model(
        node("Conv", "x w", "a", "first", dilations=[2, 2]), node("Erf", "a", "b", "erf"),
        node("Pad", "b p", "c", "pad", mode="reflect"), node("Conv", "c w", "d", "second", dilations=[3, 1]),
        node("MaxPool", "d", "e i", "pool", kernel_shape=[2, 2], dilations=[2, 2]), node("Flatten", "e", "f", "flat"),
        node("Softmax", "f", "y", "softmax", axis=0),
        x=("batch", 3, 16, 16), w=draw(3, 3, 3, 3), p=np.array([0, 0, -1, 0, 0, 0, 1, 0]),
    )  # fmt: skip
    assert told(tmp_path, proto) == [
        ("dynamic-shape", "input 'x'", "shape (batch, 3, 16, 16) is not static and positive"),
        ("unsupported-operator", "Erf 'erf'", "is not supported (it reads (1, 3, 12, 12))"),
        ("unsupported-attribute", "Conv 'first'", DILATED),
        ("unsupported-attribute", "Pad 'pad'", "mode 'reflect' is not supported"),
        ("unsupported-attribute", "Pad 'pad'", "negative pads [0, 0, -1, 0, 0, 0, 1, 0] are not supported"),
        ("unsupported-attribute", "Conv 'second'", DILATED),
        ("unsupported-attribute", "MaxPool 'pool'", "the output Indices is not supported"),
        ("unsupported-attribute", "MaxPool 'pool'", DILATED),
        ("unsupported-attribute", "Softmax 'softmax'", "axis 0 of (1, 96) is not the last of rank 2 or 3"),
    ]


def test_weights_and_attributes_of_one_node_at_once(tmp_path: Path) -> None:
    broken = draw(3, 3, 3, 3)
    broken[0, 0, 0, 0] = np.nan
    convs = node("Conv", "x w", "a", "conv", dilations=[2, 2]), node("Conv", "a v", "y", "sound")
    proto = model(*convs, x=(1, 3, 8, 8), w=broken, v=broken)
    assert told(tmp_path, proto) == [
        ("weight-not-finite", "initializer 'w'", "holds NaN or infinity"),
        ("weight-not-finite", "initializer 'v'", "holds NaN or infinity"),
        ("unsupported-attribute", "Conv 'conv'", DILATED),
    ]


def test_no_word_of_nodes_behind_an_unknown_shape(tmp_path: Path) -> None:
    """The second Softmax would be refused for a batch of one, and the third Conv for an image too small."""
    proto = model(
        node("Own", "x", "a", "own", domain="custom"), node("Softmax", "a", "b", "softmax", axis=0),
        node("Conv", "b w", "c", "conv"), node("Relu", "x", "d"), node("Softmax", "d", "e", "sideways", axis=1),
        node("Add", "c e", "y", "add"), x=(1, 3, 4, 4), w=draw(3, 3, 9, 9),
    )  # fmt: skip
    assert [where for _, where, _ in told(tmp_path, proto)] == ["custom.Own 'own'", "Softmax 'sideways'"]


@pytest.mark.parametrize("domain", ["", "custom", "nobody"])
def test_an_operator_that_onnx_does_not_know_does_not_hide_the_others(tmp_path: Path, domain: str) -> None:
    """ONNX's own complaints of it are none of a reader's concern."""
    proto = model(
        node("Rely", "x", "a", "rely", domain=domain), node("Conv", "x w", "b", "conv", dilations=[2, 2]),
        node("GlobalAveragePool", "b", "c"), node("Add", "a c", "y"), x=(1, 3, 8, 8), w=draw(3, 3, 3, 3),
    )  # fmt: skip
    name = f"{domain}.Rely" if domain else "Rely"
    assert [where for _, where, _ in told(tmp_path, proto)] == [f"{name} 'rely'", "Conv 'conv'"]


def test_what_a_refused_node_makes_of_constants_may_be_a_constant(tmp_path: Path) -> None:
    """So that the kernel has to be one is not said; the bounds of the Clip depend on the input, and are refused."""
    proto = model(
        node("Hardmax", "w", "k", "hardmax"), node("Conv", "x k", "a", "conv"), node("Erf", "a", "b", "erf"),
        node("ReduceMax", "b", "m", "most", keepdims=0), node("Clip", "b . m", "y", "clip"),
        x=(1, 3, 8, 8), w=draw(3, 3, 3, 3),
    )  # fmt: skip
    found = told(tmp_path, proto)
    assert [where for _, where, _ in found[:3]] == ["Hardmax 'hardmax'", "Erf 'erf'", "ReduceMax 'most'"]
    assert found[3:] == []


@pytest.mark.parametrize("between", ["Relu", "Div"])
def test_a_network_of_signals_at_once(tmp_path: Path, between: str) -> None:
    """Behind an operator that is not supported no value is known as an image in disguise: that the shift would be
    refused for it is not told."""
    proto = model(
        node("Conv", "x v", "a", "one", dilations=[2]), node("Relu", "a", "b"),
        node(between, "b b" if between == "Div" else "b", "c", "between"), node("Add", "c s", "d", "shift"),
        node("Conv", "d w", "y", "two", dilations=[2]), x=(1, 3, 16), v=draw(3, 3, 3), w=draw(3, 3, 3), s=draw(3, 1),
    )  # fmt: skip
    unsupported = ["Div 'between'"] if between == "Div" else []
    assert [where for _, where, _ in told(tmp_path, proto)] == [*unsupported, "Conv 'one'", "Conv 'two'"]


def test_shapes_that_do_not_fit_and_operators_at_once(tmp_path: Path) -> None:
    proto = model(
        node("Erf", "x", "e", "erf"), node("Gemm", "e w", "a", "narrow"), node("Gemm", "e v", "b", "wide"),
        node("Gemm", "a v", "c", "behind"), node("Softmax", "x", "s", "softmax", axis=0), node("Add", "b s", "z"),
        node("Add", "c z", "y"), w=draw(5, 3), v=draw(6, 4),
    )  # fmt: skip
    assert [where for _, where, _ in told(tmp_path, proto)] == [
        "Erf 'erf'", "Gemm 'narrow'", "Gemm 'wide'", "Softmax 'softmax'",
    ]  # fmt: skip


def test_the_checkers_complaints_node_by_node(tmp_path: Path) -> None:
    proto = model(node("Relu", "x", "a", "one", alpha=1.0), node("Relu", "a", "y", "two", slope=1.0))
    assert [(code, where) for code, where, _ in told(tmp_path, proto)] == [
        ("onnx-checker", "Relu 'one'"), ("onnx-checker", "Relu 'two'"),
    ]  # fmt: skip


def test_types_that_onnx_could_not_check_are_not_looked_at(tmp_path: Path) -> None:
    """A kernel's padding of words, say, behind an operator that nobody knows."""
    proto = model(
        node("Own", "x", "a", "own", domain="custom"), node("Pad", "a p", "b"), node("Conv", "b w", "y"),
        x=(1, 3, 8, 8), w=draw(3, 3, 3, 3), p=np.array(["1"] * 8),
    )  # fmt: skip
    assert told(tmp_path, proto)[0][1] == "custom.Own 'own'"


def test_compile_refuses_as_the_frontend_does(tmp_path: Path) -> None:
    error = refusal(lambda: compiled(tmp_path, model(GEMM, x=("n", 4), w=draw(3, 4))))
    assert (error.code, error.exit_code) == ("dynamic-shape", 3)
