"""What a declared size says: a number above 0, a name, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from .. import written
from ..arguments import shapes as checked_shapes
from ..errors import UsageError, hint
from .nested import nodes_of

__all__ = ["fix_shapes", "forget_no_sizes", "parse_shape"]

# A declared size above it is none that a tensor has: ONNX's passes multiply sizes, and allocate by
# them where a tensor's length is another's rank.
LARGEST_DIM = 2**40
# Nor has a tensor more of them: no runtime's tensors do, nor NumPy's, and what is written for each
# of a shape's sizes takes as long as it is long.
LARGEST_RANK = 64
Shapes = Mapping[str, Sequence[int]]

# Names that exporters give to every size they don't know: two axes of one such name needn't agree.
_NO_NAME = re.compile(r"-?\d*|[?*_]+|none|null|nan|any|unk|unknown|undefined|dyn|dynamic", re.I)


def forget_no_sizes(model: ir.Model) -> None:
    """Make sizes unknown, in place, that are none: Paddle's exporters write -1 for what they don't
    know, others 0, or one name such as `?` for all, others no dimensions at all. A shape of more
    sizes than a tensor has is unknown as a whole. Shapes of weights are left alone: 0 is a size
    there."""
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        for value in _values(graph):
            shape = value.shape
            if shape is None or value.const_value is not None or value.is_initializer():
                continue
            if not shape.dims and value.is_graph_output() and value.producer() is not None:
                value.shape = None  # said of outputs of any rank; a number's is found again
                continue
            if len(shape) > LARGEST_RANK:
                value.shape = None
                continue
            dims = [_dim(dim) for dim in shape]
            if any(new is not old for new, old in zip(dims, shape, strict=True)):
                value.shape = ir.Shape(dims)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.outputs
    for node in nodes_of(graph):
        yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from attribute.as_graph().inputs
            elif attribute.type == ir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    yield from inner.inputs


def _dim(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
    if isinstance(dim, int):
        return dim if 0 < dim <= LARGEST_DIM else ir.SymbolicDim(None)
    named = dim.value is not None
    return ir.SymbolicDim(None) if named and _NO_NAME.fullmatch(str(dim.value)) else dim


def parse_shape(given: str) -> tuple[str, tuple[int, ...]]:
    """`x=1,3,224,224` as a name and sizes. Raises UsageError."""
    name, equals, text = given.rpartition("=")
    found = [written.whole(size) for size in text.split(",")]
    sizes = tuple(size for size in found if size is not None and 0 < size < 10**9)
    if not (name and equals and len(sizes) == len(found)):
        raise UsageError(f"--shape '{given}'; expected INPUT=SIZES, such as x=1,3,224,224")
    return name, sizes


def fix_shapes(model: ir.Model, shapes: Shapes | None) -> None:
    """Give inputs these shapes, in place. Raises UsageError for an unknown input, and for sizes
    that contradict what the model declares."""
    inputs = {v.name: v for v in model.graph.inputs if not v.is_initializer()}
    for name, sizes in checked_shapes("shapes", shapes).items():
        value = inputs.get(name)
        if value is None:
            known = [str(n) for n in inputs]
            raise UsageError(
                f"no input '{name}' to shape; accepted: {', '.join(known)}{hint(name, known)}"
            )
        declared = value.shape
        if any(size < 1 for size in sizes):
            raise UsageError(f"shape {list(sizes)} of '{name}'; expected sizes above 0")
        if declared is not None:
            fits = len(declared) == len(sizes) and all(
                not isinstance(own, int) or own == size
                for own, size in zip(declared, sizes, strict=True)
            )
            if not fits:
                shown = [own if isinstance(own, int) else str(own) for own in declared]
                raise UsageError(f"shape {list(sizes)} doesn't fit input '{name}': {shown}")
        value.shape = ir.Shape(list(sizes))
