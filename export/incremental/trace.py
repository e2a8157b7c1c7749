"""Follows the windows through the network: the changed box of every tensor, node by node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .intervals import POINT, ZERO, Extent, Pair, Stencil, boxes_extent
from .local import Local, describe, spatial
from .prepare import Prepared


@dataclass(frozen=True)
class Read:
    """A patch of `source`: what a stencil reads to make the boxes of `target`."""

    source: ir.Value
    target: Extent
    stencil: Stencil = POINT
    pad_row: int = ZERO


@dataclass(frozen=True)
class Trace:
    """What of the network can be done on boxes.

    extents: the changed boxes of tensors (equal ones are one object). local: how nodes are done
    on boxes; absent: on whole maps. Nodes are in the model's order, without the prefix.
    """

    prepared: Prepared
    nodes: tuple[ir.Node, ...]
    extents: dict[ir.Value, Extent]
    local: dict[ir.Node, Local]

    def reads(self, node: ir.Node) -> list[Read | None]:
        """The patches that a local node reads; None for inputs that don't depend on the image."""
        how = self.local[node]
        found: list[Read | None] = []
        for value in node.inputs:
            if value is None or value not in self.prepared.varying:
                found.append(None)
            elif how.kind == "mean":
                found.append(Read(value, self.extents[value]))
            else:
                target = self.extents[node.outputs[0]]
                found.append(Read(value, target, how.stencil, how.pad_row))
        return found

    def is_direct(self, read: Read) -> bool:
        """Whether a patch is its source's own box: nothing is gathered."""
        own = read.source not in self.prepared.roots and read.stencil.identity
        return own and self.extents[read.source] is read.target

    def restricted(self, cut: int) -> Trace:
        """The same with the nodes from `cut` on done on whole maps."""
        kept = set(self.nodes[:cut])
        local = {node: how for node, how in self.local.items() if node in kept}
        made = {v for node, how in local.items() if how.kind != "mean" for v in node.outputs}
        extents = {v: e for v, e in self.extents.items() if v in made or v in self.prepared.roots}
        return Trace(self.prepared, self.nodes, extents, local)

    def crossings(self) -> Iterator[ir.Value]:
        """Tensors with boxes that a node on whole maps reads, or that are wanted themselves."""
        ends = set(self.prepared.outputs)
        outside = set(self.nodes) - set(self.local)
        for value in self.extents:
            if value in ends or any(use.node in outside for use in value.uses()):
                yield value


def trace(prepared: Prepared, boxes: NDArray[np.int32]) -> Trace:
    """Follow windows, int32 [n, 6], as far as operators allow."""
    lo, hi = boxes_extent(boxes)
    known: dict[tuple[object, ...], Extent] = {}

    def interned(extent: Extent) -> Extent:
        return known.setdefault(extent.key, extent)

    extents: dict[ir.Value, Extent] = {}
    for root in prepared.roots:
        size = spatial(root)
        assert size is not None
        extents[root] = interned(Extent(size, lo, hi))
    local: dict[ir.Node, Local] = {}
    nodes = tuple(n for n in prepared.nodes if n not in prepared.prefix)
    for node in nodes:
        varying = tuple(v is not None and v in prepared.varying for v in node.inputs)
        moving = [v for v, moves in zip(node.inputs, varying, strict=True) if moves]
        if not moving or any(v not in extents for v in moving):
            continue
        how = describe(node, varying)
        if how is None:
            continue
        local[node] = how
        if how.kind == "mean":
            continue
        extent = extents[moving[0]]  # type: ignore[index]
        for value in moving[1:]:
            extent = extent.union(extents[value])  # type: ignore[index]
        size = _size(node.outputs)
        extent = extent.through(how.stencil, size)
        for value in node.outputs:
            extents[value] = interned(extent)
    return Trace(prepared, nodes, extents, local)


def _size(values: Sequence[ir.Value]) -> Pair:
    size = spatial(next(v for v in values if v.name))
    assert size is not None
    return size
