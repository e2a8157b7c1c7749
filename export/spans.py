"""What part of an image axis each element of a tensor depends on, operator by operator.

A span is int64 [2, *dims]: for each element the first pixel row (or column) that reaches it, and
minus the last one, so that a union is a minimum. A dimension along which nothing changes has size
1, whatever the tensor's. EMPTY in both places: no pixel reaches the element.

The rules of the operators are in `span_rules.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .emit import dim_of
from .rules.op import constant

Span = NDArray[np.int64]

EMPTY = 2**40
# Padding that no picture has: what a file says of it isn't tried out.
MOST = 2**20
# Elements of a span, and those that are read to make one: what is larger comes from a broken file.
LARGEST, MOST_READ = 2**24, 2**30


class UnknownShapeError(Exception):
    """A shape that the rule needs isn't known: the caller takes the whole image."""


@dataclass(frozen=True)
class Step:
    """A node on the way. `beyond`: padding goes on as the image would, without end; for the
    size of a field that no border cuts."""

    node: ir.Node
    opset: int
    beyond: bool = False

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def text(self, name: str, default: str) -> str:
        """A string attribute's value."""
        value = self.attr(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def const(self, index: int) -> NDArray[Any] | None:
        """A constant input's value; None where it is left out. Raises UnknownShapeError."""
        if index >= len(self.node.inputs) or self.node.inputs[index] is None:
            return None
        found = constant(self.node.inputs[index])
        if found is None:
            raise UnknownShapeError
        return found

    def dims(self, value: ir.Value | None = None) -> tuple[int, ...]:
        """A value's dimensions (default: the first output's). Raises UnknownShapeError."""
        value = self.node.outputs[0] if value is None else value
        if value.shape is None:
            raise UnknownShapeError
        found = []
        for axis in range(len(value.shape)):
            dim = dim_of(value.shape, axis)
            if not isinstance(dim, int):
                raise UnknownShapeError
            found.append(dim)
        return tuple(found)

    def given(self, index: int = 0) -> tuple[int, ...]:
        """The dimensions of an input."""
        return self.dims(self.node.inputs[index])


def compressed(span: Span) -> Span:
    """Dimensions along which nothing changes, cut to size 1."""
    for axis in range(1, span.ndim):
        if span.shape[axis] > 1:
            first = span.take([0], axis)
            if (span == first).all():
                span = first
    return span


def whole(rank: int, size: int) -> Span:
    """The span of elements that depend on the whole axis."""
    return np.array([0, 1 - size], np.int64).reshape(2, *[1] * rank)


def merged(span: Span, axes: Sequence[int], keep: bool = True) -> Span:
    """The union along tensor axes. Raises UnknownShapeError for axes that the span hasn't got."""
    rank = span.ndim - 1
    if not all(-rank <= a < rank for a in axes):
        raise UnknownShapeError
    return np.asarray(span.min(axis=tuple(a % rank + 1 for a in axes), keepdims=keep))


def affordable(made: int, read: int = 0) -> None:
    """Raise UnknownShapeError for a span of more elements than fit, or made from too many: then
    every unit is taken to see the whole image."""
    if made > LARGEST or read > MOST_READ:
        raise UnknownShapeError


def full(span: Span, dims: tuple[int, ...]) -> Span:
    """Every dimension at the tensor's own size. Raises UnknownShapeError."""
    affordable(2 * math.prod(dims))
    return np.broadcast_to(span, (2, *dims))


def union(spans: Sequence[Span | None]) -> Span:
    """Of operands that broadcast: an element depends on what any of them depends on."""
    known = [s for s in spans if s is not None]
    rank = max(s.ndim for s in known)
    return reduce(np.minimum, (s.reshape(2, *[1] * (rank - s.ndim), *s.shape[1:]) for s in known))


def stretched(span: Span, axis: int, before: int, after: int, step: Step) -> Span:
    """An axis with padding: EMPTY, or going on in even steps. Negative padding cuts."""
    count = span.shape[axis]
    if before + after > MOST:
        raise UnknownShapeError
    affordable(span.size // count * max(count + before + after, 0))
    at = np.arange(-before, count + after)
    found = span.take(at.clip(0, count - 1), axis)
    shape = [1] * span.ndim
    shape[axis] = len(at)
    outside = np.where(at < 0, at, np.maximum(at - count + 1, 0)).reshape(shape)
    if not step.beyond:
        return np.where(outside != 0, EMPTY, found)
    if count == 1:
        return found
    first = span.take([1], axis) - span.take([0], axis)
    last = span.take([-1], axis) - span.take([-2], axis)
    return np.asarray(found + outside * np.where(outside < 0, first, last))


def slid(
    span: Span, axis: int, out: int, kernel: int, stride: int, hop: int, before: int, step: Step
) -> Span:
    """A window of `kernel` positions, `hop` apart, over a tensor axis."""
    if span.shape[axis] == 1:
        return span
    if min(out, kernel, stride, hop) < 1:
        raise UnknownShapeError
    last = (out - 1) * stride + (kernel - 1) * hop - before
    padded = stretched(span, axis, before, max(last - span.shape[axis] + 1, 0), step)
    made = padded.size // max(padded.shape[axis], 1) * out
    affordable(made)
    # Windows of twice as many taps, until they are whole: all taps at once would take as many
    # times the memory.
    found, taps = np.moveaxis(padded, axis, 0), 1
    while taps < kernel:
        more = min(taps, kernel - taps)
        ahead = found[more * hop :]
        found, taps = np.minimum(found[: len(ahead)], ahead), taps + more
    return np.moveaxis(found[np.arange(out) * stride], 0, axis)


def grouped(span: Span, groups: int, channels: int, out: int) -> Span:
    """Channels mixed within their group, `out` of them made."""
    if span.shape[2] == 1:
        return span
    rest = span.shape[3:]
    if groups < 1 or channels % groups or out % groups:
        raise UnknownShapeError
    affordable(span.size // span.shape[2] * out)
    each = span.reshape(2, span.shape[1], groups, channels // groups, *rest).min(axis=3)
    return np.repeat(each, out // groups, axis=2)


def pads_before(step: Step, reach: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Padding before each spatial axis."""
    n = len(reach)
    auto = step.text("auto_pad", "NOTSET") or "NOTSET"
    if auto in ("NOTSET", "VALID"):
        return list(step.attr("pads", [0] * (2 * n)))[:n] if auto == "NOTSET" else [0] * n
    begins = []
    for size, out, r, s in zip(step.given()[2:], step.dims()[2:], reach, strides, strict=True):
        total = max((out - 1) * s + r - size, 0)
        begins.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return begins
