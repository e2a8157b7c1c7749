"""What a node costs on boxes and on whole maps, from shapes alone; where to leave the boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import traits
from ..emit import all_dims, dim_of
from .intervals import POINT, Extent, Ints, Stencil
from .local import channels, spatial
from .trace import Read, Trace

# What a runtime fuses into the convolution before it.
_FUSED = frozenset("Add BatchNormalization Clip LeakyRelu Relu Sigmoid Tanh Identity".split())
# What moves no bytes.
_FREE = traits.RESHAPES | {"Constant", "Shape"}
FLOAT_BYTES = 4  # bytes; float16 has the same ratios


@dataclass(frozen=True)
class Machine:
    """Speeds of one core, for ratios: measured on an AMD Zen 3 core with ONNX Runtime 1.32.

    flops: dense and 1x1 convolutions, per second. depthwise: convolutions of few channels per
    group. stream: bytes per second of elementwise work, read and written. gather: bytes per
    second of patches through table, gather and layout change; row: seconds per gathered row.
    node: seconds to start what one of the model's nodes becomes, with its
    indices. batch: bytes of the largest patch tensor in a batch, which has a core to itself.
    """

    flops: float = 80e9
    depthwise: float = 20e9
    stream: float = 8e9
    gather: float = 4e9
    row: float = 8e-9
    node: float = 150e-6
    batch: float = 2e6


MACHINE = Machine()


@dataclass(frozen=True)
class Estimate:
    """cut: nodes done on boxes; seconds per variant, so and on whole maps."""

    cut: int
    seconds: float
    dense: float

    @property
    def speedup(self) -> float:
        """Dense over incremental."""
        return self.dense / self.seconds


@dataclass(frozen=True)
class Term:
    """Seconds per position of a box, or of the patch that a stencil reads to make it."""

    extent: Extent
    stencil: Stencil
    seconds: float

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(factor, summand) per axis: a side is the box's length times the one plus the other."""
        if self.stencil.picks:
            return (1, 0), (1, 0)
        strides, spans = self.stencil.stride, (self.stencil.span(0), self.stencil.span(1))
        return (strides[0], spans[0] - strides[0]), (strides[1], spans[1] - strides[1])

    def areas(self, lengths: Ints) -> NDArray[np.float64]:
        """Positions for box sizes int64 [2, n]."""
        y, x = (factor * n + add for (factor, add), n in zip(self.sides, lengths, strict=True))
        return np.asarray(y * x, np.float64)


def work(node: ir.Node, machine: Machine) -> float:
    """Seconds per output position of one node; 0 where it melts into the convolution before."""
    out = node.outputs[0]
    # What reads nothing is a constant (or as good as one): there before the first variant is.
    if spatial(out) is None or not node.inputs:
        return 0.0
    count = channels(out)
    if node.op_type == "Conv" and node.domain == "":
        each, *sides = _taps(node)
        rate = machine.depthwise if each < 4 else machine.flops
        bytes_moved = FLOAT_BYTES * (count + each)
        return float(2 * count * each * math.prod(sides)) / rate + bytes_moved / machine.stream
    if node.op_type in _FUSED and _origin(node).op_type == "Conv":
        return 0.0
    if node.op_type in ("MaxPool", "AveragePool"):
        kernel = node.attributes.get_ints("kernel_shape", (1, 1))
        return FLOAT_BYTES * count * (1 + float(np.prod(kernel))) / (2 * machine.stream)
    reads = sum(v is not None and spatial(v) is not None for v in node.inputs)
    return FLOAT_BYTES * count * (1 + reads) / machine.stream


def _taps(node: ir.Node) -> list[int]:
    """What a convolution sums per output: channels of a group, then the kernel's sides. Weights of
    unknown size (computed ones) count as 1 along that axis."""
    weight = node.inputs[1]
    if weight is None or weight.shape is None or len(weight.shape) < 2:
        return [1]
    dims = all_dims(weight.shape)[1:]
    return [d if isinstance(d, int) else 1 for d in dims]


def _origin(node: ir.Node) -> ir.Node:
    """The first node up the chain of first inputs that doesn't melt into the one before it."""
    while node.op_type in _FUSED and node.inputs and node.inputs[0] is not None:
        producer = node.inputs[0].producer()
        if producer is None:
            break
        node = producer
    return node


def _gathered(count: int, machine: Machine) -> float:
    return machine.row + FLOAT_BYTES * count / machine.gather


def terms(trace: Trace, node: ir.Node, seen: set[Read], machine: Machine) -> list[Term]:
    """What a local node costs: its patches (each made once, see `seen`) and its work."""
    found = []
    out = trace.extents.get(node.outputs[0])
    if out is not None:
        found.append(Term(out, POINT, work(node, machine)))
    for read in trace.reads(node):
        if read is None or trace.is_direct(read) or read in seen:
            continue
        seen.add(read)
        count = channels(read.source)
        found.append(Term(read.target, read.stencil, _gathered(count, machine)))
        found.append(Term(trace.extents[read.source], POINT, FLOAT_BYTES * count / machine.stream))
    return found


def whole_work(node: ir.Node, machine: Machine) -> float:
    """Seconds of a node on whole maps, or on tensors of any other rank."""
    size = spatial(node.outputs[0])
    if size is not None:
        return work(node, machine) * size[0] * size[1]
    if node.op_type in _FREE or not node.inputs:
        return 0.0
    made = max(_elements(node.outputs[0]), 1)
    if node.op_type in ("Gemm", "MatMul") and node.inputs[0] is not None:
        shape = node.inputs[0].shape
        summed = dim_of(shape, len(shape) - 1) if shape is not None and len(shape) else 1
        return 2 * made * (summed if isinstance(summed, int) else 1) / machine.flops
    read = sum(_elements(v) for v in node.inputs if v is not None and v.const_value is None)
    return FLOAT_BYTES * (made + read) / machine.stream


def dense_seconds(graph: ir.Graph, machine: Machine = MACHINE) -> float:
    """Seconds of one core for one variant on whole maps, of a graph whose shapes are known."""
    return sum(whole_work(node, machine) for node in graph)


def _elements(value: ir.Value) -> int:
    """Elements per row of the batch, as far as they are known."""
    if value.shape is None:
        return 0
    dims = all_dims(value.shape)[1:]
    return math.prod(d for d in dims if isinstance(d, int)) if dims else 0


def estimate(trace: Trace, machine: Machine = MACHINE, cut: int | None = None) -> Estimate:
    """Seconds per variant, and the cut where they are fewest (or those of a given cut)."""
    place = {node: i for i, node in enumerate(trace.nodes)}
    count = len(trace.nodes)
    local, dense = np.zeros(count), np.zeros(count)
    seen: set[Read] = set()
    for i, node in enumerate(trace.nodes):
        if any(v in trace.prepared.varying for v in node.inputs):
            dense[i] = whole_work(node, machine)
        local[i] = dense[i]
        if node in trace.local:
            local[i] = sum(
                t.seconds * float(t.areas(t.extent.lengths).mean())
                for t in terms(trace, node, seen, machine)
            )
    # A tensor crosses at every cut between the node that makes it and the last that reads it.
    crossing = np.zeros(count + 1)
    ends = set(trace.prepared.outputs)
    for value, extent in trace.extents.items():
        producer = value.producer()
        first = place[producer] + 1 if producer in place else 0
        users = [use.node for use in value.uses() if use.node in place]
        away = value in ends or any(node not in trace.local for node in users)
        last = count if away else max((place[node] for node in users), default=-1)
        area = extent.size[0] * extent.size[1]
        crossing[first : last + 1] += area * _gathered(channels(value), machine)
    before = np.concatenate([[0.0], np.cumsum(local)])
    after = np.concatenate([np.cumsum(dense[::-1])[::-1], [0.0]])
    total = before + after + crossing
    chosen = int(np.argmin(total)) if cut is None else min(max(cut, 0), count)
    return Estimate(chosen, float(total[chosen]), float(dense.sum()))
