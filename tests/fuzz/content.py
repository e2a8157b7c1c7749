"""Changes to what a model says: attributes, shapes, types, numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from .sources import Source

NUMBERS = (
    -1, 0, 1, 2, 3, 5, 7, -2, 64, 1000, 65536, 10**6, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40,
    2**62, 2**63 - 1, -(2**63),
)  # fmt: skip
SMALL = (-2, -1, 0, 1, 2, 3, 4)
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, 3.4e38, float("nan"), float("inf"), -float("inf"))
TEXTS = (
    "", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "constant", "linear", "nearest", "cubic",
    "reflect", "wrap", "add", "mul", "CRD", "floor", "tf_crop_and_resize", "align_corners",
    "ij,jk->ik", "...i,i->...", "nonsense", "\x00", "é" * 50, "a" * 9000,
)  # fmt: skip


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    found = [n for g in graphs(model.graph) for n in g.node]
    return found + [n for f in model.functions for n in f.node]


def tensors(model: onnx.ModelProto) -> list[TensorProto]:
    found = [t for g in graphs(model.graph) for t in g.initializer]
    for node in nodes(model):
        found += [a.t for a in node.attribute if a.type == AttributeProto.TENSOR]
    return found


def values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [v for g in graphs(model.graph) for v in (*g.input, *g.output, *g.value_info)]


def names(model: onnx.ModelProto) -> list[str]:
    found = [n for q in nodes(model) for n in (*q.input, *q.output)]
    return found + [t.name for t in tensors(model)]


def number(rng: random.Random) -> int:
    return rng.choice(SMALL if rng.random() < 0.5 else NUMBERS)


def attributes(source: Source, rng: random.Random) -> None:
    """An attribute's value, type, length; one more, one less."""
    node = rng.choice(nodes(source.model))
    kind = rng.randrange(7)
    if kind == 0 or not node.attribute:
        add_attribute(node, rng)
        return
    attribute = rng.choice(node.attribute)
    if kind == 1:
        node.attribute.remove(attribute)
    elif kind == 2:
        attribute.type = rng.randrange(0, 16)
    elif kind == 3 and attribute.ints:
        rng.choice((attribute.ints.append, attribute.ints.remove))(rng.choice(attribute.ints))
    elif kind == 4 and attribute.ints:
        del attribute.ints[:]
        attribute.ints.extend(number(rng) for _ in range(rng.randrange(5)))
    else:
        _change(attribute, rng)


def _change(attribute: AttributeProto, rng: random.Random) -> None:
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = number(rng)
    elif attribute.type == AttributeProto.INT:
        attribute.i = number(rng)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice(FLOATS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice(TEXTS).encode("utf-8" if rng.random() < 0.9 else "utf-16")
    elif attribute.type == AttributeProto.TENSOR:
        _tensor(attribute.t, rng)


def add_attribute(node: onnx.NodeProto, rng: random.Random) -> None:
    """One that the operator has, mostly of the right type."""
    try:
        known = sorted(onnx.defs.get_schema(node.op_type).attributes.items())
    except onnx.defs.SchemaError:
        known = []
    if not known:
        node.attribute.append(helper.make_attribute("axis", number(rng)))
        return
    name, schema = rng.choice(known)
    for old in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(old)
    made = AttributeProto(name=name, type=int(getattr(schema.type, "value", schema.type)))
    made.i, made.f, made.s = number(rng), rng.choice(FLOATS), rng.choice(TEXTS).encode()
    made.ints.extend(number(rng) for _ in range(rng.randrange(1, 5)))
    if made.type != AttributeProto.INTS:
        del made.ints[:]
    node.attribute.append(made)


def shapes(source: Source, rng: random.Random) -> None:
    """A declared shape: sizes, names, rank, none at all."""
    value = rng.choice(values(source.model))
    shape = value.type.tensor_type.shape
    kind = rng.randrange(6)
    if kind == 0:
        value.type.tensor_type.ClearField("shape")
    elif kind == 1:
        shape.dim.add().dim_value = number(rng)
    elif kind == 2 and shape.dim:
        del shape.dim[rng.randrange(len(shape.dim))]
    elif kind == 3 and shape.dim:
        rng.choice(shape.dim).dim_param = rng.choice(("N", "H", "", "?", "-1", "x" * 5000))
    elif shape.dim:
        rng.choice(shape.dim).dim_value = number(rng)


def sizes(source: Source, rng: random.Random) -> None:
    """A few bytes that declare much: large sizes at the image, in windows, in shapes."""
    large = (10**4, 65536, 10**6, 10**9, 2**31 - 1, 2**31, 2**40)
    model = source.model
    for _ in range(rng.randint(1, 2)):
        kind = rng.randrange(3)
        if kind == 0:
            dims = [d for v in model.graph.input for d in v.type.tensor_type.shape.dim]
            if dims:
                rng.choice(dims).dim_value = rng.choice(large)
        elif kind == 1:
            found = [a for n in nodes(model) for a in n.attribute if a.ints]
            if found:
                attribute = rng.choice(found)
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(large)
        else:
            _integers(model, rng, large)


def constants(source: Source, rng: random.Random) -> None:
    """An initializer's numbers, shape or type."""
    found = tensors(source.model)
    if not found or rng.random() < 0.5:
        _integers(source.model, rng, NUMBERS + SMALL * 3)
    else:
        _tensor(rng.choice(found), rng)


def _integers(model: onnx.ModelProto, rng: random.Random, numbers: Sequence[int]) -> None:
    """A number of an axis list, a shape, pads …"""
    found = [t for t in tensors(model) if t.data_type == TensorProto.INT64]
    if not found:
        return
    tensor = rng.choice(found)
    try:
        array = np.array(numpy_helper.to_array(tensor))
    except Exception:  # changed before
        return
    flat = array.reshape(-1)
    if rng.random() < 0.15:
        flat = flat[:-1] if rng.random() < 0.5 else np.append(flat, rng.choice(numbers))
    elif len(flat):
        flat[rng.randrange(len(flat))] = rng.choice(numbers)
    if flat.size == array.size:
        flat = flat.reshape(array.shape)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(flat, np.int64), tensor.name))


def _tensor(tensor: TensorProto, rng: random.Random) -> None:
    kind = rng.randrange(7)
    if kind == 0:
        tensor.data_type = rng.randrange(0, 26)
    elif kind == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = number(rng)
    elif kind == 2 and tensor.dims:
        del tensor.dims[rng.randrange(len(tensor.dims))]
    elif kind == 3:
        tensor.dims.append(number(rng))
    elif kind == 4:
        tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
    elif kind == 5:  # as many elements as it says, of other sizes
        dims = [rng.randrange(0, 4) for _ in range(rng.randrange(5))]
        array = np.full(dims, rng.choice(FLOATS), np.float32)
        with np.errstate(invalid="ignore"):
            kind_of = rng.choice((np.float32, np.float32, np.int64, np.float16, np.float64, bool))
            tensor.CopyFrom(numpy_helper.from_array(array.astype(kind_of), tensor.name))
    elif math.prod(tensor.dims) < 1000 and min(tensor.dims, default=1) >= 0:
        array = np.full(list(tensor.dims), rng.choice(FLOATS), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def dtypes(source: Source, rng: random.Random) -> None:
    """An element type, of an end, a tensor or a Cast."""
    kind = rng.randrange(3)
    casts = [a for n in nodes(source.model) for a in n.attribute if a.name in ("to", "dtype")]
    if kind == 0 and casts:
        rng.choice(casts).i = rng.randrange(-1, 27)
    elif kind == 1 and tensors(source.model):
        rng.choice(tensors(source.model)).data_type = rng.randrange(0, 26)
    else:
        value = rng.choice(values(source.model))
        value.type.tensor_type.elem_type = rng.randrange(0, 26)
        if rng.random() < 0.1:
            shape = value.type.tensor_type.shape
            value.type.sequence_type.elem_type.tensor_type.shape.CopyFrom(shape)
