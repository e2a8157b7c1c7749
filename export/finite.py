"""Rows that can't be explained get NaN: an image that is not finite, a class that there is not.

Gates hold NaN back as they hold back all else, and rectifiers and pools of some runtimes drop it: a
map would be finite, or NaN in places. So it comes at the end, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from . import seed
from .emit import Emitter, dim_of
from .explaining import Explaining

__all__ = ["Faults"]

FLOAT = ir.DataType.FLOAT
NAN = float("nan")


@dataclass(frozen=True)
class Faults:
    """float32 [N] each: NaN for a row that has a fault, else 0. None where there are no rows.

    rows: the image or the explained score is not finite, or the class in `target` (int64 [N]) is
    below -1 or above the last. against: the same of the class in `contrast`.
    """

    e: Emitter
    rows: ir.Value | None
    against: ir.Value | None

    @classmethod
    def of(cls, x: Explaining) -> Faults:
        """What can be wrong with the rows of an export that explains classes."""
        e = x.e
        with e.rooted(), e.scope("finite"), e.in_float32():
            # Of every class at once none is the one explained.
            # Nor are they at hand where only variants of the image are run.
            none = x.target_class == "all" or x.sampling.held == "parts"
            ofs = () if none else x.of
            explained = [(of, seed.explained(x, i)) for i, of in enumerate(ofs)]
            return cls(
                e, _faults(e, x.image, explained, x.inputs.get("target")),
                _out_of_range(e, x.of[0], x.inputs.get("contrast"), None),
            )  # fmt: skip

    def marked(self, value: ir.Value, wrt: ir.Value, against: bool) -> ir.Value:
        """A map [N, ...] of `wrt`, NaN in rows with a fault; as it is where it has other rows.
        against: whether the class in `contrast` counts."""
        faults = [self.rows, *([self.against] if against else [])]
        found = [fault for fault in faults if _fits(fault, value, wrt)]
        with self.e.in_float32():
            return _with_faults(self.e, value, [fault for fault in found if fault is not None])


def _faults(
    e: Emitter,
    image: ir.Value | None,
    explained: Sequence[tuple[ir.Value, ir.Value]],
    target: ir.Value | None,
) -> ir.Value | None:
    """explained: pairs (scores [N, K, ...], what of them is the explained class's). That class
    alone: others may well be -inf."""
    parts = [] if image is None or not _float(image) else [_zeros(e, image)]
    for of, chosen in explained:
        if image is not None and _same_rows(of, image) and _float(of):
            parts.append(_zeros(e, chosen))
    total: ir.Value | None = None
    for part in parts:
        total = part if total is None else e.Add(total, part)
    return _out_of_range(e, explained[0][0], target, total) if explained else total


def _out_of_range(
    e: Emitter, of: ir.Value, given: ir.Value | None, total: ir.Value | None
) -> ir.Value | None:
    """NaN where a class is none of the scores [N, K, ...], else what the total says."""
    if given is None:
        return total
    count = seed.class_count(of)
    classes = count if count is not None else e.Squeeze(e.Shape(of, start=1, end=2), [0])
    bad = e.Or(e.Less(given, -1), e.GreaterOrEqual(given, classes))
    found = e.Where(bad, NAN, 0.0 if total is None else total, _dtype=FLOAT)
    found.shape = given.shape
    return found


def _fits(fault: ir.Value | None, value: ir.Value, wrt: ir.Value) -> bool:
    """Whether a map [N, ...] of `wrt` has a row for each row that may have a fault."""
    if fault is None or fault.shape is None or value.shape is None or not len(value.shape):
        return False
    return wrt.shape is not None and _rows_alike(dim_of(fault.shape, 0), dim_of(wrt.shape, 0))


def _with_faults(e: Emitter, value: ir.Value, faults: Sequence[ir.Value]) -> ir.Value:
    if not faults:
        return value
    fault = faults[0] if len(faults) == 1 else e.Add(*faults, _shape=faults[0].shape)
    assert fault.shape is not None and value.shape is not None
    shape = [dim_of(fault.shape, 0), *[1] * (len(value.shape) - 1)]
    across = fault
    if len(shape) > 1:
        across = e.Unsqueeze(fault, list(range(1, len(shape))), _shape=shape)
    # Not added: OpenCV takes a sum behind a convolution for a residual of the whole shape.
    return e.Where(e.Equal(across, 0.0), value, NAN, _dtype=value.dtype, _shape=value.shape)


def _zeros(e: Emitter, value: ir.Value) -> ir.Value:
    """float32 [N]: the sum of a row times 0, which is NaN where anything in it is not finite."""
    assert value.shape is not None
    # A processor may cast bfloat16, and multiply none.
    wide = e.cast(value, FLOAT) if value.dtype == ir.DataType.BFLOAT16 else value
    nothing = e.Mul(wide, 0.0)
    axes = list(range(1, len(value.shape)))
    if axes:
        nothing = e.ReduceSum(nothing, axes, keepdims=0, _shape=[dim_of(value.shape, 0)])
    return e.cast(nothing, FLOAT)


def _float(value: ir.Value) -> bool:
    kinds = (FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return value.dtype in kinds and value.shape is not None and len(value.shape) > 0


def _same_rows(a: ir.Value, b: ir.Value) -> bool:
    if a.shape is None or b.shape is None or not len(a.shape) or not len(b.shape):
        return False
    return _rows_alike(dim_of(a.shape, 0), dim_of(b.shape, 0))


def _rows_alike(a: int | str | None, b: int | str | None) -> bool:
    """Whether two first dimensions are the same; one that lost its name on the way is the batch."""
    return a == b or a is None or b is None
