"""The exact receptive field of any tensor's units, from the graph alone.

    fields = receptive_fields(model, ["fire4"], size=(227, 227))
    fields["fire4"].box(channel=130, row=5, column=7)     # top, left, bottom, right in pixels

Each unit's box is the smallest rectangle with every pixel that can reach it: windows, strides,
dilation and padding along the way, the union over branches, upsampling, cropping, attention within
windows; after a global operation (a pool, squeeze-and-excitation, attention) the whole image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import ModelError, UsageError
from . import choose
from .emit import all_dims, dim_of
from .graph import ModelLike, load, opset_of
from .inference import settle_shapes
from .span_rules import spans_of
from .spans import EMPTY, Span, Step, compressed

__all__ = ["ReceptiveField", "receptive_fields"]

# Pixels of an image's side: what is larger comes from a broken file.
WIDEST = 2**16


@dataclass(frozen=True)
class ReceptiveField:
    """Of the units of one tensor, without its batch dimension.

    dims: the tensor's own dimensions, batch first. image: height and width in pixels.
    rows, columns: per unit, where its field begins and (minus) ends; see `export.spans`.
    free_rows, free_columns: the same with no borders in the way.
    """

    tensor: str
    dims: tuple[int, ...]
    image: tuple[int, int]
    rows: Span
    columns: Span
    free_rows: Span
    free_columns: Span

    @cached_property
    def axes(self) -> tuple[int, int, int] | None:
        """The tensor's axes of channels, rows and columns; None for one without rows and
        columns (a vector, tokens in a line, a volume)."""
        if len(self.dims) != 4:
            return None
        by_row = {axis for axis in (1, 2, 3) if self.rows.shape[axis + 1] > 1}
        by_column = {axis for axis in (1, 2, 3) if self.columns.shape[axis + 1] > 1}
        # Channels may see different things (after a Concat); rows don't see other columns. Where
        # both change along one axis, that is a line of tokens.
        for channels, y, x in ((1, 2, 3), (3, 1, 2)):
            if x not in by_row and y not in by_column:
                return channels, y, x
        return None

    @property
    def is_spatial(self) -> bool:
        """Whether the tensor has rows and columns, more than one unit of them."""
        axes = self.axes
        return axes is not None and self.dims[axes[1]] * self.dims[axes[2]] > 1

    def boxes(
        self, channel: NDArray[np.int64], row: NDArray[np.int64], column: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Top, left, bottom, right (half open) in pixels, int64 [..., 4], of the units at these
        indices; all 0 for a unit that no pixel reaches. Raises UsageError without rows."""
        axes = self._spatial_axes()
        at: list[NDArray[np.int64]] = [np.zeros_like(row)] * 4
        for axis, index in zip(axes, (channel, row, column), strict=True):
            at[axis] = index
        ends = []
        for span in (self.rows, self.columns):
            # A dimension along which nothing changes has size 1.
            where = tuple(np.minimum(i, n - 1) for i, n in zip(at, span.shape[1:], strict=True))
            ends += [span[0][where], 1 - span[1][where]]
        top, bottom, left, right = ends
        found = np.stack([top, left, bottom, right], axis=-1)
        empty = (bottom <= top) | (right <= left)
        return np.where(empty[..., None], 0, found)

    def box(self, channel: int, row: int, column: int) -> tuple[int, int, int, int]:
        """The box of one unit."""
        one = (np.array(i, np.int64) for i in (channel, row, column))
        top, left, bottom, right = self.boxes(*one).tolist()
        return top, left, bottom, right

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the largest field, as if no border cut it."""
        return self._size(self.free_rows), self._size(self.free_columns)

    @staticmethod
    def _size(span: Span) -> int:
        seen = span[0] < EMPTY // 2
        return int((1 - span[1] - span[0])[seen].max()) if seen.any() else 0

    def size_of(self, channel: int) -> tuple[int, int]:
        """As `size`, of one channel's units: after a Concat they differ. Raises UsageError."""
        axis = self._spatial_axes()[0] + 1
        rows, columns = (
            span.take([min(channel, span.shape[axis] - 1)], axis)
            for span in (self.free_rows, self.free_columns)
        )
        return self._size(rows), self._size(columns)

    @cached_property
    def jump(self) -> tuple[float, float] | None:
        """Pixels between the fields of neighbouring units, down and across; None where there is
        one unit only. 0: all of them see the same."""
        axes = self.axes
        if axes is None or 1 in (self.dims[axes[1]], self.dims[axes[2]]):
            return None
        return (
            self._slope(self.free_rows, axes[1] + 1),
            self._slope(self.free_columns, axes[2] + 1),
        )

    @staticmethod
    def _slope(span: Span, axis: int) -> float:
        """The middle of a field goes on by this much, on average."""
        count = span.shape[axis]
        if count == 1:
            return 0.0
        line = np.moveaxis(span, axis, -1).reshape(2, -1, count)[:, -1]
        middle = (line[0] - line[1]) / 2
        return float((middle[-1] - middle[0]) / (count - 1))

    @cached_property
    def offset(self) -> tuple[int, int]:
        """Where the first unit's field begins, down and across; negative: in the padding."""
        rows, columns = self.free_rows[0], self.free_columns[0]
        return int(rows.min()), int(columns.min())

    @property
    def is_whole(self) -> bool:
        """Whether every unit sees the whole image."""
        ends = zip((self.rows, self.columns), self.image, strict=True)
        return all(bool((s[0] <= 0).all() and (-s[1] >= n - 1).all()) for s, n in ends)

    def __str__(self) -> str:
        if self.is_whole:
            return "whole image"
        (height, width), jump = self.size, self.jump
        text = f"{height} x {width}"
        if jump is not None:
            down, across = jump
            text += f", every {down:g}" + ("" if down == across else f" x {across:g}")
        return text

    def _spatial_axes(self) -> tuple[int, int, int]:
        if self.axes is None:
            raise UsageError(
                f"'{self.tensor}' has no rows and columns: it is shaped {list(self.dims)}; "
                "expected [N,C,H,W] or [N,H,W,C]"
            )
        return self.axes


def receptive_fields(
    model: ModelLike,
    tensors: Iterable[str] | None = None,
    size: tuple[int, int] | None = None,
) -> dict[str, ReceptiveField]:
    """The receptive fields of tensors, by name.

    model: a path, bytes, a ModelProto or an onnx-ir model; it is not changed.
    tensors: their names; None: every tensor that the image reaches and whose shape is known.
    size: the image's height and width where the model leaves them open; default 224.
    Raises ModelError without an image input, UsageError for an unknown tensor or a size that
    the model doesn't take.
    """
    loaded = load(model)
    graph = loaded.graph
    names = None if tensors is None else [choose.tensor(graph, n).name or "" for n in tensors]
    image = choose.image_input(graph).input
    axes, sizes = _settle(loaded, image, size)
    spans = {
        (axis, beyond): _sweep(loaded, image, axes[axis], sizes[axis], beyond)
        for axis in (0, 1)
        for beyond in (False, True)
    }
    found = {}
    for value, rows in spans[0, False].items():
        if rows is None or value.shape is None or (names is not None and value.name not in names):
            continue
        dims = all_dims(value.shape)
        known = tuple(d for d in dims if isinstance(d, int))
        others = [spans[key][value] for key in ((1, False), (0, True), (1, True))]
        if len(known) < len(dims) or any(s is None or s.ndim != rows.ndim for s in others):
            continue
        columns, free_rows, free_columns = (s for s in others if s is not None)
        name = value.name or ""
        found[name] = ReceptiveField(name, known, sizes, rows, columns, free_rows, free_columns)
    for name in names or ():
        if name not in found:
            raise UsageError(
                f"'{name}' has no receptive field: the image doesn't reach it, or its shape "
                "isn't known; expected a tensor on the image's way"
            )
    return found


def _settle(
    model: ir.Model, image: ir.Value, size: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Fix the input's shape and infer the others. The axes of rows and columns, their sizes."""
    shape = image.shape
    if shape is None or len(shape) not in (3, 4):
        raise ModelError(
            f"input '{image.name}' is no batch of pictures; expected [N,C,H,W] or [N,H,W,C]"
        )
    axes = (1, 2) if len(shape) == 3 or choose.channel_axis(image) == 3 else (2, 3)
    fixed = []
    for axis in range(len(shape)):
        dim = dim_of(shape, axis)
        if axis in axes:
            wanted = None if size is None else size[axes.index(axis)]
            if isinstance(dim, int) and wanted is not None and dim != wanted:
                raise UsageError(
                    f"the size {wanted} doesn't fit input '{image.name}', which takes {dim}"
                )
            side = dim if isinstance(dim, int) else wanted or 224
            if not 1 <= side <= WIDEST:
                raise ModelError(
                    f"input '{image.name}' is {side} pixels wide or high; expected 1 to {WIDEST}"
                )
            fixed.append(side)
        else:
            fixed.append(dim if isinstance(dim, int) else 1 if axis == 0 else 3)
    image.shape = ir.Shape(fixed)
    declared = {}
    for node in model.graph:
        for value in node.outputs:
            declared[value], value.shape = value.shape, None
    settle_shapes(model, f"input '{image.name}' as {fixed}")
    for value, known in declared.items():
        # Behind an operator that inference doesn't know, what the model says itself.
        if known is None or not len(known):
            continue
        inner = all_dims(known)[1:]
        open_ = value.shape is not None and not value.shape.is_static()
        if value.shape is None or (open_ and all(isinstance(d, int) for d in inner)):
            value.shape = ir.Shape([fixed[0], *inner])
    return axes, (fixed[axes[0]], fixed[axes[1]])


def _sweep(
    model: ir.Model, image: ir.Value, axis: int, size: int, beyond: bool
) -> dict[ir.Value, Span | None]:
    """The span of every value along one axis of the image."""
    rank = 0 if image.shape is None else len(image.shape)
    own = np.arange(size, dtype=np.int64).reshape([-1 if a == axis else 1 for a in range(rank)])
    spans: dict[ir.Value, Span | None] = {image: compressed(np.stack([own, -own]))}
    opset = opset_of(model)
    for node in model.graph:
        given = [None if v is None else spans.get(v) for v in node.inputs]
        made = spans_of(Step(node, opset, beyond), given, size)
        spans.update(zip(node.outputs, made, strict=False))
    return spans
