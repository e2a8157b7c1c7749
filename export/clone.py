"""A second forward pass over other images: nodes copied within a graph, weights shared."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import onnx_ir as ir

from ..errors import UnsupportedNode
from .emit import Emitter, all_dims
from .rules.op import constant

__all__ = ["between", "copied", "copy_of", "refuse_fixed_batch"]


def between(of: Sequence[ir.Value], start: ir.Value) -> list[ir.Node]:
    """The nodes that depend on `start` in any way, shapes too, and that `of` depends on; in graph
    order."""
    needed: set[ir.Node] = set()
    waiting = list(of)
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in needed:
            needed.add(node)
            waiting.extend(v for v in node.inputs if v is not None)
    reached = {start}
    found = []
    graph = next((n.graph for n in needed if n.graph is not None), None)
    for node in graph or ():
        if node in needed and any(v in reached for v in node.inputs):
            found.append(node)
            reached.update(node.outputs)
    return found


def copied(
    e: Emitter, nodes: Sequence[ir.Node], values: Mapping[ir.Value, ir.Value], batch: str | int
) -> dict[ir.Value, ir.Value]:
    """Copies of nodes, reading `values` in place of their own; the batch dimension is called
    `batch`, and no other name of a size means the same here, but for those of `values` themselves
    (a runtime takes tensors of one name for tensors of one size). The values with what the copies
    make. Raises UnsupportedNode for control flow."""
    made = dict(values)
    names = {_rows(v) for v in values} - {None}
    kept = {d for v in values for d in all_dims(v.shape)[1:]}
    for node in nodes:
        if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
            raise UnsupportedNode(
                f"{node.op_type} '{node.name}': control flow can't be run on variants of an image; "
                "supported: graphs without it"
            )
        inputs = [None if v is None else made.get(v, v) for v in node.inputs]
        for value, copy in zip(node.outputs, copy_of(e, node, inputs), strict=True):
            copy.shape = _renamed(value, names, kept, batch)
            made[value] = copy
    return made


def copy_of(e: Emitter, node: ir.Node, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
    """The outputs of a node's copy that reads other tensors: of the same types, of no shape yet."""
    outputs = [ir.Value(name=e.name(node.op_type), type=v.type) for v in node.outputs]
    attributes = list(node.attributes.values())
    name = e.name(f"{node.op_type}_node")
    e.graph.append(
        ir.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs, name=name)
    )
    return outputs


def refuse_fixed_batch(nodes: Sequence[ir.Node], start: ir.Value) -> None:
    """Raise UnsupportedNode where a batch of another size can't go through."""
    rows = _rows(start)
    if isinstance(rows, int):
        raise UnsupportedNode(
            f"'{start.name}' has a fixed batch of {rows}: variants of an image are run as a batch; "
            "supported: a dynamic batch"
        )
    for node in nodes:
        if node.op_type not in ("Reshape", "Expand") or len(node.inputs) < 2:
            continue
        wanted, source = constant(node.inputs[1]), node.inputs[0]
        if wanted is None or source is None or not wanted.size or _rows(source) != rows:
            continue
        first = int(wanted.reshape(-1)[0])
        if first > 1 or (first == 1 and node.op_type == "Reshape"):
            raise UnsupportedNode(
                f"{node.op_type} '{node.name}' makes a batch of {first} whatever comes in: "
                "variants of an image are run as a batch; supported: a dynamic batch"
            )


def _rows(value: ir.Value) -> int | str | None:
    return all_dims(value.shape)[0] if all_dims(value.shape) else None


def _renamed(
    value: ir.Value, names: Container[object], kept: Container[object], batch: str | int
) -> ir.Shape | None:
    if value.shape is None:
        return None
    return ir.Shape(
        [
            d
            if not isinstance(d, str)
            else batch
            if d in names
            else d
            if d in kept
            else f"{d} of {batch}"
            for d in all_dims(value.shape)
        ]
    )
