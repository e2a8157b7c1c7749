"""What rectifies by arithmetic: several nodes that are max(x, 0), or min(max(x, 0), c), together.

    (x + |x|) / 2    -min(-x, 0)    x - min(x, 0)    x * relu(sign(x))    x * (x > 0)
    y[m] = x[m]    y[m] *= 0
    6 - relu(6 - relu(x))    relu(x) - relu(x - 6)    x > 6 ? 6 : x < 0 ? 0 : x    Elu of alpha 0

No list of spellings: a value that is made of one other, element by element, with nothing but
numbers that are the same everywhere, is tried at some hundred numbers. Where it is a rectifier
at all of them, a cotangent passes from the one to the other at once, by the rule of Relu, Clip or
LeakyRelu (max(x, x / 10)), and nothing arrives inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import traits
from ..emit import Emitter, all_dims
from . import clamps
from .op import Op

__all__ = ["Spelled", "all_spelled", "release", "spelled"]

Numbers = NDArray[Any]

# A node's place in its graph, told once: copies of it keep it.
_PLACE = "backlight/place"
# More nodes are no one's spelling of a rectifier.
_NODES = 12
# Where a value is tried, on both sides of 0: near it, between whole numbers, where ReLU6 bends, and
# far out, beyond where half floats are clipped.
_SIDE = np.concatenate(
    [np.geomspace(1e-6, 0.1, 21), np.linspace(0, 9.7, 66), [1, 3, 6, 50, 1e3, 1e9]]
)
_TRIED = np.unique(np.concatenate([-_SIDE, _SIDE]))
# What float64's rounding may leave of 0, up to the farthest of them.
_NOTHING = 1e-12
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_WHOLES = "INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()


def _cast(to: ir.DataType | None, x: Numbers) -> Numbers:
    if to == ir.DataType.BOOL:
        return np.asarray(x != 0)
    whole = to is not None and to.name in _WHOLES
    made: Numbers = np.trunc(x) if whole else x.astype(np.float64)
    return made


def _clip(x: Numbers, low: Any = -np.inf, high: Any = np.inf) -> Numbers:
    low, high = (-np.inf if low is None else low), (np.inf if high is None else high)
    held: Numbers = np.minimum(np.maximum(x, low), high)
    return held


def _below(x: Numbers, slope: Any) -> Numbers:
    return np.where(x > 0, x, slope * x)


def _of_all(function: Callable[..., Numbers]) -> Callable[..., Numbers]:
    def found(node: ir.Node, first: Numbers, *more: Numbers) -> Numbers:
        for one in more:
            first = function(first, one)
        return first

    return found


def _plain(function: Callable[..., Any]) -> Callable[..., Numbers]:
    return lambda node, *given: function(*given)


def _attribute(node: ir.Node, name: str, default: float) -> float:
    return float(node.attributes.get_float(name, default) or 0.0)


# What is computed element by element; the first are linear, and no rectifier is made of them alone.
_LINEAR: dict[str, Callable[..., Numbers]] = {
    "Add": _plain(np.add),
    "Div": _plain(np.divide),
    "Identity": _plain(lambda x: x),
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "Sub": _plain(np.subtract),
    "Sum": _of_all(np.add),
}
_BENT: dict[str, Callable[..., Numbers]] = {
    "Abs": _plain(np.abs),
    "And": _plain(np.logical_and),
    "Cast": lambda node, x: _cast(node.outputs[0].dtype, x),
    "CastLike": lambda node, x, like=None: _cast(node.outputs[0].dtype, x),
    "Ceil": _plain(np.ceil),
    "Clip": _plain(_clip),
    "Elu": lambda n, x: np.where(x > 0, x, _attribute(n, "alpha", 1) * np.expm1(np.minimum(x, 0))),
    "Equal": _plain(np.equal),
    "Floor": _plain(np.floor),
    # y[m]: nothing elsewhere, that only a ScatterND to the same places may hide.
    "GatherND": lambda node, at, x: np.where(at, x, np.nan),
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "HardSigmoid": lambda n, x: _clip(
        _attribute(n, "alpha", 0.2) * x + _attribute(n, "beta", 0.5), 0, 1
    ),
    "LeakyRelu": lambda node, x: _below(x, _attribute(node, "alpha", 0.01)),
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "Max": _of_all(np.maximum),
    "Min": _of_all(np.minimum),
    "Not": _plain(np.logical_not),
    "Or": _plain(np.logical_or),
    "PRelu": _plain(_below),
    "Pow": _plain(np.power),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "Round": _plain(np.rint),
    "Selu": lambda n, x: (
        _attribute(n, "gamma", 1.0507)
        * np.where(x > 0, x, _attribute(n, "alpha", 1.67326) * np.expm1(np.minimum(x, 0)))
    ),
    "Sign": _plain(np.sign),
    "Sqrt": _plain(np.sqrt),
    "ThresholdedRelu": lambda n, x: np.where(x > _attribute(n, "alpha", 1), x, 0.0),
    "Where": _plain(np.where),
    "Xor": _plain(np.logical_xor),
    # y[places] = given
    "ScatterND": _plain(lambda at, given, x: np.where(at, given, x)),
}
_COMPUTED = _LINEAR | _BENT
# Whose output can be a rectifier's that isn't one by itself.
_ENDS = frozenset(_COMPUTED) - traits.BOOLEAN - traits.SAME - traits.RECTIFIES


@dataclass(frozen=True)
class Spelled:
    """y is max(x, 0), up to `high` where there is one; below 0 it is slope * x. inside: the nodes
    that make it, y's among them."""

    x: ir.Value
    y: ir.Value
    inside: tuple[ir.Node, ...]
    high: float | None = None
    slope: float = 0.0

    def alike(self, e: Emitter) -> Op:
        """A node that does the same alone, in no graph: what a rule is given. To be released."""
        attributes = []
        inputs: list[ir.Value | None] = [self.x]
        if self.slope:
            attributes = [ir.AttrFloat32("alpha", self.slope)]
        elif self.high is not None:
            inputs += [e.const(0.0, self.x.dtype), e.const(self.high, self.x.dtype)]
        op_type = "LeakyRelu" if self.slope else "Relu" if self.high is None else "Clip"
        return _Alike(ir.Node("", op_type, inputs, attributes), self.y)


class _Alike(Op):
    def __init__(self, node: ir.Node, y: ir.Value) -> None:
        super().__init__(node, (True, False, False))
        self._y = y

    @property
    def y(self) -> ir.Value:
        return self._y


def release(op: Op) -> None:
    """Let go of what such a node reads: it is in no graph, and no use of it."""
    for at in range(len(op.node.inputs)):
        op.node.replace_input_with(at, None)


def spelled(node: ir.Node) -> Spelled | None:
    """The rectifier that a node ends; None where it ends none, or is one by itself."""
    try:
        return _spelled(node)
    except (LookupError, TypeError, ValueError):
        return None  # a broken node's attributes and inputs: its own rule says what is wrong


def _spelled(node: ir.Node) -> Spelled | None:
    if node.op_type not in _ENDS or node.domain not in ("", "ai.onnx"):
        return None
    y = node.outputs[0]
    if y.dtype not in _FLOATS:
        return None
    if _PLACE not in node.meta and node.graph is not None:
        for place, other in enumerate(node.graph):
            other.meta[_PLACE] = place
    inside: list[ir.Node] = []
    values: dict[ir.Value, None] = {y: None}
    while len(inside) < _NODES:
        last = max(values, key=_place)  # nothing else here is made of it
        made = last.producer()
        sources = None if made is None else _sources(made)
        if made is None or sources is None:
            return None
        inside.append(made)
        del values[last]
        for source in sources:
            if clamps.uniform(source) is not None:
                continue
            one = next((v for v in values if _is_same(v, source)), source)
            if one.is_initializer():
                return None
            values[one] = None
            if len(values) > _NODES:  # each takes a node more
                return None
        if not values:
            return None
        if len(values) == 1:
            found = _tried(next(iter(values)), y, inside)
            if found is not None:
                return found
    return None


def all_spelled(nodes: Iterable[ir.Node]) -> list[Spelled]:
    """Those that end at one of these nodes, in graph order, and lie in no other."""
    found: list[Spelled] = []
    inside: set[ir.Node] = set()
    for node in reversed([*nodes]):
        one = None if node in inside or clamps.rectifies(node) else spelled(node)
        if one is not None:
            found.append(one)
            inside.update(one.inside)
    return found[::-1]


def _place(value: ir.Value) -> int:
    node = value.producer()
    return -1 if node is None else int(node.meta.get(_PLACE, -1))


def _tried(x: ir.Value, y: ir.Value, inside: list[ir.Node]) -> Spelled | None:
    alone = len(inside) == 1 and clamps.clamp(inside[0]) is not None
    if alone or all(n.op_type in _LINEAR for n in inside):
        return None
    if x.dtype != y.dtype or not _of_one_size(x, y):
        return None
    kind = _kind(_computed(x, y, inside))
    if kind is None or clamps.is_gate(x, y, kind[0]) or _holds_one_read_elsewhere(y, inside):
        return None
    return Spelled(x, y, tuple(inside), *kind)


def _holds_one_read_elsewhere(y: ir.Value, inside: list[ir.Node]) -> bool:
    """Whether a rectifier is inside that others read too, as r = relu(x) in r / |r|: it is one by
    itself, and holds back the sum of their cotangents."""
    for node in inside:
        made = node.outputs[0]
        outside = [n for n in clamps.readers_of(made) if n not in inside]
        outputs = [v for n in outside for v in n.outputs]
        # Of y[m] = 0, y[m] is read for its shape alone.
        if made is y or not any(clamps.readers_of(v) or v.is_graph_output() for v in outputs):
            continue
        if node.op_type in traits.LEAKS or clamps.rectifies(node) or spelled(node) is not None:
            return True
    return False


def _is_same(a: ir.Value, b: ir.Value) -> bool:
    """Whether both are one tensor: quantizers write a DequantizeLinear per reader."""
    first, second = a.producer(), b.producer()
    if a is b or first is None or second is None:
        return a is b
    both = first.op_type == second.op_type == "DequantizeLinear"
    if not both or first.inputs[0] is not second.inputs[0]:
        return False
    pairs = zip(first.inputs[1:], second.inputs[1:], strict=False)
    return all(p is q or clamps.uniform(p) == clamps.uniform(q) is not None for p, q in pairs)


def _sources(node: ir.Node) -> list[ir.Value] | None:
    """What a node's elements are made of; None where it isn't element by element."""
    if node.domain not in ("", "ai.onnx") or len(node.outputs) > 1:
        return None
    if node.op_type == "ScatterND":
        return _assigned(node)
    if node.op_type == "GatherND":
        tested = None if node.attributes.get_int("batch_dims", 0) else _tested(node.inputs[1])
        return None if tested is None or node.inputs[0] is None else [tested, node.inputs[0]]
    if node.op_type == "Expand" and _of_one_size(node.inputs[0], node.outputs[0]):
        return [v for v in node.inputs[:1] if v is not None]
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return [v for v in node.inputs[:1] if v is not None]
    if node.op_type not in _COMPUTED:
        return None
    first = 1 if node.op_type == "CastLike" else None
    return [v for v in node.inputs[:first] if v is not None]


def _of_one_size(x: ir.Value | None, y: ir.Value) -> bool:
    """Whether nothing says that one is larger: sizes that are made in the run are often unknown."""
    if x is None or x.shape is None or y.shape is None:
        return x is not None
    pairs = [*zip(all_dims(x.shape), all_dims(y.shape), strict=False)]
    numbers = (p for p in pairs if isinstance(p[0], int) and isinstance(p[1], int))
    return len(x.shape) == len(y.shape) and all(a == b for a, b in numbers)


def _assigned(node: ir.Node) -> list[ir.Value] | None:
    """Of y[m] = v, of a number or of what y[m] was, or another tensor's at m: m, v and y."""
    if node.attributes.get_string("reduction", "none") != "none":
        return None
    data, at, given = node.inputs
    tested = _tested(at)
    if data is None or tested is None or given is None:
        return None
    if clamps.uniform(given) is None:
        # PyTorch cuts a list to the length that it has.
        picked = _behind(given, ("Reshape", "Slice", "Expand", "Identity", "Cast"))
        if picked is None:
            return None
        given = picked.outputs[0]
    return [tested, given, data]


def _tested(places: ir.Value | None) -> ir.Value | None:
    """The condition whose places they are: Transpose(NonZero(condition))."""
    turned = _behind(places, ("Identity", "Cast"))
    if turned is None or turned.op_type != "Transpose":
        return None
    if tuple(turned.attributes.get_ints("perm", (1, 0)) or ()) != (1, 0):
        return None
    found = _behind(turned.inputs[0], ("Identity", "Cast"))
    if found is None or found.op_type != "NonZero" or found.inputs[0] is None:
        return None
    made = found.inputs[0].producer()
    # PyTorch expands the condition to the shape that it has.
    return made.inputs[0] if made is not None and made.op_type == "Expand" else found.inputs[0]


def _behind(value: ir.Value | None, passed: Iterable[str]) -> ir.Node | None:
    """The node that makes a value, behind those that pass it on."""
    node = None if value is None else value.producer()
    for _ in range(_NODES):
        if node is None or node.op_type not in passed or node.inputs[0] is None:
            return node
        node = node.inputs[0].producer()
    return None


def _computed(x: ir.Value, y: ir.Value, inside: list[ir.Node]) -> Numbers | None:
    """y where x is what is tried."""
    known: dict[ir.Value, Numbers] = {x: _TRIED}

    def number(value: ir.Value) -> Numbers:
        if value not in known and _is_same(value, x):
            return _TRIED
        if value in known:
            return known[value]
        alike = clamps.uniform(value)
        assert alike is not None
        is_bool = value.dtype == ir.DataType.BOOL
        return np.full(_TRIED.shape, bool(alike) if is_bool else alike)

    with np.errstate(all="ignore"):
        for node in reversed(inside):
            sources = _sources(node) or []
            compute = _COMPUTED.get(node.op_type)
            if node.op_type == "Clip":
                given = [None if v is None else number(v) for v in node.inputs]
            else:
                given = [number(v) for v in sources]
            made = given[0] if compute is None else compute(node, *given)
            known[node.outputs[0]] = np.asarray(made)
    return known.get(y)


def _kind(found: Numbers | None) -> tuple[float | None, float] | None:
    """(high, slope) of what a rectifier gives at the numbers tried; None of anything else."""
    if found is None or found.dtype.kind != "f" or not np.isfinite(found).all():
        return None
    most, slope = float(found[-1]), float(found[_TRIED == -1][0]) / -1
    slope = slope if slope > _NOTHING else 0.0
    high = None if np.isclose(most, _TRIED[-1], rtol=1e-6) else most
    if slope >= 1 or (high is not None and (slope or high <= 0)):
        return None
    want = np.minimum(_below(_TRIED, slope), np.inf if high is None else high)
    if not np.allclose(found, want, rtol=1e-6, atol=1e-6):
        return None
    # Not "nearly 0": relu(x) + 1e-6, or max(relu(x), 1e-6), is above 0 where x is not, and the rule
    # asks for what is above 0.
    if not slope and np.abs(found[_TRIED <= 0]).max() > _NOTHING:
        return None
    return (None if high is None else float(np.float32(high))), float(np.float32(slope))
