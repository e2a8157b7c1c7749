"""Data outside the file: a tensor's, wherever it hides, is a plain file in the model's folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import backlight
from backlight.engine.runtime.session import Session
from backlight.errors import ModelError
from backlight.export.check import check
from backlight.export.graph import read
from backlight.export.saliency import explain_graph

from .. import models
from .harness import run_runtime

SECRET = b"a line of the secret"  # 20 bytes: five floats
HONEST = np.array([1, 2, 3, 4, 5], np.float32)
DECOY = np.array([9, 9, 9, 9, 9], np.float32)
X = models.images(1, 3, 4, 4)


def outside(location: str, name: str = "hidden", dims: tuple[int, ...] = (5,)) -> onnx.TensorProto:
    """A tensor of five floats whose data is elsewhere."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def classifier(
    nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto] | None = None, **more: object
) -> onnx.ModelProto:
    """Scores: the mean of the image, times the five numbers named `k`."""
    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
            helper.make_node("Flatten", ["m"], ["f"]),
            helper.make_node("Mul", ["f", "k"], ["scores"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.array([1, 2, 3]), "axes")],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions or [])
    for key, value in more.items():
        getattr(model.graph, key).append(value)
    return model


def constant(**value: object) -> onnx.NodeProto:
    node = helper.make_node("Constant", [], ["k"])
    for name, held in value.items():
        node.attribute.append(helper.make_attribute(name, held))
    return node


def sparse(values: onnx.TensorProto) -> onnx.SparseTensorProto:
    places = numpy_helper.from_array(np.arange(5), "places")
    return helper.make_sparse_tensor(values, places, [5])


def function(*nodes: onnx.NodeProto, **more: object) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 18)]
    return helper.make_function("local", "f", [], ["k"], list(nodes), imports, **more)  # type: ignore[arg-type]


def in_main(location: str) -> onnx.ModelProto:
    return classifier([], initializer=outside(location, "k"))


def in_constant(location: str) -> onnx.ModelProto:
    return classifier([constant(value=outside(location))])


def in_sparse_initializer(location: str) -> onnx.ModelProto:
    return classifier([], sparse_initializer=sparse(outside(location, "k")))


def in_sparse_constant(location: str) -> onnx.ModelProto:
    return classifier([constant(sparse_value=sparse(outside(location)))])


def in_places(location: str) -> onnx.ModelProto:
    places = numpy_helper.from_array(np.arange(5), "places")
    values = numpy_helper.from_array(HONEST, "k")
    tensor = helper.make_sparse_tensor(values, places, [5])
    tensor.indices.CopyFrom(outside(location, "places"))
    return classifier([], sparse_initializer=tensor)


def in_function(location: str) -> onnx.ModelProto:
    call = helper.make_node("f", [], ["k"], domain="local")
    return classifier([call], [function(constant(value=outside(location)))])


def in_function_sparse(location: str) -> onnx.ModelProto:
    call = helper.make_node("f", [], ["k"], domain="local")
    return classifier([call], [function(constant(sparse_value=sparse(outside(location))))])


def in_default(location: str) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["k"])
    node.attribute.add(name="value", ref_attr_name="v", type=onnx.AttributeProto.TENSOR)
    default = helper.make_attribute("v", outside(location))
    call = helper.make_node("f", [], ["k"], domain="local")
    return classifier([call], [function(node, attribute_protos=[default])])


def in_argument(location: str) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["k"])
    node.attribute.add(name="value", ref_attr_name="v", type=onnx.AttributeProto.TENSOR)
    call = helper.make_node("f", [], ["k"], domain="local", v=outside(location))
    return classifier([call], [function(node, attributes=["v"])])


def branch(location: str, how: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, [5])
    graph = helper.make_graph([], "branch", [], [out])
    if how == "initializer":
        graph.initializer.append(outside(location, "w"))
        graph.node.append(helper.make_node("Identity", ["w"], ["r"]))
    else:
        node = constant(value=outside(location))
        node.output[0] = "r"
        graph.node.append(node)
    return graph


def in_branch(location: str, how: str = "initializer", depth: int = 0) -> onnx.ModelProto:
    inner = branch(location, how)
    for _ in range(depth):
        cond = helper.make_node(
            "Constant", [], ["d"], value=numpy_helper.from_array(np.array(True))
        )
        node = helper.make_node("If", ["d"], ["r"], then_branch=inner, else_branch=inner)
        out = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, [5])
        inner = helper.make_graph([cond, node], "outer", [], [out])
    cond = numpy_helper.from_array(np.array(True), "cond")
    node = helper.make_node("If", ["cond"], ["k"], then_branch=inner, else_branch=inner)
    return classifier([node], initializer=cond)


def in_branch_constant(location: str) -> onnx.ModelProto:
    return in_branch(location, "constant")


def in_deep_branch(location: str) -> onnx.ModelProto:
    return in_branch(location, "constant", depth=2)


def in_fill(location: str) -> onnx.ModelProto:
    """One of the five: ConstantOfShape's value."""
    node = helper.make_node("ConstantOfShape", ["five"], ["k"], value=outside(location, dims=(1,)))
    return classifier([node], initializer=numpy_helper.from_array(np.array([5]), "five"))


def in_list(location: str) -> onnx.ModelProto:
    """A list of tensors, of an operator that nobody knows, off the way."""
    model = classifier([], initializer=numpy_helper.from_array(HONEST, "k"))
    node = helper.make_node("Odd", ["x"], ["odd"], domain="com.example", many=[outside(location)])
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


def in_sparse_list(location: str) -> onnx.ModelProto:
    model = in_list("")
    (attribute,) = model.graph.node[-1].attribute
    del attribute.tensors[:]
    attribute.type = onnx.AttributeProto.SPARSE_TENSORS
    attribute.sparse_tensors.append(sparse(outside(location)))
    return model


def in_training(location: str) -> onnx.ModelProto:
    model = classifier([], initializer=numpy_helper.from_array(HONEST, "k"))
    model.training_info.add().algorithm.initializer.append(outside(location))
    return model


def in_unused_function(location: str) -> onnx.ModelProto:
    model = classifier([], initializer=numpy_helper.from_array(HONEST, "k"))
    model.functions.append(function(constant(value=outside(location))))
    return model


HIDING: list[Callable[[str], onnx.ModelProto]] = [
    in_main, in_constant, in_sparse_initializer, in_sparse_constant, in_places, in_function,
    in_function_sparse, in_default, in_argument, in_branch, in_branch_constant, in_deep_branch,
    in_fill, in_list, in_sparse_list, in_training, in_unused_function,
]  # fmt: skip
READ = [h for h in HIDING if h not in (in_places, in_list, in_sparse_list)]


def by_traversal(folder: Path) -> str:
    return "../secret.bin"


def by_detour(folder: Path) -> str:
    (folder / "sub").mkdir()
    return "sub/.././../secret.bin"


def by_path(folder: Path) -> str:
    return str(folder.parent / "secret.bin")


def by_link(folder: Path) -> str:
    (folder / "w.bin").symlink_to("../secret.bin")
    return "w.bin"


def by_chain(folder: Path) -> str:
    (folder / "v.bin").symlink_to("../secret.bin")
    (folder / "w.bin").symlink_to("v.bin")
    return "w.bin"


def by_folder(folder: Path) -> str:
    (folder / "data").symlink_to("..")
    return "data/secret.bin"


def by_hard_link(folder: Path) -> str:
    os.link(folder.parent / "secret.bin", folder / "w.bin")
    return "w.bin"


def by_hidden(folder: Path) -> str:
    (folder / ".ssh").mkdir()
    (folder / ".ssh" / "id").write_bytes(SECRET)
    return ".ssh/id"


def by_link_to_hidden(folder: Path) -> str:
    (folder / "w.bin").symlink_to(by_hidden(folder))
    return "w.bin"


def by_fifo(folder: Path) -> str:
    os.mkfifo(folder / "w.bin")
    return "w.bin"


def by_device(folder: Path) -> str:
    (folder / "w.bin").symlink_to("/dev/zero")
    return "w.bin"


def by_nothing(folder: Path) -> str:
    return ""


def by_itself(folder: Path) -> str:
    return "."


WAYS = [by_traversal, by_detour, by_path, by_link, by_chain, by_folder, by_hard_link, by_hidden]
WAYS += [by_link_to_hidden, by_fifo, by_device, by_nothing, by_itself]


def refused(folder: Path, model: onnx.ModelProto) -> None:
    """Everything that reads a model refuses it in one line, and writes none of the secret."""
    file = folder / "m.onnx"
    file.write_bytes(model.SerializeToString())
    uses: list[Callable[[], object]] = [
        lambda: backlight.export(file),
        lambda: explain_graph(file).save(folder / "out.onnx", external=True),
        lambda: check(file),
        lambda: read(file),
        lambda: Session(file),
        lambda: Session(file.read_bytes()),
        lambda: backlight.Explainer(file),
        lambda: backlight.Occlusion(file, window=2),
        lambda: backlight.export(file.read_bytes()),
        lambda: backlight.export(model),
    ]
    for use in uses:
        with pytest.raises(ModelError, match="has its data in") as caught:
            use()
        assert "\n" not in str(caught.value)
    for made in folder.glob("out*"):
        assert SECRET not in made.read_bytes()


@pytest.mark.parametrize("hiding", HIDING)
def test_no_tensor_reads_a_file_outside(tmp_path: Path, hiding):
    (tmp_path / "secret.bin").write_bytes(SECRET)
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", hiding("../secret.bin"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hiding", [in_main, in_function])
def test_no_way_leads_outside(tmp_path: Path, hiding, way):
    (tmp_path / "secret.bin").write_bytes(SECRET)
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", hiding(way(tmp_path / "folder")))


@pytest.mark.parametrize("hiding", READ)
@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "deep/w.bin", "link.bin"])
def test_honest_data_is_read_from_the_models_folder(
    tmp_path: Path, monkeypatch, hiding, location: str
):
    """Not from the current one, where a file of that name lies too."""
    for name, values in (("model", HONEST), ("here", DECOY)):
        (tmp_path / name / "deep").mkdir(parents=True)
        for place in ("w.bin", "deep/w.bin"):
            (tmp_path / name / place).write_bytes(values.tobytes())
        (tmp_path / name / "link.bin").symlink_to("w.bin")
    file = tmp_path / "model" / "m.onnx"
    file.write_bytes(hiding(location).SerializeToString())
    monkeypatch.chdir(tmp_path / "here")
    want = X.mean() * (HONEST[:1].repeat(5) if hiding is in_fill else HONEST)
    exported = backlight.export(file)
    assert DECOY.tobytes() not in exported.SerializeToString()
    found = run_runtime(exported, {"x": X, "target": np.array([2])})
    np.testing.assert_allclose(found["scores"][0], want, rtol=1e-5)
    slope = float(HONEST[0 if hiding is in_fill else 2]) / 48
    np.testing.assert_allclose(found["saliency_vanilla"], np.full_like(X, slope), rtol=1e-5)
    monkeypatch.chdir(file.parent)
    np.testing.assert_allclose(
        backlight.Explainer("m.onnx", "vanilla")(X, target=2).saliency["vanilla"],
        np.full_like(X, slope), rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("offset", "-4", "no number"),
        ("offset", "1e1", "no number"),
        ("offset", "1_0", "no number"),
        ("offset", "\u0663", "no number"),
        ("offset", "9" * 30, "no number"),
        ("offset", "16", "truncated: expected 20 bytes from byte 16"),
        ("offset", "4611686018427387904", "no number|truncated"),
        ("length", "-20", "no number"),
        ("length", "16", "16 bytes of it, but its shape needs 20"),
        ("length", "4000", "4000 bytes of it, but its shape needs 20"),
        ("location", "other.bin", "in another place too"),
    ],
)
@pytest.mark.parametrize("hiding", [in_main, in_function])
def test_offsets_and_lengths(tmp_path: Path, hiding, key: str, value: str, says: str):
    (tmp_path / "w.bin").write_bytes(b"\0" * 32)
    model = hiding("w.bin")
    tensor = (
        model.graph.initializer[-1]
        if hiding is in_main
        else (model.functions[0].node[0].attribute[0].t)
    )
    tensor.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=says):
        read(tmp_path / "m.onnx")


@pytest.mark.parametrize("location", ["*/_ORT_MEM_ADDR_/*", "w\n.bin", "w\x1b[2J.bin", "w" * 9999])
def test_names_that_are_none(tmp_path: Path, location: str):
    (tmp_path / "m.onnx").write_bytes(in_main(location).SerializeToString())
    with pytest.raises(ModelError, match="no file's name") as caught:
        read(tmp_path / "m.onnx")
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_many_tensors_of_one_piece(tmp_path: Path):
    """Tied weights share their bytes; a thousand tensors that share a megabyte make a gigabyte."""
    (tmp_path / "w.bin").write_bytes(b"\0" * 2**20)
    model = in_main("w.bin")
    del model.graph.initializer[-1].dims[:]
    model.graph.initializer[-1].dims.append(2**18)
    for index in range(1000):
        copy = model.graph.initializer.add()
        copy.CopyFrom(model.graph.initializer[1])
        copy.name = f"copy{index}"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="too many tensors share"):
        read(tmp_path / "m.onnx")
    del model.graph.initializer[10:]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    read(tmp_path / "m.onnx")


def test_a_graph_that_was_read_is_held_to_the_rule_again(tmp_path: Path):
    """Between reading and using it a file became a link."""
    (tmp_path / "folder").mkdir()
    data = tmp_path / "folder" / "w.bin"
    data.write_bytes(b"\0" * 4096)
    model = in_main("w.bin")
    model.graph.initializer[-1].dims[:] = [1, 1024]
    (tmp_path / "folder" / "m.onnx").write_bytes(model.SerializeToString())
    loaded, _ = read(tmp_path / "folder" / "m.onnx")
    data.unlink()
    (tmp_path / "secret.bin").write_bytes(SECRET * 300)
    data.symlink_to("../secret.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        read(loaded)


@pytest.mark.parametrize("make", [os.mkfifo, lambda file: os.symlink("/dev/zero", file)])
def test_a_model_that_is_no_file(tmp_path: Path, make):
    make(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="a pipe or device"):
        backlight.export(tmp_path / "m.onnx")


def test_an_engine_is_no_model(tmp_path: Path):
    """A provider would load it as it is, and run what is in it."""
    model = in_list("w.bin")
    model.graph.node[-1].op_type = "EPContext"
    with pytest.raises(ModelError, match="EPContext.*refused"):
        read(model)
    with pytest.raises(ModelError, match="EPContext.*refused"):
        Session(model)


@pytest.mark.parametrize("hiding", [in_main, in_constant, in_function, in_default, in_branch])
@pytest.mark.parametrize("dims", [(6,), (4,), (2**40,), (2**31, 2**31, 2**31), (-5,), (0,)])
def test_tensors_whose_data_is_not_what_their_shape_says(hiding, dims: tuple[int, ...]):
    model = onnx.ModelProto()
    model.ParseFromString(hiding("?").SerializeToString())
    for tensor in backlight_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(HONEST, name))
            tensor.dims[:] = dims
    with pytest.raises(ModelError, match=r"lacks data|negative size"):
        read(model)


def backlight_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    from backlight.export.external import tensors

    return list(tensors(model))


@pytest.mark.parametrize("kind", [k for k in onnx.TensorProto.DataType.values() if k])
def test_every_type_of_data_is_what_it_says(kind: int):
    """As ONNX's own helper writes it, raw and not, odd numbers of elements too."""
    from backlight.export.external import check_tensors

    values = [b"a"] * 3 if kind == onnx.TensorProto.STRING else [1, 0, 1]
    tensor = helper.make_tensor("k", kind, [3], values)
    check_tensors(classifier([], initializer=tensor), None, "m")
    tensor.dims[0] = 8
    with pytest.raises(ModelError, match="lacks data"):
        check_tensors(classifier([], initializer=tensor), None, "m")
