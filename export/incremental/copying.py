"""Copies nodes of a model into another graph, with the weights they need."""

from __future__ import annotations

import onnx_ir as ir

from ...errors import ModelError


def like(made: ir.Value, source: ir.Value) -> ir.Value:
    """`made`, given the type and shape of another value."""
    if source.dtype is not None:
        made.dtype = source.dtype
    made.shape = source.shape
    return made


class Copier:
    """Fills `target` with copies; `values` maps the model's values to the target's.

    What doesn't depend on the image is copied with the nodes that make it, when asked for.
    """

    def __init__(self, target: ir.Graph) -> None:
        self.target = target
        self.values: dict[ir.Value, ir.Value] = {}

    def value(self, source: ir.Value | None) -> ir.Value | None:
        """The copy of a value: known, a weight, or made by copied nodes.

        Raises ModelError for what hangs on the image in a way that boxes can't follow.
        """
        if source is None:
            return None
        if source in self.values:
            return self.values[source]
        if source.const_value is not None and source.producer() is None:
            made = ir.Value(name=source.name, const_value=source.const_value)
            like(made, source)
            self.target.register_initializer(made)
            self.values[source] = made
            return made
        producer = source.producer()
        if producer is None:
            raise ModelError(f"'{source.name}' can't be followed by boxes: it reads the batch")
        self.node(producer)
        return self.values[source]

    def node(self, source: ir.Node) -> None:
        """Copy a node, and first whatever makes its inputs."""
        pending = [source]
        while pending:
            node = pending[-1]
            producers = [
                v.producer()
                for v in node.inputs
                if v is not None and v not in self.values and v.producer() is not None
            ]
            if producers:
                pending += [p for p in producers if p is not None]
                continue
            pending.pop()
            if node.outputs[0] not in self.values:
                self._copy(node)

    def _copy(self, node: ir.Node) -> None:
        if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
            raise ModelError(f"node '{node.name}' ({node.op_type}) has a subgraph")
        inputs = [self.value(v) for v in node.inputs]
        outputs = []
        for value in node.outputs:
            made = like(ir.Value(name=value.name), value)
            self.values[value] = made
            outputs.append(made)
        copied = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            outputs=outputs,
            name=node.name,
        )
        self.target.append(copied)
