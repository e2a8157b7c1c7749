"""Models whose images are of a type that masks aren't made in, taken as float32."""

from __future__ import annotations

import onnx_ir as ir

from ...export.emit import Emitter
from ...export.graph import Loaded, opset_of

__all__ = ["widened"]

# As the kernels take them.
OWN = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.UINT8))


def widened(model: Loaded, image: ir.Value) -> bool:
    """Have a model take its images as float32, in place, where they are whole numbers of another
    width or double; whether they were. Masks leave values between whole numbers: they are rounded.
    """
    own = image.dtype
    if own is None or own in OWN:
        return False
    graph = model.graph
    uses = list(image.uses())
    e = Emitter(graph, opset_of(model))
    image.dtype = ir.DataType.FLOAT
    count = len(graph)
    cast = e.cast(e.Round(image, _shape=image.shape) if own.is_integer() else image, own)
    made = list(graph)[count:]
    for use in uses:
        use.node.replace_input_with(use.idx, cast)
    first = graph[0]
    for node in made:
        graph.remove(node)
    graph.insert_before(first, made)
    return True
