"""The operators that are computed here and now, what each costs, and the one place that does it.

A list of what is pure arithmetic, not of exceptions: ONNX's reference also decodes pictures (by
programs that it starts), matches regular expressions and runs whatever a later version adds. What
an operator will make is told from its constants before it runs: a few bytes may ask for gigabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from . import traits

__all__ = ["evaluate", "extent", "products", "work"]

Arrays = Sequence[NDArray[Any] | None]
Shape = Sequence[int]
# What a node makes and how much it does, in elements. Raises where the node contradicts itself.
Cost = Callable[[ir.Node, Arrays], int]


def extent(shape: Shape) -> int:
    """Elements, where an empty axis counts as one: arrays without elements are walked too."""
    return math.prod(max(1, int(d)) for d in shape)


def work(node: ir.Node, arrays: Arrays) -> int | None:
    """Elements that a node reads, makes and sums up; None for an operator that isn't on the list,
    or inputs that don't fit it."""
    cost = _COSTS.get(node.op_type)
    if cost is None or node.domain not in ("", "ai.onnx") or _odd(node):
        return None
    try:
        return sum(extent(a.shape) for a in arrays if a is not None) + int(cost(node, arrays))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None


def products(node: ir.Node, arrays: Arrays) -> int | None:
    """As `work`, of an Einsum, which isn't on the list: of letters alone, an axis each."""
    try:
        return None if _odd(node) else _products(node, arrays)
    except (LookupError, ValueError):
        return None


def _products(node: ir.Node, arrays: Arrays) -> int:
    terms, _, made = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, array in zip(terms.split(","), arrays, strict=True):
        # A letter per axis: with an ellipsis the sizes are not told here.
        if array is None or not f"{term}{made}".isalpha() or len(term) != array.ndim:
            raise ValueError("equation")
        for letter, size in zip(term, array.shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    return extent([*sizes.values()]) * len(arrays)


def evaluate(node: ir.Node, arrays: Arrays, opset: int) -> list[NDArray[Any]]:
    """The outputs of one node, whose `work` the caller has looked at. Raises ValueError where
    ONNX's reference lacks this form of it, or it doesn't fit what it reads."""
    from onnx.reference import ReferenceEvaluator

    if node.op_type not in _COSTS and node.op_type not in ("Einsum", "Resize"):
        raise ValueError(f"{node.op_type} is not computed here")
    proto = ir.to_proto(node)
    feeds = {f"i{at}": a for at, a in enumerate(arrays) if a is not None}
    proto.input[:] = [f"i{at}" if a is not None else "" for at, a in enumerate(arrays)]
    proto.output[:] = [f"o{at}" for at in range(len(node.outputs))]
    graph = onnx.helper.make_graph(
        [proto],
        "one",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), None
            )
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in proto.output],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10
    )
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, feeds)
        assert isinstance(found, list)
        # Copies: a view of an external weight would keep its file from being closed.
        made = [np.array(f) for f in found]
    except Exception as err:  # the reference raises many kinds
        raise ValueError(str(err)) from err
    if any(a.dtype == object for a in made):
        raise ValueError("no numbers")
    return made


def _odd(node: ir.Node) -> bool:
    """Attributes that no operator of the list has."""
    kinds = ir.AttributeType
    numbers = (kinds.INT, kinds.INTS, kinds.FLOAT, kinds.FLOATS, kinds.STRING, kinds.TENSOR)
    return any(a.is_ref() or a.type not in numbers for a in node.attributes.values())


def _given(arrays: Arrays, index: int) -> NDArray[Any]:
    array = arrays[index]
    if array is None:
        raise LookupError(index)
    return array


def _ints(arrays: Arrays, index: int) -> list[int]:
    array = _given(arrays, index)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise ValueError("no list of integers")
    return [int(v) for v in array.reshape(-1)]


def _elementwise(node: ir.Node, arrays: Arrays) -> int:
    return extent(np.broadcast_shapes(*(a.shape for a in arrays if a is not None)))


def _like(node: ir.Node, arrays: Arrays) -> int:
    """As large as what it reads."""
    return sum(extent(a.shape) for a in arrays if a is not None)


def _cast(node: ir.Node, arrays: Arrays) -> int:
    if node.attributes.get_int("to", 0) == ir.DataType.STRING:
        raise ValueError("no numbers")
    return extent(_given(arrays, 0).shape)


def _split(node: ir.Node, arrays: Arrays) -> int:
    sizes = len(node.outputs) if len(arrays) < 2 or arrays[1] is None else _given(arrays, 1).size
    if {node.attributes.get_int("num_outputs", sizes), sizes} != {len(node.outputs)}:
        raise ValueError("parts")
    return extent(_given(arrays, 0).shape)


def _gather(node: ir.Node, arrays: Arrays) -> int:
    data, indices = _given(arrays, 0), _given(arrays, 1)
    axis = range(data.ndim)[node.attributes.get_int("axis", 0)]
    return extent((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))


def _gather_nd(node: ir.Node, arrays: Arrays) -> int:
    data, indices = _given(arrays, 0), _given(arrays, 1)
    batch = node.attributes.get_int("batch_dims", 0)
    if not 0 <= batch < min(data.ndim, indices.ndim):
        raise ValueError("batch_dims")
    return extent((*indices.shape[:-1], *data.shape[batch + indices.shape[-1] :]))


def _pick(node: ir.Node, arrays: Arrays) -> int:
    """Elements by a list of places, one by one."""
    return sum(extent(a.shape) for a in arrays if a is not None) * max(1, _given(arrays, 0).ndim)


def _scatter_nd(node: ir.Node, arrays: Arrays) -> int:
    data, indices, updates = (_given(arrays, i) for i in range(3))
    return extent(data.shape) + extent(indices.shape) * max(1, data.ndim) + extent(updates.shape)


def _expand(node: ir.Node, arrays: Arrays) -> int:
    wanted = _ints(arrays, 1)
    if min(wanted, default=0) < 0 or extent(wanted) > 2**62:
        raise ValueError("a size")
    shape, rank = _given(arrays, 0).shape, max(len(wanted), _given(arrays, 0).ndim)
    pairs = zip((*(1,) * (rank - len(shape)), *shape), [1] * (rank - len(wanted)) + wanted,
                strict=True)  # fmt: skip
    return extent([max(a, b) for a, b in pairs])


def _tile(node: ir.Node, arrays: Arrays) -> int:
    repeats = _ints(arrays, 1)
    shape = _given(arrays, 0).shape
    return extent([max(1, d) * max(1, r) for d, r in zip(shape, repeats, strict=True)])


def _fill(node: ir.Node, arrays: Arrays) -> int:
    value = node.attributes.get("value")
    if value is not None and value.as_tensor().size != 1:
        raise ValueError("value")
    return extent(_ints(arrays, 0))


def _range(node: ir.Node, arrays: Arrays) -> int:
    start, limit, step = (_given(arrays, i).reshape(()).item() for i in range(3))
    return int(max(0, math.ceil((limit - start) / step)))


def _pad(node: ir.Node, arrays: Arrays) -> int:
    shape, pads = _given(arrays, 0).shape, _ints(arrays, 1)
    axes = _ints(arrays, 3) if len(arrays) > 3 and arrays[3] is not None else range(len(shape))
    sizes = list(shape)
    for axis, before, after in zip(axes, pads, pads[len(pads) // 2 :], strict=False):
        sizes[axis] += max(0, before) + max(0, after)
    return extent(sizes)


def _one_hot(node: ir.Node, arrays: Arrays) -> int:
    return extent(_given(arrays, 0).shape) * max(1, int(_given(arrays, 1).reshape(-1)[0]))


def _matmul(node: ir.Node, arrays: Arrays) -> int:
    a, b = _given(arrays, 0).shape, _given(arrays, 1).shape
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    return extent(batch) * extent(a[-2:]) * int(b[-1] if len(b) > 1 else 1)


def _gemm(node: ir.Node, arrays: Arrays) -> int:
    a, b = _given(arrays, 0).shape, _given(arrays, 1).shape
    rows, columns = (node.attributes.get_int(t, 0) for t in ("transA", "transB"))
    return extent(a) * int(b[0 if columns else 1]) + int(a[1 if rows else 0])


def _crop_pad(node: ir.Node, arrays: Arrays) -> int:
    most = max(_ints(arrays, 1), default=1)
    return extent([max(d, most) for d in _given(arrays, 0).shape])


# Not what the evaluator spells as several nodes, nor a Dropout, which may draw.
_ELEMENTWISE = traits.ELEMENTWISE - {"Cast", "Dropout", "Gelu", "HardSwish", "Mish", "Swish"}
# About as much as there is of what they read.
_LIKE = (traits.REDUCES | traits.RESHAPES - {"Identity"}) | frozenset(
    "ArgMax ArgMin CastLike Concat CumSum DepthToSpace EyeLike LogSoftmax LpNormalization NonZero "
    "ReverseSequence Slice Softmax SpaceToDepth Transpose Trilu".split()
)
_COSTS: dict[str, Cost] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_LIKE, _like),
    **dict.fromkeys("GatherElements ScatterElements".split(), _pick),
    "Cast": _cast,
    "CenterCropPad": _crop_pad,
    "ConstantOfShape": _fill,
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "ScatterND": _scatter_nd,
    "Split": _split,
    "Tile": _tile,
}
