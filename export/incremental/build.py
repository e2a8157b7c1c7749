"""Writes the three graphs: clean (the image's own activations), patch (boxes), tail (the rest).

A table holds a tensor's rows of C channels, one row per position: those of the clean map, then
two rows of constants (what padding reads). A Gather with an index per patch position makes the
clean surroundings of a box, a ScatterND puts the box there: halo, padding at the map's border and
alignment of strides in one. ONNX Runtime fuses the transposes around it into its layout change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ..emit import Emitter, dim_of
from ..lowering.blocked import blocked, depthwise
from .clean import FLOAT, TO_NHWC, as_model, clean_graph, new_graph
from .copying import Copier, like
from .feeds import Around, Feed, Into, Mixed, Outside, Patch, Places, Rooted, Share
from .intervals import POINT, ZERO, Extent
from .local import Local, channels, spatial
from .trace import Read, Trace

INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64
TO_NCHW = (0, 3, 1, 2)
# ONNX Runtime keeps these in its blocked layout only if all inputs are there already. What is
# gathered enters it by a depthwise identity; a convolution then takes an Add up into itself.
JOINING = frozenset(("Add", "Sum", "Concat"))


@dataclass
class Graphs:
    """The graphs, and the inputs of the patch graph that are computed from the windows.

    crossings: names of what the patch graph hands to the tail, in order; crossing_bytes: their
    size per variant. tables: the tensors whose clean rows the patch graph reads.
    """

    clean: ir.Model
    patch: ir.Model
    tail: ir.Model
    feeds: dict[str, Feed]
    crossings: tuple[str, ...]
    crossing_bytes: int
    tables: tuple[ir.Value, ...]


@dataclass
class _Patch:
    """The patch graph while it is written."""

    trace: Trace
    graph: ir.Graph
    e: Emitter
    copier: Copier
    places: Sequence[Places]
    boxes: dict[ir.Value, ir.Value] = field(default_factory=dict)
    feeds: dict[str, Feed] = field(default_factory=dict)
    tables: dict[ir.Value, ir.Value] = field(default_factory=dict)
    plain: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _names: dict[Feed, ir.Value] = field(default_factory=dict)
    _sizes: dict[Extent, str] = field(default_factory=dict)
    _patches: dict[Patch, str] = field(default_factory=dict)

    def input(self, name: str, dtype: ir.DataType | None, shape: list[int | str]) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype or FLOAT))
        self.graph.inputs.append(value)
        return value

    def feed(self, feed: Feed, stem: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
        """The input that carries a feed; equal feeds are one input."""
        if feed not in self._names:
            name = f"{stem}/{len(self._names)}"
            self._names[feed] = self.input(name, dtype, shape)
            self.feeds[name] = feed
        return self._names[feed]

    def dims(self, extent: Extent) -> list[int | str]:
        """Names of a box's sizes, the same for boxes of one extent: the runtime then knows that
        they are equal, and keeps sums in its blocked layout."""
        stem = self._sizes.setdefault(extent, str(len(self._sizes)))
        return [f"h{stem}", f"w{stem}"]

    def table(self, source: ir.Value) -> ir.Value:
        """Clean rows and constants (for a root, its backgrounds' rows behind): an input."""
        count = channels(source)
        if source not in self.tables:
            name = f"rows/{source.name}"
            self.tables[source] = self.input(name, source.dtype, [f"{name}/count", count])
        return self.tables[source]

    def rows(self, read: Read | None, source: ir.Value) -> ir.Value:
        """Patches [n, ph, pw, C]; without a read, the whole map of every variant.

        The boxes are scattered into gathered clean surroundings; where a patch leaves some of a
        box out, both are gathered from one table, which must first be written.
        """
        have, count = self.trace.extents[source], channels(source)
        pad_row = read.pad_row if read else ZERO
        where = Patch(have.size, read.target if read else None, read.stencil if read else POINT)
        dims = self.patch_dims(where)
        table, e = self.table(source), self.e
        if source in self.trace.prepared.roots:
            index = self.feed(Rooted(where, pad_row, have), "index", INT32, ["n", *dims])
            return e.Gather(table, index, axis=0, _shape=["n", *dims, count])
        box = e.Transpose(self.boxes[source], perm=TO_NHWC)
        if all(where.contains(have, places) for places in self.places):
            index = self.feed(Around(where, pad_row), "index", INT32, ["n", *dims])
            clean = e.Gather(table, index, axis=0, _shape=["n", *dims, count])
            into = self.feed(Into(where, have), "into", INT64, ["n", *self.dims(have), 3])
            return e.ScatterND(clean, into, box, _shape=["n", *dims, count])
        index = self.feed(Mixed(where, pad_row, have), "index", INT32, ["n", *dims])
        both = e.Concat(table, e.Reshape(box, [-1, count]), axis=0)
        return e.Gather(both, index, axis=0, _shape=["n", *dims, count])

    def patch_dims(self, where: Patch) -> list[int | str]:
        if where.target is None:
            return list(where.size)
        if where.stencil.identity or where.stencil.picks:
            return self.dims(where.target)
        stem = self._patches.setdefault(where, str(len(self._patches)))
        return [f"p{stem}", f"q{stem}"]

    def patch(self, read: Read, joining: bool = False) -> ir.Value:
        """The patch [n, C, ph, pw] that a local node reads; see JOINING."""
        if self.trace.is_direct(read):
            return self.boxes[read.source]
        found = self.e.Transpose(self.rows(read, read.source), perm=TO_NCHW)
        return depthwise(self.e, found, 1.0) if joining and blocked(found) else found

    def add(self, node: ir.Node) -> None:
        """One local node, on boxes."""
        how = self.trace.local[node]
        reads = self.trace.reads(node)
        inputs = [
            self.copier.value(value) if read is None else self.patch(read, node.op_type in JOINING)
            for value, read in zip(node.inputs, reads, strict=True)
        ]
        if how.kind == "mean":
            self.boxes[node.outputs[0]] = self.mean(node, inputs[0])
            return
        if how.kind == "pad":
            self.boxes[node.outputs[0]] = inputs[0]  # type: ignore[assignment]
            return
        attributes = (
            how.attributes
            if how.kind == "sweep"
            else {name: attribute.value for name, attribute in node.attributes.items()}
        )
        if how.stencil.picks:
            attributes = {**attributes, "strides": (1, 1)}
        out = node.outputs[0]
        made = self.e.op(
            node.op_type,
            inputs,
            _outputs=len(node.outputs),
            _dtype=out.dtype,
            _shape=self.shape(out),
            **attributes,
        )
        for value, box in zip(node.outputs, made, strict=True):
            if value.name:
                like(box, value).shape = ir.Shape(self.shape(value))
                self.boxes[value] = box
        if how.limits is not None:
            self.boxes[out] = self.average(out, how)

    def shape(self, value: ir.Value) -> list[int | str]:
        return ["n", channels(value), *self.dims(self.trace.extents[value])]

    def average(self, out: ir.Value, how: Local) -> ir.Value:
        """An average over whole windows, corrected where fewer positions count."""
        assert how.limits is not None
        extent = self.trace.extents[out]
        share = self.feed(
            Share(extent, how.stencil, how.limits), "share", FLOAT, ["n", 1, *self.dims(extent)]
        )
        return self.e.Mul(self.boxes[out], self.e.cast(share, out.dtype), _shape=self.shape(out))

    def mean(self, node: ir.Node, box: ir.Value | None) -> ir.Value:
        """(sum over the box + the clean map outside it) / (H * W)."""
        source, out = node.inputs[0], node.outputs[0]
        assert source is not None
        count = channels(source)
        extent = self.trace.extents[source]
        area = extent.size[0] * extent.size[1]
        if source not in self.plain:
            self.plain[source] = self.input(f"plain/{source.name}", source.dtype, [area, count])
        outside = self.feed(Outside(extent), "outside", FLOAT, ["n", area])
        inside = self.e.ReduceSum(box, [2, 3], keepdims=0, _shape=["n", count])
        around = self.e.MatMul(self.e.cast(outside, source.dtype), self.plain[source])
        total = self.e.Mul(self.e.Add(inside, around), 1.0 / area)
        if out.shape is None or len(out.shape) == 4:
            total = self.e.Reshape(total, [-1, count, 1, 1])
        return total


def build(trace: Trace, backgrounds: int, places: Sequence[Places]) -> Graphs:
    """The graphs of a trace. backgrounds: channel groups that windows hide. places: the batches
    that will go through."""
    opsets = dict(trace.prepared.model.graph.opset_imports)
    graph = new_graph("patch", opsets)
    patch = _Patch(trace, graph, Emitter(graph, opsets[""]), Copier(graph), places)
    for node in trace.nodes:
        if node in trace.local:
            patch.add(node)
    tail_graph = new_graph("tail", opsets)
    tail = Copier(tail_graph)
    e = Emitter(tail_graph, opsets[""])
    means = [n.outputs[0] for n, how in trace.local.items() if how.kind == "mean"]
    crossings = []
    crossing_bytes = 0
    for value in (*trace.crossings(), *means):
        dims: list[int | str] = []
        if value in means:
            out = patch.boxes[value]
            dims = ["n", *([channels(value), 1, 1] if spatial(value) else [_last(value)])]
        else:
            out = patch.rows(None, value)
            dims = ["n", *trace.extents[value].size, channels(value)]
        out = patch.e.Identity(out) if out in graph.outputs else out
        out.name = f"cross/{value.name}"
        like(out, value).shape = ir.Shape(dims)
        graph.outputs.append(out)
        entered = ir.Value(name=out.name, shape=out.shape, type=ir.TensorType(value.dtype or FLOAT))
        tail_graph.inputs.append(entered)
        crossings.append(str(out.name))
        crossing_bytes += 4 * math.prod(d for d in dims if isinstance(d, int))
        if value not in means:
            entered = e.Transpose(entered, perm=TO_NCHW)
            if blocked(entered) and any(use.node.op_type in JOINING for use in value.uses()):
                entered = depthwise(e, entered, 1.0)
        tail.values[value] = entered
    for value in trace.prepared.outputs:
        copied = tail.value(value)
        assert copied is not None
        final = e.Identity(copied) if copied in tail_graph.outputs else copied
        like(final, value).name = str(value.name)
        tail_graph.outputs.append(final)
    clean = clean_graph(trace.prepared, list(patch.tables), list(patch.plain), backgrounds)
    return Graphs(
        clean,
        as_model(graph),
        as_model(tail_graph),
        patch.feeds,
        tuple(crossings),
        crossing_bytes,
        tuple(dict.fromkeys((*patch.tables, *patch.plain))),
    )


def _last(value: ir.Value) -> int:
    assert value.shape is not None
    dim = dim_of(value.shape, len(value.shape) - 1)
    assert isinstance(dim, int)
    return dim
