"""What a declared size says: a number above 0, a name, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["forget_no_sizes"]

# Names that exporters give to every size they don't know: two axes of one such name needn't agree.
_NO_NAME = re.compile(r"-?\d*|[?*_]+|none|null|nan|any|unk|unknown|undefined|dyn|dynamic", re.I)


def forget_no_sizes(model: ir.Model) -> None:
    """Make sizes unknown, in place, that are none: Paddle's exporters write -1 for what they don't
    know, others 0, or one name such as `?` for all. Shapes of weights are left alone: 0 is a size
    there."""
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        for value in _values(graph):
            shape = value.shape
            if shape is None or value.const_value is not None or value.is_initializer():
                continue
            dims = [_dim(dim) for dim in shape]
            if any(new is not old for new, old in zip(dims, shape, strict=True)):
                value.shape = ir.Shape(dims)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.outputs
    for node in graph.all_nodes():
        yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from attribute.as_graph().inputs
            elif attribute.type == ir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    yield from inner.inputs


def _dim(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
    if isinstance(dim, int):
        return dim if dim > 0 else ir.SymbolicDim(None)
    named = dim.value is not None
    return ir.SymbolicDim(None) if named and _NO_NAME.fullmatch(str(dim.value)) else dim
