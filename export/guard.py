"""What ONNX's C++ passes must not see: they take a file at its word, and the process with them.

Shape inference and the version converter index by an axis before they look whether it is one,
allocate as many numbers as a Range of constants has, and scan an Einsum's equation for ever. A node
that may do that is hidden from them, under a domain that they don't know: what follows from it has
no shape, and the node stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from .arithmetic import work
from .emit import all_dims, dim_of
from .nested import nodes_of
from .rules.op import constant

__all__ = ["HIDDEN", "bared", "hidden", "suspects", "unbounded"]

# The domain of a hidden node.
HIDDEN = "backlight.hidden"
# Numbers in a list of axes, of sizes or of starts: as many as a tensor has axes. And a Range.
_RANK, _RANGE = 64, 4096
_TERM = r"\s*[A-Za-z\s]*(?:\.\.\.)?[A-Za-z\s]*"
_EQUATION = re.compile(rf"{_TERM}(?:,{_TERM})*(?:->{_TERM})?")

_AXES = frozenset("axis axes batch_axis batch_dims perm scan_input_axes scan_output_axes "
                  "scan_input_directions scan_output_directions time_axis".split())  # fmt: skip
# At least 1, and no more than an int32: strides are divided by, sizes multiplied.
_SIZES = frozenset(
    "blocksize dilations group groups hidden_size kernel_shape kv_num_heads num_groups num_heads "
    "num_outputs num_scan_inputs output_height output_shape output_width pooled_shape q_num_heads "
    "strides".split()
)
_AMOUNTS = frozenset("border ends keepdims output_padding pads paddings scale shape split starts "
                     "sizes".split())  # fmt: skip
# By operator: the inputs whose values, or number of values, make the output's shape.
_SHAPING: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
# As many values as the tensor that it is about has elements along an axis.
_LONG = frozenset("Split SplitToSequence".split())
_MAKES_SEQUENCE = frozenset(
    "Optional SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceMap "
    "SplitToSequence".split()
)
_TAKES_SEQUENCE = frozenset(
    "ConcatFromSequence Identity If Loop Optional OptionalGetElement OptionalHasElement Scan "
    "SequenceAt SequenceConstruct SequenceErase SequenceInsert SequenceLength SequenceMap".split()
)
# What has a function for it may be made of those.
_CARRYING = frozenset(
    s.name
    for s in onnx.defs.get_all_schemas_with_history()
    if s.has_data_propagation_function
    or s.has_function  # type: ignore[attr-defined]
    or s.has_context_dependent_function  # type: ignore[attr-defined]
)
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
Check = Callable[[ir.Node], bool]


@contextmanager
def hidden(model: ir.Model, nodes: Collection[ir.Node]) -> Iterator[None]:
    """Hide nodes while the model goes to a pass, see `HIDDEN`."""
    domains = {node: node.domain for node in nodes}
    for node in domains:
        node.domain = HIDDEN
    if domains:
        model.opset_imports[HIDDEN] = 1
    try:
        yield
    finally:
        model.opset_imports.pop(HIDDEN, None)
        for node, domain in domains.items():
            node.domain = domain


def unbounded(model: ir.Model) -> list[ir.Node]:
    """The nodes that inference must not carry values through: for each number of a vector of
    which it knows the length alone, it makes one up. Their shapes are to be inferred before."""
    return [
        node
        for node in nodes_of(model.graph)
        if node.op_type in _CARRYING and any(_vast(v) for v in (*node.inputs, *node.outputs))
    ]


def _vast(value: ir.Value | None) -> bool:
    if value is None or not value.name:
        return False
    if value.shape is None:
        return True
    length = dim_of(value.shape, 0) if len(value.shape) == 1 else 1
    return not isinstance(length, int) or length > _RANGE


def bared(model: ir.Model) -> None:
    """Give hidden nodes back, in place, what they were."""
    if model.opset_imports.pop(HIDDEN, None) is None:
        return
    for node in nodes_of(model.graph):
        if node.domain == HIDDEN:
            node.domain = ""


def suspects(model: ir.Model) -> list[ir.Node]:
    """The nodes of standard operators, in subgraphs too, that the passes can't be trusted with."""
    sequences: set[ir.Value] = set()
    found = []
    for node in nodes_of(model.graph):
        if node.op_type in _MAKES_SEQUENCE:
            sequences.update(node.outputs)
        odd = any(v is not None and (v in sequences or _is_other(v.type)) for v in node.inputs)
        if odd and node.op_type in _TAKES_SEQUENCE:
            sequences.update(node.outputs)
        if node.domain in ("", "ai.onnx") and (
            (odd and node.op_type not in _TAKES_SEQUENCE) or not _fits(node)
        ):
            found.append(node)
    return found


def _is_other(kind: ir.TypeProtocol | None) -> bool:
    # Asked slowly, of what is neither.
    return type(kind) is not ir.TensorType and isinstance(kind, (ir.SequenceType, ir.OptionalType))


def _fits(node: ir.Node) -> bool:
    for name, attribute in node.attributes.items():
        if attribute.is_ref() or attribute.type not in (
            ir.AttributeType.INT,
            ir.AttributeType.INTS,
        ):
            continue
        value = attribute.value
        numbers = value if isinstance(value, (list, tuple)) else (value,)
        if not _numbers_fit(node, name, numbers):
            return False
    if not all(_shaping_fits(node, index) for index in _SHAPING.get(node.op_type, ())):
        return False
    check = _CHECKS.get(node.op_type)
    return check is None or check(node)


def _numbers_fit(node: ir.Node, name: str, numbers: tuple[int, ...] | list[int]) -> bool:
    if name in _AXES:
        rank = _rank_of(node)
        return len(numbers) <= _RANK and all(-rank <= n <= rank for n in numbers)
    if name in _SIZES:
        return len(numbers) <= _RANK and all(0 < n < 2**31 for n in numbers)
    return name not in _AMOUNTS or all(-(2**62) < n < 2**62 for n in numbers)


def _rank_of(node: ir.Node) -> int:
    """The largest axis that a node may name."""
    ranks = [len(v.shape) for v in node.inputs if v is not None and v.shape is not None]
    known = len(ranks) == len(node.inputs) and node.op_type not in ("Unsqueeze", "Scan", "Loop")
    return max(ranks, default=0) + 1 if known else _RANK


def _shaping_fits(node: ir.Node, index: int) -> bool:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return True
    most = 2**16 if node.op_type in _LONG else _RANK
    if value.shape is not None:
        if len(value.shape) > 1:
            return False
        dims = all_dims(value.shape)
        if any(isinstance(d, int) and not 0 <= d <= most for d in dims):
            return False
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        return True
    if tensor.dtype == ir.DataType.STRING or tensor.size > most or len(tensor.shape) > 1:
        return False
    scales = node.op_type in ("Resize", "Upsample", "Range", "MelWeightMatrix")
    return tensor.dtype in _INTEGERS or (scales and tensor.dtype.is_floating_point())


def _einsum(node: ir.Node) -> bool:
    equation = node.attributes.get_string("equation", "")
    if len(equation) > 1000 or _EQUATION.fullmatch(equation) is None:
        return False
    return equation.partition("->")[0].count(",") + 1 == len(node.inputs)


def _gather_nd(node: ir.Node) -> bool:
    batch = node.attributes.get_int("batch_dims", 0)
    ranks = [len(v.shape) for v in node.inputs if v is not None and v.shape is not None]
    if batch < 0 or (ranks and batch >= min(ranks)):
        return False
    indices = node.inputs[1] if len(node.inputs) > 1 else None
    if len(ranks) < 2 or indices is None or indices.shape is None:
        return batch == 0 or len(ranks) == 2
    last = dim_of(indices.shape, len(indices.shape) - 1)
    return not isinstance(last, int) or 0 < last <= ranks[0] - batch


def _split(node: ir.Node) -> bool:
    count = node.attributes.get_int("num_outputs", len(node.outputs))
    sizes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    given = node.attributes.get_ints("split", ())
    expected = {
        count,
        *([len(given)] if given else []),
        *([sizes.size] if sizes is not None else []),
    }
    return expected == {len(node.outputs)}


def _range(node: ir.Node) -> bool:
    arrays = [constant(v) for v in node.inputs]
    if any(a is None for a in arrays):
        return True
    needed = work(node, arrays)
    return needed is not None and needed <= _RANGE


def _never(node: ir.Node) -> bool:
    """It is read before anybody asked whether its input has a type."""
    return False


_CHECKS: dict[str, Check] = {
    "Einsum": _einsum,
    "GatherND": _gather_nd,
    "Range": _range,
    "RegexFullMatch": _never,
    "Split": _split,
}
