"""Receptive fields against brute force: perturb each pixel, see which units move."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backlight.engine.runtime.session import Session
from backlight.errors import UsageError
from backlight.export.receptive import ReceptiveField, receptive_fields

from ..models import parsed

SIZE = (9, 11)
RNG = np.random.default_rng(0)


def positive(*shape: int) -> np.ndarray:
    """Weights above 0: then no unit is switched off, and a brighter pixel raises all it reaches."""
    return RNG.uniform(0.1, 1, shape).astype(np.float32)


W33 = {"w": positive(4, 2, 3, 3)}
W44 = {"w": positive(4, 2, 3, 3), "u": positive(4, 4, 3, 3)}
GRAPHS: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "conv": ("y = Conv(x, w)", W33),
    "conv padded": ("y = Conv<pads=[1,1,1,1]>(x, w)", W33),
    "conv strided": ("y = Conv<pads=[0,1,2,1], strides=[2,3]>(x, w)", W33),
    "conv dilated": ("y = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w)", W33),
    "conv grouped": ("y = Conv<group=2, pads=[1,1,1,1]>(x, w)", {"w": positive(4, 1, 3, 3)}),
    "same upper": ('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', W33),
    "same lower": ('y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)', W33),
    "two convs": ("h = Conv<strides=[2,2]>(x, w)\n y = Conv<pads=[1,1,1,1]>(h, u)", W44),
    # A border in the first layer must not be taken for pixels in the second.
    "deep padding": (
        "h = Conv<pads=[2,2,2,2]>(x, w)\n g = Conv<pads=[2,2,2,2], strides=[2,2]>(h, u)\n"
        "y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(g)",
        W44,
    ),
    "max pool": ("y = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,0]>(x)", {}),
    "ceil mode": ("y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)", {}),
    "average pool": ("y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", {}),
    "residual": (
        "h = Conv<pads=[1,1,1,1]>(x, w)\n g = Conv<pads=[1,1,1,1]>(h, u)\ny = Add(h, g)",
        W44,
    ),
    "branches": (
        "a = Conv(x, p)\n b = Conv<pads=[1,1,1,1]>(x, w)\n y = Concat<axis=1>(a, b)",
        W33 | {"p": positive(3, 2, 1, 1)},
    ),
    "asymmetric branches": (
        "a = Conv<pads=[0,2,0,2]>(x, p)\n b = Conv<pads=[2,0,2,0]>(x, q)\n y = Add(a, b)",
        {"p": positive(3, 2, 1, 5), "q": positive(3, 2, 5, 1)},
    ),
    "nearest": (
        "h = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)\n"
        's = Constant<value_floats=[1.0,1.0,2.0,2.0]>()\n y = Resize<mode="nearest">(h, , s)',
        {},
    ),
    "linear": (
        "h = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)\n"
        's = Constant<value_floats=[1.0,1.0,2.0,3.0]>()\n y = Resize<mode="linear">(h, , s)',
        {},
    ),
    "align corners": (
        "s = Constant<value_ints=[1,2,4,6]>()\n"
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , s)',
        {},
    ),
    "transposed": (
        "h = Conv<strides=[2,2]>(x, w)\n"
        "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(h, t)",
        W33 | {"t": positive(4, 2, 3, 3)},
    ),
    # A stride above the kernel leaves units that no pixel reaches.
    "transposed gaps": ("y = ConvTranspose<strides=[3,3]>(x, t)", {"t": positive(2, 2, 2, 2)}),
    "zero pad": ("p = Constant<value_ints=[0,0,2,1,0,0,1,3]>()\n y = Pad(x, p)", {}),
    "reflect pad": (
        "p = Constant<value_ints=[0,0,2,1,0,0,1,3]>()\n"
        'h = Pad<mode="reflect">(x, p)\n y = Conv(h, w)',
        W33,
    ),
    "crop": (
        "b = Constant<value_ints=[2,9]>()\n e = Constant<value_ints=[7,0]>()\n"
        "a = Constant<value_ints=[2,3]>()\n s = Constant<value_ints=[1,-2]>()\n"
        "y = Slice(x, b, e, a, s)",
        {},
    ),
    "focus": (
        "b = Constant<value_ints=[0,0]>()\n e = Constant<value_ints=[8,10]>()\n"
        "a = Constant<value_ints=[2,3]>()\n"
        "h = Slice(x, b, e, a)\n y = SpaceToDepth<blocksize=2>(h)",
        {},
    ),
    "nhwc inside": (
        "h = Conv(x, w)\n t = Transpose<perm=[0,2,3,1]>(h)\n y = MatMul(t, m)",
        W33 | {"m": positive(4, 3)},
    ),
    "layer norm": (
        "h = Conv(x, w)\n t = Transpose<perm=[0,2,3,1]>(h)\ny = LayerNormalization<axis=-1>(t, g)",
        W33 | {"g": positive(4)},
    ),
    "shuffle": (
        "h = Conv<group=2>(x, w)\n s = Constant<value_ints=[0,2,2,7,9]>()\n r = Reshape(h, s)\n"
        "t = Transpose<perm=[0,2,1,3,4]>(r)\n e = Constant<value_ints=[0,4,7,9]>()\n"
        "y = Reshape(t, e)",
        {"w": positive(4, 1, 3, 3)},
    ),
    "tokens": (
        "h = Conv<strides=[2,2]>(x, w)\n s = Constant<value_ints=[0,4,20]>()\ny = Reshape(h, s)",
        W33,
    ),
    "split": ("h = Conv(x, w)\n a, b = Split<axis=1, num_outputs=2>(h)\n y = Mul(a, b)", W33),
    "local response": (
        "a = Conv(x, p)\n b = Conv<pads=[1,1,1,1]>(x, w)\n h = Concat<axis=1>(a, b)\n"
        "y = LRN<size=3>(h)",
        W33 | {"p": positive(3, 2, 1, 1)},
    ),
    "global pool": ("h = Conv(x, w)\n y = GlobalAveragePool(h)", W33),
    "squeeze and excite": (
        "h = Conv(x, w)\n p = GlobalAveragePool(h)\n s = Sigmoid(p)\n y = Mul(h, s)",
        {"w": W33["w"] / 100},
    ),
    "instance norm": (
        "h = Conv(x, w)\n y = InstanceNormalization(h, g, z)",
        W33 | {"g": positive(4), "z": positive(4)},
    ),
    "rows alone": ("a = Constant<value_ints=[3]>()\n m = ReduceMean(x, a)\n y = Sub(x, m)", {}),
    "dense": ("f = Flatten(x)\n y = MatMul(f, m)", {"m": positive(198, 3)}),
}


def model(body: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["": 18]>
g (float[N,2,{SIZE[0]},{SIZE[1]}] x) => (float y) {{
{body}
}}"""
    proto = parsed(text, weights)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


def moved_by(proto: onnx.ModelProto) -> np.ndarray:
    """Which pixels move each unit: bool [H, W, ...dims]. All pixels, both ways."""
    height, width = SIZE
    base = RNG.uniform(1, 2, (1, 2, height, width)).astype(np.float32)
    rows = np.repeat(base, height * width, axis=0)
    for index in range(height * width):
        rows[index, :, index // width, index % width] += 50
    session = Session(proto, "cpu", 1)
    before = session.run({"x": base})["y"]
    after = np.stack([session.run({"x": row[None]})["y"][0] for row in rows])
    # Where an array lies in memory decides in which order a row is summed: some 1e-7.
    return (np.abs(after - before) > 1e-5 * (1 + np.abs(before))).reshape(
        height, width, *before.shape[1:]
    )


def bounds(moved: np.ndarray) -> np.ndarray:
    """Top, left, bottom, right of the pixels that move each unit, [..., 4]; zeros for none."""
    found = np.zeros((*moved.shape[2:], 4), np.int64)
    for unit in np.ndindex(moved.shape[2:]):
        y, x = np.nonzero(moved[(slice(None), slice(None), *unit)])
        if len(y):
            found[unit] = y.min(), x.min(), y.max() + 1, x.max() + 1
    return found


def predicted(field: ReceptiveField) -> np.ndarray:
    """The same from the graph, for a tensor of any rank."""
    dims = field.dims[1:]
    rows, columns = (np.broadcast_to(s, (2, 1, *dims))[:, 0] for s in (field.rows, field.columns))
    found = np.stack([rows[0], columns[0], 1 - rows[1], 1 - columns[1]], axis=-1)
    empty = (found[..., 2] <= found[..., 0]) | (found[..., 3] <= found[..., 1])
    return np.where(empty[..., None], 0, found)


@pytest.mark.parametrize("name", GRAPHS)
def test_boxes_are_those_of_the_pixels_that_move_a_unit(name: str) -> None:
    proto = model(*GRAPHS[name])
    field = receptive_fields(proto, ["y"])["y"]
    np.testing.assert_array_equal(predicted(field), bounds(moved_by(proto)))


def test_jump_size_and_offset_of_a_textbook_stack() -> None:
    # AlexNet: conv 11/4 pad 2, pool 3/2, conv 5/1 pad 2, pool 3/2: 67 pixels, every 16.
    body = """h1 = Conv<strides=[4,4], pads=[2,2,2,2]>(x, a)
    h2 = MaxPool<kernel_shape=[3,3], strides=[2,2]>(h1)
    h3 = Conv<pads=[2,2,2,2]>(h2, b)
    y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(h3)"""
    proto = parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,H,W] x) => (float[N,2,P,Q] y) {{ {body} }}""",
        {"a": positive(2, 3, 11, 11), "b": positive(2, 2, 5, 5)},
    )
    field = receptive_fields(proto, size=(224, 200))["y"]
    assert (field.size, field.jump, field.offset) == ((67, 67), (16.0, 16.0), (-18, -18))
    assert field.image == (224, 200)
    assert field.box(0, 0, 5) == (0, 62, 49, 129)
    assert not field.is_whole
    # With the size left open it is 224, whatever a sibling asked for before.
    assert receptive_fields(proto, ["y"])["y"].image == (224, 224)


def test_channels_of_a_concat_keep_their_own_boxes() -> None:
    field = receptive_fields(model(*GRAPHS["branches"]), ["y"])["y"]
    assert field.box(0, 4, 4) == (4, 4, 5, 5)
    assert field.box(3, 4, 4) == (3, 3, 6, 6)
    assert (field.size, field.size_of(0), field.size_of(3)) == ((3, 3), (1, 1), (3, 3))


def test_nhwc_tensors_say_where_their_channels_are() -> None:
    field = receptive_fields(model(*GRAPHS["nhwc inside"]), ["y"])["y"]
    assert field.axes == (3, 1, 2)
    assert field.box(2, 1, 0) == (1, 0, 4, 3)


def test_tokens_are_no_picture_however_they_are_folded() -> None:
    proto = model(
        "h = Conv<strides=[2,2]>(x, w)\n s = Constant<value_ints=[0,2,2,20]>()\n r = Reshape(h, s)"
        "\n y = Transpose<perm=[0,1,3,2]>(r)",
        W33,
    )
    field = receptive_fields(proto, ["y"])["y"]
    assert (field.dims, field.axes, field.is_spatial) == ((1, 2, 20, 2), None, False)
    with pytest.raises(UsageError, match="no rows and columns"):
        field.box(0, 0, 0)


def test_an_operator_without_a_rule_sees_the_whole_image() -> None:
    proto = model("h = Conv(x, w)\n y = Custom(h)", W33)
    proto.graph.node[-1].domain = "com.example"
    proto.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    proto.graph.output[0].type.CopyFrom(
        onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", 4, 7, 9])
    )
    field = receptive_fields(proto, ["y"])["y"]
    assert field.is_whole
    assert str(field) == "whole image"


def test_the_model_is_not_changed_and_unknown_sizes_are_refused() -> None:
    proto = model(*GRAPHS["conv"])
    before = proto.SerializeToString(deterministic=True)
    receptive_fields(ir.from_proto(proto))
    receptive_fields(proto)
    assert proto.SerializeToString(deterministic=True) == before
    with pytest.raises(UsageError, match="takes 9"):
        receptive_fields(proto, size=(10, 11))
    with pytest.raises(UsageError, match="no tensor 'z'"):
        receptive_fields(proto, ["z"])
