"""New initializers, by names that say what they were made of."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["constant_called"]


def constant_called(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A constant in a graph, called about so: one that is the same is used again, and what a file
    has under that name is left alone."""
    while (there := graph.initializers.get(name)) is not None:
        if not there.is_graph_input() and _holds(there, array):
            return there
        name += "_"
    tensor = ir.tensor(array, name=name)
    made = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape))
    made.dtype = tensor.dtype
    graph.register_initializer(made)
    return made


def _holds(value: ir.Value, array: NDArray[Any]) -> bool:
    held = value.const_value
    if held is None or held.dtype != ir.DataType.from_numpy(array.dtype):
        return False
    return tuple(held.shape.numpy()) == array.shape and held.numpy().tobytes() == array.tobytes()
