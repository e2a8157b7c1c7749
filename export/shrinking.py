"""Windows that may not fit their maps, and the Slices behind them, for ONNX's shape inference.

Of a map too small for its window inference makes a size below 0, and a Slice of that ends the
process (an assertion in its C++). What a Slice reads has to be known before it is seen: so Slices
behind such windows are shown to inference in waves, each when the sizes before it are there, and
never behind a window that did not fit.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from .emit import all_dims
from .nested import nodes_of
from .rules.op import constant

__all__ = ["waves"]

# Waves at most: what lies behind more has no size.
_MOST = 32
_OVER = frozenset(
    "AveragePool Conv ConvInteger DeformConv LpPool MaxPool QLinearConv".split()
)  # fmt: skip
# What a larger padding takes rows and columns from.
_BACK = frozenset("ConvTranspose MaxUnpool".split())


def waves(model: ir.Model) -> Iterator[set[ir.Node]]:
    """The Slices that inference must not see, once per run of it."""
    levels = _levels(model)
    last = max(levels.values(), default=0)
    for wave in range(1, min(last, _MOST) + 1):
        yield {node for node, level in levels.items() if level >= wave}
    yield {node for node, level in levels.items() if level > _MOST}


def _levels(model: ir.Model) -> dict[ir.Node, int]:
    """Of each Slice behind windows that may not fit, how many times they alternate before it."""
    found: dict[ir.Node, int] = {}
    if all(node.op_type != "Slice" for node in nodes_of(model.graph)):
        return found
    seen: dict[ir.Value, tuple[int, bool]] = {}
    windows = False
    for node in model.graph:
        states = [seen[v] for v in node.inputs if v in seen]
        level, shrunk = max((s[0] for s in states), default=0), any(s[1] for s in states)
        if node.op_type == "Slice":
            level += shrunk
            shrunk = False
            if level:
                found[node] = level
        elif _may_not_fit(node):
            windows = shrunk = True
        if level or shrunk:
            seen.update(dict.fromkeys(node.outputs, (level, shrunk)))
    inner = [n for n in nodes_of(model.graph) if n.graph is not model.graph]
    if windows or any(_may_not_fit(n) for n in inner):
        found |= {n: _MOST + 1 for n in inner if n.op_type == "Slice"}
    return found


def _may_not_fit(node: ir.Node) -> bool:
    """Whether a node's output may have a size below 1, whatever goes in; not of a graph's input
    that is large enough."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Pad":
        array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        own = node.attributes.get_ints("pads", ())
        given = own if array is None else array.reshape(-1).tolist()
        return any(int(p) < 0 for p in given)  # of pads that the run computes it makes no sizes
    if node.op_type not in _OVER | _BACK:
        return False
    if node.attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return False
    spans = _spans(node)
    if spans is None:
        return True
    pads = list(node.attributes.get_ints("pads", ())) or [0] * (2 * len(spans))
    if len(pads) != 2 * len(spans):
        return True
    around = [a + b for a, b in zip(pads, pads[len(spans) :], strict=False)]
    if node.op_type in _BACK:
        return any(a >= s for a, s in zip(around, spans, strict=True))
    image = node.inputs[0]
    dims = all_dims(image.shape)[2:] if image is not None and image.is_graph_input() else []
    sizes = [d if isinstance(d, int) else 1 for d in dims] or [1] * len(spans)
    if len(sizes) != len(spans):
        return True
    return any(n + a < s for n, a, s in zip(sizes, around, spans, strict=True))


def _spans(node: ir.Node) -> list[int] | None:
    """How far a node's window reaches, per axis; None where that isn't known."""
    kernel = list(node.attributes.get_ints("kernel_shape", ()))
    at = 3 if node.op_type == "QLinearConv" else 1
    if not kernel:
        weight = node.inputs[at] if len(node.inputs) > at else None
        dims = [] if weight is None else all_dims(weight.shape)[2:]
        kernel = [d for d in dims if isinstance(d, int)]
        if not dims or len(kernel) < len(dims):
            return None
    steps = list(node.attributes.get_ints("dilations", ())) or [1] * len(kernel)
    if len(steps) != len(kernel):
        return None
    return [(k - 1) * d + 1 for k, d in zip(kernel, steps, strict=True)]
