"""Writes the clean graph: the image's own activations, as the rows that patches are made from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from ..emit import Emitter
from ..graph import EMITTED_IR
from .copying import Copier, like
from .intervals import CONSTANT_ROWS
from .local import channels
from .prepare import Prepared

BACKGROUNDS = "backgrounds"
FLOAT = ir.DataType.FLOAT
TO_NHWC = (0, 2, 3, 1)


def new_graph(name: str, opsets: dict[str, int]) -> ir.Graph:
    """A graph with nothing in it."""
    return ir.Graph([], [], nodes=[], opset_imports=opsets, name=name)


def as_model(graph: ir.Graph) -> ir.Model:
    """A model around a graph."""
    return ir.Model(graph, ir_version=EMITTED_IR, producer_name="backlight")


def clean_graph(
    prepared: Prepared, tables: list[ir.Value], plain: list[ir.Value], backgrounds: int
) -> ir.Model:
    """The image [1, ...] and its backgrounds [K, ...] -> the rows that patches are made from."""
    graph = new_graph("clean", dict(prepared.model.graph.opset_imports))
    e = Emitter(graph, prepared.model.graph.opset_imports[""])
    copier = Copier(graph)
    source = prepared.image
    assert source.shape is not None
    both = []
    for name, count in ((str(source.name), 1), (BACKGROUNDS, backgrounds)):
        shape = ir.Shape([count, *list(source.shape)[1:]])
        both.append(ir.Value(name=name, shape=shape, type=ir.TensorType(source.dtype or FLOAT)))
    graph.inputs.extend(both)
    # One pass of the preprocessing for the image and its backgrounds.
    copier.values[source] = e.Concat(*both, axis=0)
    behind: dict[ir.Value, ir.Value] = {}
    for root in prepared.roots:
        copied = copier.value(root)
        split = e.op("Split", [copied, [1, backgrounds]], _outputs=2, axis=0)
        for part in split:
            like(part, root).shape = None
        copier.values[root], behind[root] = split
    for value in tables:
        lowest = np.zeros((CONSTANT_ROWS, channels(value)), np.float32)
        lowest[1:] = -np.inf
        parts = [_rows(e, copier, value), e.cast(e.const(lowest), value.dtype)]
        if value in behind:
            parts.append(_flat_rows(e, behind[value], channels(value)))
        _tap(graph, e.Concat(*parts, axis=0), f"rows/{value.name}", value)
    for value in plain:
        _tap(graph, e.Identity(_rows(e, copier, value)), f"plain/{value.name}", value)
    return as_model(graph)


def _rows(e: Emitter, copier: Copier, value: ir.Value) -> ir.Value:
    copied = copier.value(value)
    if copied is None:
        raise ModelError(f"'{value.name}' has no value")
    return _flat_rows(e, copied, channels(value))


def _flat_rows(e: Emitter, value: ir.Value, count: int) -> ir.Value:
    return e.Reshape(e.Transpose(value, perm=TO_NHWC), [-1, count])


def _tap(graph: ir.Graph, made: ir.Value, name: str, source: ir.Value) -> None:
    like(made, source).name = name
    made.shape = ir.Shape([None, channels(source)])
    graph.outputs.append(made)
