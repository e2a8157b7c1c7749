"""Writes nodes of standard operators behind a model's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from . import traits
from .nested import nodes_of

if TYPE_CHECKING:
    from collections.abc import Iterator


# Elements of a constant that a size in the file asks for. Above, the run makes it, or the node is
# refused: a file of a kilobyte may declare any size.
LARGEST = 2**24
# What an integer of the standard holds.
LOWEST_INT, HIGHEST_INT = -(2**63), 2**63 - 1

# The mark of a node that stays in float32, in its `meta`.
IN_FLOAT32 = "backlight.float32"
# The mark of every node that is not the model's own.
EMITTED = "backlight.emitted"

# Operators whose output has the broadcast shape of their inputs.
_ELEMENTWISE = traits.ELEMENTWISE | {"Softmax"}
_NUMBERS = frozenset((int, float, list, tuple))
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
# Operators whose further operands are shapes, axes and the like, never of the first one's dtype;
# of ConstantOfShape the first one is.
_INT_OPERANDS = traits.INTEGER_OPERANDS | {"ConstantOfShape"}


def broadcast_shape(shapes: Iterable[ir.Shape | None]) -> ir.Shape | None:
    """The shape that the given ones broadcast to; None where that can't be told."""
    known = list(shapes)
    if any(shape is None for shape in known):
        return None
    # Most often one, beside scalars, or the same one twice.
    known = [shape for shape in known if shape] or known[:1]
    if known and all(shape is known[0] or shape == known[0] for shape in known):
        return known[0]
    rank = max((len(shape) for shape in known if shape is not None), default=0)
    dims: list[int | str | None] = []
    for axis in range(rank):
        dim: int | str | None = 1
        for shape in known:
            assert shape is not None
            at = axis - (rank - len(shape))
            if at < 0:
                continue
            other = dim_of(shape, at)
            if other == 1:
                continue
            # A number beats a name: where a name meets a number above 1, the name is 1 or it.
            if dim == 1 or (isinstance(other, int) and not isinstance(dim, int)):
                dim = other
            elif dim != other and not isinstance(dim, int):
                dim = None
        dims.append(dim)
    return ir.Shape(dims)


def dim_of(shape: ir.Shape, axis: int) -> int | str | None:
    """A dimension as a number, a name, or None when nothing is known of it."""
    dim = shape[axis]
    if isinstance(dim, int):
        return dim
    return None if dim.value is None else str(dim.value)


def all_dims(shape: ir.Shape | None) -> list[int | str | None]:
    """All dimensions, each as `dim_of` says it; [] of an unknown shape, as of a scalar's."""
    return [] if shape is None else [dim_of(shape, axis) for axis in range(len(shape))]


def fits(*sizes: int | None) -> bool:
    """Whether a constant of this shape is no larger than LARGEST; an unknown size counts as 1."""
    return math.prod(1 if s is None else max(s, 0) for s in sizes) <= LARGEST


class Emitter:
    """Appends nodes to a graph; a call with the same operands gives the same value again.

    An operator is a method: `e.Mul(a, 2.0)`, `e.Conv(x, w, group=2)`. Values are passed on.
    Floats take the dtype of the first value among the operands; ints, sequences of ints and
    arrays become initializers (an operator's shape and axes operands: int64). `None` leaves an
    optional input out. Keywords are attributes, except `_outputs` (their number, if above 1),
    `_dtype` and `_shape` of the output, where they can't be told from the operands.
    """

    # Whether the runtime tells apart two layers that read one weight (see `rules/apart.py`).
    shares_weights = False

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self._scope = "backlight"
        self._names = _all_names(graph)
        self._memo: dict[tuple[object, ...], tuple[ir.Value, ...]] = {}
        self._constants: dict[tuple[object, ...], ir.Value] = {}
        self._numbers: dict[tuple[str, ir.DataType | None], ir.Value] = {}
        self._attributes: dict[tuple[object, ...], ir.Attr] = {}
        self._shapes: dict[tuple[object, ...], ir.Shape] = {}
        self._uses: dict[str, int] = {}
        self._wide = False

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)

        def emit(*operands: Any, **attributes: Any) -> ir.Value:
            return self.op(op_type, operands, **attributes)[0]

        self.__dict__[op_type] = emit  # found from now on before this is asked
        return emit

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names of values and nodes made inside get `name/` in front; scopes nest."""
        before, self._scope = self._scope, f"{self._scope}/{name}"
        try:
            yield
        finally:
            self._scope = before

    @contextmanager
    def rooted(self) -> Iterator[None]:
        """Names made inside start anew, out of all scopes."""
        before, self._scope = self._scope, "backlight"
        try:
            yield
        finally:
            self._scope = before

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Nodes made inside stay in float32 when the graph is narrowed (see `half.py`)."""
        before, self._wide = self._wide, True
        try:
            yield
        finally:
            self._wide = before

    def op(
        self,
        op_type: str,
        operands: Sequence[Any],
        *,
        _outputs: int = 1,
        _dtype: ir.DataType | None = None,
        _shape: ir.Shape | Sequence[int | str | None] | None = None,
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """Append one node and return its outputs (the earlier ones for the same operands)."""
        given = operands[0] if operands else None
        if (
            op_type in ("ScatterElements", "ScatterND")
            and attributes.get("reduction")
            and isinstance(given, ir.Value)
            and given.dtype in HALVES
        ):
            # ONNX Runtime's CPU provider adds no halves up, and sums of many want more bits.
            wide = [operands[0], operands[2]]
            data, updates = (self.cast(v, ir.DataType.FLOAT) for v in wide)
            attributes |= {"_dtype": ir.DataType.FLOAT, "_shape": _shape}
            result = self.op(op_type, [data, operands[1], updates], **attributes)[0]
            return (self.cast(result, given.dtype),)
        # Where's condition is no model for its branches.
        like = _dtype
        for operand in operands[1:] if op_type == "Where" else operands:
            if type(operand) is ir.Value:
                like = operand.dtype
                break
        if op_type in _INT_OPERANDS:
            like = None
        inputs = [self._value(o, like) for o in operands]
        while inputs and inputs[-1] is None:
            inputs.pop()
        attrs = [self._attribute(k, v) for k, v in attributes.items() if v is not None]
        key = (op_type, _outputs, *map(id, inputs), frozenset(map(id, attrs)))
        found = self._memo.get(key)
        if found is not None:
            return found
        outputs = [ir.Value(name=self.name(op_type)) for _ in range(_outputs)]
        node = ir.Node(
            "",
            op_type,
            inputs,
            attrs,
            outputs=outputs,
            name=outputs[0].name,
        )
        node.meta[EMITTED] = True
        if self._wide:
            node.meta[IN_FLOAT32] = True
        self.graph.append(node)
        dtype = _dtype or _result_dtype(op_type, inputs, attributes)
        if dtype is not None:
            outputs[0].dtype = dtype
        if _shape is not None:
            outputs[0].shape = _shape if isinstance(_shape, ir.Shape) else self._sized(_shape)
        elif op_type in _ELEMENTWISE:
            outputs[0].shape = broadcast_shape(v.shape for v in inputs if v is not None)
        elif op_type == "Transpose" and inputs[0] is not None and inputs[0].shape is not None:
            perm = attributes.get("perm") or range(len(inputs[0].shape))[::-1]
            dims = inputs[0].shape.dims
            outputs[0].shape = self._sized([dims[p] for p in perm])
        self._memo[key] = tuple(outputs)
        return self._memo[key]

    def const(self, value: Any, dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer; equal ones are stored once. Ints without a dtype are int64. Raises
        TypeError for strings, which a broken file may say a tensor is of."""
        if dtype == ir.DataType.STRING:
            raise TypeError("a number among strings")
        if isinstance(value, np.ndarray):
            array = value
            if dtype is not None and dtype != ir.DataType.from_numpy(array.dtype):
                array = array.astype(dtype.numpy())
        elif dtype is not None:
            _check_integers("a constant", value)
            array = np.array(value, dtype.numpy())
        else:
            _check_integers("a constant", value)
            array = np.array(value)
            if array.size == 0 or array.dtype.kind in "iu":
                array = array.astype(np.int64)
            elif array.dtype.kind == "f":
                array = array.astype(np.float32)
        key = (array.dtype.str, str(dtype), array.shape, array.tobytes())
        if key not in self._constants:
            tensor = ir.tensor(array, dtype=dtype)
            made = ir.Value(name=self.name("const"), const_value=tensor)
            made.dtype, made.shape = tensor.dtype, ir.Shape(array.shape)
            tensor.name = made.name
            self.graph.register_initializer(made)
            self._constants[key] = made
        return self._constants[key]

    def name(self, stem: str) -> str:
        """A name that nothing in the graph has yet."""
        stem = f"{self._scope}/{stem}"
        while True:
            count = self._uses[stem] = self._uses.get(stem, -1) + 1
            name = f"{stem}_{count}" if count else stem
            if name not in self._names:
                self._names.add(name)
                return name

    def cast(self, value: ir.Value, dtype: ir.DataType | None) -> ir.Value:
        """`value` as `dtype`; itself when it is that already. Raises TypeError for no type."""
        if dtype is None:
            raise TypeError(f"the element type that '{value.name}' should have is unknown")
        return value if value.dtype == dtype else self.Cast(value, to=int(dtype))

    def _attribute(self, name: str, value: Any) -> ir.Attr:
        """An attribute: the same one for all nodes that have it."""
        kind = type(value)
        key: tuple[object, ...]
        if kind is list or kind is tuple:  # [1] and [1.0] are equal
            key = (name, list, *map(type, value), *value)
        elif kind is float:  # 0.0 and -0.0 are
            key = (name, kind, value.hex())
        else:
            key = (name, kind, _frozen(value))
        found = self._attributes.get(key)
        if found is None:
            found = self._attributes[key] = _attribute(name, value)
        return found

    def _sized(self, dims: Sequence[int | str | ir.SymbolicDim | None]) -> ir.Shape:
        """A shape: the same one for all values that have it."""
        key = tuple(dims)
        found = self._shapes.get(key)
        if found is None:
            found = self._shapes[key] = ir.Shape(dims)
        return found

    def _value(self, operand: Any, like: ir.DataType | None) -> ir.Value | None:
        # Numbers first: whether something is a Value is asked slowly, of what is none.
        kind = type(operand)
        if kind is ir.Value:
            return operand  # type: ignore[no-any-return]
        if kind is float:
            key = (operand.hex(), like)  # 0.0 and -0.0 are equal
            made = self._numbers.get(key)
            if made is None:
                made = self._numbers[key] = self.const(operand, like)
            return made
        if kind in _NUMBERS:
            return self.const(operand, like)
        if operand is None or isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, np.ndarray):
            return self.const(operand)
        if isinstance(operand, ir.Shape):
            return self.const(operand.numpy())
        return self.const(operand, like)


def _attribute(name: str, value: Any) -> ir.Attr:
    """An attribute. onnx-ir's own conversion asks every value for the protocols of graphs, tensors
    and models: a fifth of the time of an export."""
    _check_integers(name, value)
    kind = type(value)
    if kind is int:
        return ir.AttrInt64(name, value)
    if kind is float:
        return ir.AttrFloat32(name, value)
    if kind is str:
        return ir.AttrString(name, value)
    if kind in (list, tuple) and value and all(type(v) is int for v in value):
        return ir.AttrInt64s(name, value)
    return ir.convenience.convert_attribute(name, value)


def _check_integers(name: str, value: object) -> None:
    """Raise OverflowError for an attribute that the standard's integers don't hold."""
    for number in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(number, int) and not LOWEST_INT <= number <= HIGHEST_INT:
            raise OverflowError(f"{name} = {value}, beyond 64 bits")


def _all_names(graph: ir.Graph) -> set[str]:
    names = {v.name for v in (*graph.inputs, *graph.initializers.values()) if v.name}
    for node in nodes_of(graph):
        names.update(v.name for v in node.outputs if v.name)
        if node.name:
            names.add(node.name)
    return names


def _frozen(value: Any) -> object:
    if type(value) in (int, str):  # to ask for onnx-ir's protocols takes long
        return value
    return id(value) if isinstance(value, (ir.TensorProtocol, ir.Graph)) else value


def _result_dtype(
    op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]
) -> ir.DataType | None:
    if op_type in traits.BOOLEAN:
        return ir.DataType.BOOL
    if op_type in traits.INTEGERS:
        return ir.DataType.INT64
    if op_type == "Cast":
        return ir.DataType(attributes["to"])
    if op_type in ("ConstantOfShape", "Range", "OneHot"):
        return None
    source = 1 if op_type == "Where" else 0
    value = inputs[source] if source < len(inputs) else None
    return None if value is None else value.dtype
