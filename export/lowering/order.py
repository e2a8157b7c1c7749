"""Where masks stand in the file, for ONNX Runtime's CPU provider.

The runtime's order is its own: depth first from the outputs, of a node's inputs the one that
stands last in the file first. A mask that stands behind the cotangent it is for is then made
before the backward pass begins, with all others, and held until it is its turn. Before all
cotangents, masks are made where they are used: fewer live at once, and what was just written is
read from the cache.
"""

from __future__ import annotations

import onnx_ir as ir

from ..emit import Emitter

# What masks are made of (see `blocked.py`).
_MASKS = frozenset(("Clip", "Conv", "HardSigmoid", "LeakyRelu"))


def put_masks_first(e: Emitter) -> None:
    """Move the nodes that make masks of the model's own tensors before all others of ours."""
    masks: list[ir.Node] = []
    first: ir.Node | None = None
    known: set[ir.Value] = {*e.graph.inputs, *e.graph.initializers.values()}
    for node in e.graph:
        ours = (node.name or "").startswith("backlight/")
        reads = [v for v in node.inputs if v is not None]
        mask = ours and node.op_type in _MASKS and all(v in known for v in reads)
        if mask or not ours:
            known.update(node.outputs)
        if mask and first is not None:
            masks.append(node)
        elif ours and not mask and first is None:
            first = node
    if first is not None and masks:
        e.graph.remove(masks)
        e.graph.insert_before(first, masks)
