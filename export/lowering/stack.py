"""The rules' passes through one dense layer as one product: its weights are read once.

At a few rows a dense layer takes as long as reading its weights takes. Three rules mean three
products with the same matrix, of cotangents that differ: one product of all their rows costs what
one of them did. (Convolutions compute more than they read; stacked they gain nothing.)
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from ..emit import Emitter

# Elements: a weight of 4 MB; below, Concat and Split cost more than they save.
LEAST = 2**20


def stack_products(e: Emitter) -> None:
    """Replace products of different rows with the same large constant matrix by one."""
    groups: dict[tuple[object, ...], list[ir.Node]] = {}
    for node in e.graph:
        key = _key(node)
        if key is not None:
            groups.setdefault(key, []).append(node)
    changed = False
    for nodes in groups.values():
        apart = _independent(nodes)
        if len(apart) > 1:
            _stack(e, apart)
            changed = True
    if changed:
        e.graph.sort()


def _key(node: ir.Node) -> tuple[object, ...] | None:
    """What products that may be stacked have in common; None for other nodes."""
    if not (node.name or "").startswith("backlight/") or len(node.inputs) != 2:
        return None
    rows, matrix = node.inputs
    if rows is None or matrix is None or rows.shape is None or node.outputs[0].is_graph_output():
        return None
    before = matrix.producer()
    weight = before.inputs[0] if before is not None and before.op_type == "Transpose" else matrix
    if weight is None or weight.const_value is None:
        return None
    attributes = {a.name: a.value for a in node.attributes.values()}
    if node.op_type not in ("Gemm", "MatMul") or attributes.get("transA", 0):
        return None
    if len(rows.shape) != 2 or weight.const_value.size < LEAST:
        return None
    return (node.op_type, id(matrix), *sorted(attributes.items()))


def _independent(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Those of the nodes, in graph order, that don't depend on one taken before."""
    taken: list[ir.Node] = []
    for node in nodes:
        if not any(_depends(node, other) for other in taken):
            taken.append(node)
    return taken


def _depends(node: ir.Node, other: ir.Node) -> bool:
    waiting, seen = [node], {node}
    while waiting:
        for value in waiting.pop().inputs:
            before = None if value is None else value.producer()
            if before is other:
                return True
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    return False


def _stack(e: Emitter, nodes: list[ir.Node]) -> None:
    first = nodes[0]
    with e.scope("stacked"):
        rows = e.op("Concat", [n.inputs[0] for n in nodes], axis=0)[0]
        attributes = {a.name: a.value for a in first.attributes.values()}
        whole = e.op(first.op_type, [rows, first.inputs[1]], **attributes)[0]
        parts = e.op("Split", [whole], _outputs=len(nodes), axis=0, num_outputs=len(nodes))
    for node, part in zip(nodes, parts, strict=True):
        before = node.outputs[0]
        part.shape, part.type = before.shape, before.type
        ir.convenience.replace_all_uses_with(before, part)
        e.graph.remove(node, safe=True)
