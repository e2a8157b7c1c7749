"""Files as they are found, and files that are not what they should be."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backlight
from backlight.errors import InputError, ModelError, UnsupportedNode
from backlight.export.check import check
from backlight.export.graph import Loaded, load, opset_of, read
from backlight.export.saliency import explain_graph

from .. import models
from .harness import run_runtime

X = models.images(2, 3, 8, 8)
FEEDS = {"x": X, "target": np.array([1, 4])}


def same_maps(model: object, feeds: dict[str, np.ndarray] | None = None) -> None:
    """The maps are those of the plain tiny model."""
    got = run_runtime(backlight.export(model), feeds or FEEDS)  # type: ignore[arg-type]
    want = run_runtime(backlight.export(models.tiny()), FEEDS)
    for rule in ("vanilla", "deconv", "guided"):
        np.testing.assert_allclose(
            got[f"saliency_{rule}"], want[f"saliency_{rule}"], rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("opset", range(7, 29))
def test_opsets(opset):
    model = models.tiny(opset=opset)
    same_maps(model)
    emitted = {i.domain: i.version for i in backlight.export(model).opset_import}
    assert emitted[""] == max(18, opset)


@pytest.mark.parametrize("ir_version", [3, 4, 7, 10])
def test_ir_versions_and_initializers_as_inputs(ir_version):
    model = models.tiny(opset=9)
    model.ir_version = ir_version
    for tensor in model.graph.initializer:  # what IR 3 asks for
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    graph = backlight.export(model)
    assert [i.name for i in graph.graph.input] == ["x", "target"]
    same_maps(model)


def test_nodes_without_names():
    model = models.tiny()
    for node in model.graph.node:
        node.name = ""
    names = [n.name for n in backlight.export(model).graph.node]
    assert all(names) and len(set(names)) == len(names)


def test_nodes_with_one_name():
    model = models.tiny()
    for node in model.graph.node:
        node.name = "same"
    same_maps(model)


class TestLoadedAgain:
    """What `load` gives is of a type of its own: loading that is a copy of the graph."""

    @pytest.fixture
    def parsed(self, monkeypatch):
        """How often a message was read, and a model brought into the transform's form."""
        module = sys.modules["backlight.export.graph"]
        calls = []
        for name in ("read_message", "check_nodes"):
            inner = getattr(module, name)
            monkeypatch.setattr(
                module, name, lambda *a, n=name, f=inner: (calls.append(n), f(*a))[1]
            )
        return calls

    def test_nothing_is_read_or_inferred_twice(self, parsed):
        loaded = load(models.tiny(opset=9))
        assert parsed == ["read_message", "check_nodes"]
        again = load(loaded)
        graph = explain_graph(again, ["guided"])
        assert parsed == ["read_message", "check_nodes"] and isinstance(again, Loaded)
        feeds = {"x": X, "target": np.array([1, 4])}
        want = run_runtime(backlight.export(models.tiny(opset=9), ["guided"]), feeds)
        np.testing.assert_array_equal(
            run_runtime(graph.to_proto(), feeds)["saliency_guided"], want["saliency_guided"]
        )

    def test_a_copy_shares_weights_and_nothing_else(self):
        loaded = load(models.tiny())
        held = {n: v.const_value for n, v in loaded.graph.initializers.items()}
        nodes, outputs = len(loaded.graph), len(loaded.graph.outputs)
        graph = explain_graph(loaded).model.graph
        assert held and all(graph.initializers[n].const_value is t for n, t in held.items())
        assert len(loaded.graph) == nodes < len(graph)
        assert len(loaded.graph.outputs) == outputs and not loaded.metadata_props

    def test_what_it_has_not_had_is_done(self, parsed):
        loaded = load(models.tiny(opset=9))
        assert opset_of(load(loaded, 22)) == 22
        open_model = models.tiny()
        for dim in open_model.graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.dim_param = "side"
        fixed = load(load(open_model), shapes={"x": (2, 3, 8, 8)})
        assert fixed.graph.inputs[0].shape.numpy() == (2, 3, 8, 8)
        count = len(parsed)
        assert load(fixed, shapes={"x": (2, 3, 8, 8)}).graph.inputs[0].shape.is_static()
        assert len(parsed) == count

    def test_messages_go_on_naming_the_file(self, tmp_path: Path):
        file = tmp_path / "old.onnx"
        onnx.save(models.tiny(opset=9), file)
        held, source = read(load(file))
        assert source == str(file) and not isinstance(held, Loaded)
        held.graph.opset_imports[""] = 5
        with pytest.raises(ModelError, match=f"{file}: opset 5"):
            load(held)


def test_functions_are_inlined():
    text = """<ir_version: 8, opset_import: ["": 18, "local": 1]>
tiny (float[N,3,8,8] x) => (float[N,5] prob) {
    h = local.block(x, w, b)
    p = GlobalAveragePool(h)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v, c)
    prob = Softmax(scores)
}
<domain: "local", opset_import: ["": 18]>
block (x, w, b) => (r) {
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
}"""
    same_maps(models.parsed(text, models.weights()))


def test_constants_in_nodes_and_shape_subgraphs_fold():
    body = models.BODY.replace(
        "f = Flatten(p)",
        """s = Shape(p)
    zero = Constant<value_ints=[0]>()
    axis = Constant<value=int64 {0}>()
    n = Gather<axis=0>(s, zero)
    rest = Constant<value_ints=[-1]>()
    to = Concat<axis=0>(n, rest)
    f = Reshape(p, to)""",
    )
    same_maps(models.tiny(body=body))
    assert check(models.tiny(body=body)).ok


def test_external_data_is_read_and_carried(tmp_path: Path):
    onnx.save(
        models.tiny(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    same_maps(tmp_path / "m.onnx")
    explain_graph(tmp_path / "m.onnx").save(tmp_path / "out.onnx", external=True)
    assert (tmp_path / "out.onnx.data").exists()
    assert (tmp_path / "out.onnx").stat().st_size < (tmp_path / "w.bin").stat().st_size * 40
    import onnxruntime as ort

    session = ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["saliency_guided"], FEEDS)[0]
    want = run_runtime(backlight.export(models.tiny()), FEEDS)["saliency_guided"]
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_external_data_that_is_moved_about(tmp_path: Path):
    """What folds to a view of a weight would keep its file open, and no session could be made."""
    # Read as it is and transposed: both stay.
    body = (
        models.BODY.replace("scores =", "a =")
        + """
    t = Transpose<perm=[1,0]>(v) m = MatMul(f, t) scores = Add(a, m)"""
    )
    model, file = models.tiny(body=body), tmp_path / "m.onnx"
    onnx.save(model, file, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = backlight.Occlusion(file, window=4)(X)
    np.testing.assert_array_equal(found, backlight.Occlusion(models.tiny(body=body), window=4)(X))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "sub/../../w.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "w.bin").write_bytes(b"\0" * 4096)
    model = models.tiny()
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    (inner / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside"):
        backlight.export(inner / "m.onnx")


def test_external_data_through_a_link_is_refused(tmp_path: Path):
    inner = tmp_path / "inner"
    inner.mkdir()
    onnx.save(
        models.tiny(), inner / "m.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    os.rename(inner / "w.bin", tmp_path / "w.bin")
    os.symlink(tmp_path / "w.bin", inner / "w.bin")
    with pytest.raises(ModelError, match="outside"):
        backlight.export(inner / "m.onnx")


@pytest.mark.parametrize("location", ["w" * 300, "w\0.bin"])
def test_external_data_in_what_is_no_file_name(tmp_path: Path, location: str):
    model = models.tiny()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="no file's name"):
        backlight.export(tmp_path / "m.onnx")


def test_missing_and_short_external_data(tmp_path: Path):
    onnx.save(
        models.tiny(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    whole = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"w\.bin"):
        backlight.export(tmp_path / "m.onnx")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"w\.bin"):
        backlight.export(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("length", "kept", "says"),
    [
        (None, 428, "truncated: expected 432 bytes from byte 0"),
        (None, 0, "truncated"),
        (100, 432, "100 bytes of it, but its shape needs 432"),
        (10**12, 432, "its shape needs 432"),
    ],
)
def test_external_data_that_its_shape_does_not_fit(tmp_path: Path, length, kept, says):
    """A file may leave the length out: the shape says what is needed."""
    model = models.tiny()
    tensor = model.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(tensor.raw_data[:kept])
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    if length is not None:
        tensor.external_data.add(key="length", value=str(length))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=f"'w'.*w.bin.*{says}"):
        backlight.export(tmp_path / "m.onnx")


def test_a_loaded_graph_keeps_its_external_data(tmp_path: Path):
    """What is given as an onnx-ir model, as `reconstruct` and `embed` do, knows its folder."""
    onnx.save(
        models.tiny(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    once = load(tmp_path / "m.onnx")
    assert explain_graph(once).to_proto().graph.initializer[0].raw_data
    assert once.graph.initializers["w"].const_value is not None
    assert len(once.graph.outputs) == 1  # what was given is not changed


def test_nodes_out_of_order_and_in_a_circle(tmp_path: Path):
    model = models.tiny()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    same_maps(model)
    model = models.tiny()
    model.graph.node[0].input[0] = model.graph.node[2].output[0]
    with pytest.raises(ModelError, match="read each other in a circle"):
        load(model)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda n: n.attribute.add(name="axis", type="INTS", ints=[1]), "attribute 'axis' is INTS"),
        (lambda n: n.input.append("scores"), r"Softmax 'prob' \(opset 11\) has 2 inputs"),
        (lambda n: n.ClearField("input"), "has 0 inputs; expected 1$"),
        (lambda n: n.output.append("more"), "has 2 outputs; expected 1$"),
        (
            lambda n: n.attribute.extend(
                onnx.helper.make_attribute(f"a{i}", 1) for i in range(1001)
            ),
            r"Softmax 'prob' has 100[12] attributes; expected 1000 at most$",
        ),
    ],
)
def test_nodes_that_are_not_what_the_standard_says(change, says: str):
    """Such an attribute takes ONNX's version converter, and the process, with it."""
    model = models.tiny(opset=11)
    change(model.graph.node[-1])
    with pytest.raises(ModelError, match=says):
        load(model)
    model = models.tiny(opset=11)
    model.graph.node[2].op_type = "Concat"
    with pytest.raises(ModelError, match="Concat.*lacks its attribute 'axis'"):
        load(model)


def test_a_shape_that_nothing_follows_from_names_its_node():
    model = models.tiny()
    model.graph.initializer[2].CopyFrom(
        onnx.numpy_helper.from_array(np.ones((7, 9), np.float32), "v")
    )
    with pytest.raises(ModelError, match=r"'scores' has no known rank: .* Gemm 'node_4' reads"):
        backlight.export(model)
    report = check(model)
    assert not report.ok and report.obstacles[0].operator == "Gemm"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"not a model at all", "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
    ],
)
def test_not_onnx(tmp_path: Path, content: bytes, says: str):
    file = tmp_path / "m.onnx"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        backlight.export(file)
    assert str(file) in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(ModelError, match="no such file"):
        backlight.export(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="folder"):
        backlight.export(tmp_path)


def test_every_truncation_is_one_clear_error(tmp_path: Path):
    whole = models.tiny().SerializeToString()
    for cut in range(1, len(whole), 37):
        try:
            backlight.export(whole[:cut])
        except InputError as err:
            assert "\n" not in str(err)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
)
def test_broken_bytes_are_an_input_error_or_a_model(cut, changes):
    """Whatever is flipped, inserted or cut off: a model, or one of our errors, on one line."""
    data = bytearray(models.tiny().SerializeToString())
    for at, value in changes:
        data[at % len(data)] = value
    if cut % 3 == 0:
        data = data[: 1 + cut % len(data)]
    try:
        load(bytes(data))
        check(bytes(data))
    except InputError as err:
        assert "\n" not in str(err)


def test_an_operator_without_a_rule_is_named():
    body = models.BODY.replace("r = Relu(h)", "g = Relu(h)\n r = Det_(g)").replace(
        "Det_", "com.example.Odd"
    )
    with pytest.raises(UnsupportedNode, match=r"Odd.*com\.example"):
        backlight.export(models.tiny(body=body))


def test_an_operator_off_the_way_does_not_matter():
    tail = "prob = Softmax(scores)\n side = com.example.Odd(f)"
    model = models.tiny(tail=tail, output="float[N,5] prob, float[N,4] side")
    graph = backlight.export(model, of="scores")
    assert "Odd" in {n.op_type for n in graph.graph.node}
    assert check(model, of="scores").ok


def test_no_image_like_input():
    with pytest.raises(ModelError, match=r"no image-like input.*'a' \[N,7\].*--wrt"):
        backlight.export(
            models.parsed(
                """<ir_version: 8, opset_import: ["": 18]>
table (float[N,7] a) => (float[N,7] y) { y = Relu(a) }"""
            )
        )


def test_above_two_gigabytes_goes_to_external_data(tmp_path: Path, monkeypatch):
    """The limit is lowered: what happens above it must not need 2 GB to be seen."""
    from backlight.export import store

    monkeypatch.setattr(store, "PROTO_LIMIT", 100)
    graph = explain_graph(models.tiny())
    with pytest.raises(ModelError, match="larger than 2 GB.*backlight export"):
        graph.to_proto()
    graph.save(tmp_path / "big.onnx")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]


@pytest.mark.parametrize("external", [False, True])
def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch, external: bool):
    import onnx_ir as ir

    (tmp_path / "out.onnx").write_bytes(b"before")

    def broken(*_args: object, **_kw: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((ir, "save") if external else (onnx, "save")), broken)
    with pytest.raises(backlight.BacklightError, match="No space left"):
        explain_graph(models.tiny()).save(tmp_path / "out.onnx", external=external)
    assert [f.name for f in tmp_path.iterdir()] == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_bytes() == b"before"


def test_sizes_that_each_layer_reckons_from_the_one_before():
    """A round of inference and folding for each, as Swin's windows take by torch's older exporter:
    24 of them are 24 rounds."""
    layers = "".join(
        f"""
    s{i} = Shape(h{i})
    d{i} = Gather<axis=0>(s{i}, one)
    m{i} = Mod(d{i}, many)
    c{i} = Concat<axis=0>(m{i}, rest)
    h{i + 1} = Reshape(h{i}, c{i})"""
        for i in range(24)
    )
    body = f"h0 = Flatten(x) {layers} last = Relu(h24)"
    model = models.tiny(shape="1,3,8,8", body=body, tail="", output="float[A,B] last")
    for name, value in {"one": [1], "many": [1000], "rest": [-1]}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    found = load(model).graph
    assert [n.op_type for n in found if n.op_type == "Mod"] == []
    (last,) = [n for n in found if n.op_type == "Relu"]
    assert last.inputs[0].shape == [1, 192]


def test_a_shape_longer_than_a_tensor_has_is_unknown():
    """Written out per size, and counted through for each: 500,000 take minutes."""
    model = models.tiny()
    declared = model.graph.input[0].type.tensor_type.shape.dim
    declared.extend([declared[1]] * 61)
    loaded, _ = read(model)
    assert loaded.graph.inputs[0].shape is None
    del declared[64:]
    shape = read(model)[0].graph.inputs[0].shape
    assert shape is not None and len(shape) == 64
