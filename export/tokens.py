"""Tokens as places: the grid of patches that a transformer's tokens come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from . import traits
from .backward import path
from .emit import Emitter, all_dims, dim_of
from .rules.op import is_fixed

__all__ = ["Grid", "channel_axis", "grid_of", "is_batched", "is_map", "merged", "token_axis"]

# More tokens than this in front of the patches are no class, distillation or register tokens.
MOST_EXTRA = 64
# In NHWC layouts these work on the last axis.
_ON_LAST = traits.CHANNELS_LAST - {"MatMul"}  # which has either operand's
_ON_SECOND = traits.CHANNELS_SECOND | {"PRelu"}
_TURNS = ((0, 2, 1), (0, 2, 3, 1), (0, 3, 1, 2))
_MOVING = traits.SAME | traits.RESHAPES | traits.QUANTIZES | {"Transpose"}


@dataclass(frozen=True)
class Grid:
    """The places of patches. source: a tensor that still has rows and columns; axes: which."""

    source: ir.Value
    axes: tuple[int, int]

    @property
    def sizes(self) -> tuple[int | str | None, int | str | None]:
        """h and w: numbers, names, or None."""
        assert self.source.shape is not None
        return dim_of(self.source.shape, self.axes[0]), dim_of(self.source.shape, self.axes[1])

    @property
    def count(self) -> int | None:
        """h times w, where both are known."""
        height, width = self.sizes
        return height * width if isinstance(height, int) and isinstance(width, int) else None

    def patches(self, e: Emitter, tokens: ir.Value, axis: int) -> ir.Value:
        """The tokens of patches alone: those in front of them (class, distillation, registers)
        dropped."""
        shape = tokens.shape
        assert shape is not None
        extra = self.extra(tokens, axis)
        if extra == 0:
            return tokens
        dims: list[int | str | None] = all_dims(shape)
        dims[axis] = self.count
        last = np.array([np.iinfo(np.int64).max])
        if extra is not None:
            start: ir.Value | list[int] = [extra]
        elif self.count is not None:
            start = [-self.count]
        else:
            start = e.Neg(e.ReduceProd(self._counted(e), keepdims=1))
        return e.Slice(tokens, start, last, [axis], _shape=dims)

    def spread(self, e: Emitter, tokens: ir.Value, axis: int) -> ir.Value:
        """Tokens [N, T, D], axis 1, or [N, D, T], axis 2, as maps [N, D, h, w]."""
        assert tokens.shape is not None
        batch, channels = dim_of(tokens.shape, 0), dim_of(tokens.shape, 3 - axis)
        made = self.patches(e, tokens, axis)
        if axis == 1:
            made = e.Transpose(made, perm=[0, 2, 1])
        return self.folded(e, made, [batch, channels])

    def folded(self, e: Emitter, flat: ir.Value, front: list[int | str | None]) -> ir.Value:
        """The last axis, of patches, as rows and columns. front: the other dimensions."""
        shape = [*front, *self.sizes]
        kept = [0] * len(front)
        if self.count is not None:
            return e.Reshape(flat, [*kept, *(int(str(s)) for s in self.sizes)], _shape=shape)
        wanted = e.Concat(np.array(kept), self._counted(e), axis=0, _dtype=ir.DataType.INT64)
        return e.Reshape(flat, wanted, _shape=shape)

    def extra(self, tokens: ir.Value, axis: int) -> int | None:
        """How many tokens are in front of those of patches; None where that isn't known."""
        assert tokens.shape is not None
        dim = dim_of(tokens.shape, axis)
        return dim - self.count if isinstance(dim, int) and self.count is not None else None

    def _counted(self, e: Emitter) -> ir.Value:
        first, second = (e.Shape(self.source, start=a, end=a + 1) for a in self.axes)
        return e.Concat(first, second, axis=0, _dtype=ir.DataType.INT64)


def grid_of(value: ir.Value, image: ir.Value) -> Grid | None:
    """The grid of the patch embedding behind a tensor: where rows and columns were last merged to
    one axis. None where they never were."""
    for node in reversed(path([value], [image])[0]):
        if node.op_type == "Reshape" and (axes := merged(node)) is not None:
            assert node.inputs[0] is not None
            return Grid(node.inputs[0], axes)
    return None


def merged(node: ir.Node) -> tuple[int, int] | None:
    """The axes of rows and columns that a Reshape makes one of; None for any other."""
    source, made = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or made.shape is None or len(made.shape) != 3:
        return None
    had = all_dims(source.shape)
    got = [dim_of(made.shape, a) for a in range(3)]
    if len(had) in (5, 6):
        # Patches of pixels, for a linear embedding: [N, h, w, p, p, C] -> [N, h w, p p C].
        inner = _product(had[3:])
        rows = _product(had[1:3])
        whole = None not in (inner, rows) and got[1:] == [rows, inner]
        return (1, 2) if whole and not _from_attention(source) else None
    if len(had) != 4 or _from_attention(source):
        return None
    last = got[2] == had[3] and isinstance(had[3], int) and 1 not in had[1:3]
    second = got[1] == had[1] and isinstance(had[1], int) and (had[2], had[3]) != (1, 1)
    last = last and _may_be(got[1], _product(had[1:3]))
    second = second and _may_be(got[2], _product(had[2:4]))
    if last and second:
        second = channel_axis(source) == 1
    return (2, 3) if second else (1, 2) if last else None


def _may_be(dim: int | str | None, wanted: int | None) -> bool:
    return not isinstance(dim, int) or wanted is None or dim == wanted


def _product(dims: list[int | str | None]) -> int | None:
    total = 1
    for dim in dims:
        if not isinstance(dim, int):
            return None
        total *= dim
    return total


def _from_attention(value: ir.Value) -> bool:
    """Whether a tensor is what attention makes, moved about at most: its axes are heads and tokens,
    not rows and columns."""
    node = value.producer()
    while node is not None and node.op_type in _MOVING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None:
        return False
    if node.op_type in ("Attention", "Softmax"):
        return True
    both = [v for v in node.inputs if not is_fixed(v)]
    return node.op_type in ("MatMul", "Einsum") and len(both) > 1


def is_map(value: ir.Value, image: ir.Value) -> bool:
    """Whether a tensor of rank 4 may have rows and columns: what attention makes has heads and
    tokens, unless it is folded to the rows and columns that its tokens came from."""
    if value.shape is None or len(value.shape) != 4 or _is_split(value, image):
        return False
    if not _from_attention(value):
        return True
    grid = grid_of(value, image)
    dims = [dim_of(value.shape, a) for a in range(4)]
    return grid is not None and list(grid.sizes) in (dims[1:3], dims[2:4])


def _is_split(value: ir.Value, image: ir.Value) -> bool:
    """Whether the first axis is more than the batch: windows of images (Swin)."""
    assert value.shape is not None
    if image.shape is None or not len(image.shape):
        return False
    batch, first = dim_of(image.shape, 0), dim_of(value.shape, 0)
    if isinstance(batch, int) and isinstance(first, int):
        return first != batch
    # As torch's newer exporter has it: 16*N.
    return isinstance(batch, str) and isinstance(first, str) and f"*{batch}" in first


def is_batched(value: ir.Value, image: ir.Value) -> bool:
    """Whether the first axis may be the batch: [T, N, D] isn't so."""
    if value.shape is None or image.shape is None:
        return False
    batch, first = dim_of(image.shape, 0), dim_of(value.shape, 0)
    return first == batch if isinstance(batch, int) else not isinstance(first, int)


def token_axis(value: ir.Value, grid: Grid) -> int | None:
    """Which axis of [N, T, D] or [N, D, T] the tokens are on; None where neither can be."""
    assert value.shape is not None and len(value.shape) == 3
    fit = []
    for axis in (1, 2):
        extra = grid.extra(value, axis)
        if extra is None or 0 <= extra <= MOST_EXTRA:
            fit.append(axis)
    if len(fit) < 2:
        return fit[0] if fit else None
    if dim_of(value.shape, 1) == dim_of(value.shape, 2) and _from_attention(value):
        return None  # tokens by tokens
    return 3 - channel_axis(value)


def channel_axis(value: ir.Value) -> int:
    """Where the channels of an inner tensor are: last behind what works on the last axis, else 1;
    of a tensor of rank 3 the other way round, 2 unless something says 1."""
    rank = 0 if value.shape is None else len(value.shape)
    unknown = 2 if rank == 3 else 1
    seen: set[ir.Value] = set()
    waiting: list[ir.Value] = [value]
    while waiting:
        here = waiting.pop(0)
        node = here.producer()
        if here in seen or here.shape is None or len(here.shape) != rank:
            continue
        seen.add(here)
        if node is None:
            if here.is_graph_input():
                return _of_image(here)
            continue
        if node.op_type in _ON_SECOND:
            return 1
        if node.op_type in _ON_LAST:
            return rank - 1
        if node.op_type == "MatMul":
            # By a matrix on its left it mixes the axis before the last.
            return rank - 2 if is_fixed(node.inputs[0]) and rank == 3 else rank - 1
        if node.op_type == "Transpose":
            perm = tuple(node.attributes.get_ints("perm", ()))
            before = node.inputs[0]
            turned = perm.index(channel_axis(before)) if perm in _TURNS and before else None
            if turned is None or (rank, turned) == (4, 2):  # between rows and columns: it wasn't so
                return unknown
            return turned
        if node.op_type == "Gather" and _is_table(node.inputs[0]):
            return rank - 1  # a row of it at each place
        if node.op_type == "Reshape" and rank == 3 and (axes := merged(node)) is not None:
            return 1 if axes == (2, 3) else 2
        if node.op_type == "Reshape" and (moved := _turned(node)) is not None:
            return moved
        waiting += [v for v in node.inputs if v is not None and not v.is_initializer()]
    return unknown


def _is_table(value: ir.Value | None) -> bool:
    """Whether a tensor is an embedding's rows."""
    return (
        value is not None and value.shape is not None and len(value.shape) == 2 and is_fixed(value)
    )


def _turned(node: ir.Node) -> int | None:
    """Where a Reshape puts the channels that moves axes of one position alone: [N, K, 1, 1] to
    [N, 1, 1, K], which converters write for a Transpose. None for any other."""
    before, made = node.inputs[0], node.outputs[0]
    if before is None or before.shape is None or made.shape is None:
        return None
    # Behind the batch, which a Reshape by -1 leaves without a name.
    had, got = all_dims(before.shape)[1:], all_dims(made.shape)[1:]
    wide = [axis for axis, dim in enumerate(got, 1) if dim != 1]
    if (
        len(had) != len(got)
        or had == got
        or [d for d in had if d != 1] != [got[a - 1] for a in wide]
    ):
        return None
    channel = channel_axis(before) - 1
    return None if had[channel] == 1 else wide[sum(d != 1 for d in had[:channel])]


def _of_image(value: ir.Value) -> int:
    from .choose import channel_axis as of_image

    return of_image(value)
