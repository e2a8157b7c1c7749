"""The reverse walk: prune to what lies between `of` and `wrt`, apply rules, accumulate.

Nothing here knows an operator: rules say what a node passes on, variants are maps of rules.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import onnx
import onnx_ir as ir

from ..errors import UnsupportedNode
from .apart import Apart
from .emit import Emitter, broadcast_shape, dim_of
from .nested import held_graphs, nodes_of
from .rules import COMPUTED_FROM, NO_GRADIENT, Cotangents, Op, RuleMap, guarded
from .rules.op import first_input
from .rules.quantize import makes_codes, on_integers
from .rules.shape import Amount, minus, size_of, vector
from .rules.spelled import Spelled, all_spelled, release
from .scaling import Scaling

FLOATS = frozenset(
    (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
)


def differentiable(value: ir.Value | None) -> bool:
    """Whether a gradient can flow through a value. An unknown dtype counts as float."""
    return value is not None and (value.dtype is None or value.dtype in FLOATS)


def quantises(node: ir.Node, reached: Container[ir.Value]) -> bool:
    """Whether a node's integers stand for real numbers: codes, or computed from codes."""
    if makes_codes(node):
        return True
    first = first_input(node)
    return first in reached and not differentiable(first)


def path(of: Iterable[ir.Value], wrt: Iterable[ir.Value]) -> tuple[list[ir.Node], set[ir.Value]]:
    """The nodes between `wrt` and `of` in graph order, and the values that depend on `wrt`.

    Only float values count, and what QuantizeLinear makes of them; operators whose gradient is
    zero by the mathematics (comparisons, ArgMax, Shape ...) end the way.
    """
    needed: set[ir.Node] = set()
    waiting = [v for v in of]
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in needed:
            continue
        needed.add(node)
        waiting.extend(v for v in _reads(node) if v is not None)
    reached = {v for v in wrt if differentiable(v)}
    nodes: list[ir.Node] = []
    roots = {v for v in of}
    for graph in {id(n.graph): n.graph for n in needed if n.graph is not None}.values():
        for node in graph:
            if node not in needed or (node.domain == "" and node.op_type in NO_GRADIENT):
                continue
            if any(v in reached for v in _reads(node)):
                codes = quantises(node, reached)
                made = [v for v in node.outputs if codes or differentiable(v)]
                if made:
                    nodes.append(node)
                    reached.update(made)
    # Backwards once more: drop what depends on `wrt` but reaches `of` through no gradient.
    leads = roots & reached
    kept: list[ir.Node] = []
    for node in reversed(nodes):
        if any(v in leads for v in node.outputs):
            kept.append(node)
            leads.update(v for v in _reads(node) if v is not None and v in reached)
    return kept[::-1], leads


@dataclass(frozen=True)
class Way:
    """What a walk goes through. nodes, leads: see `path`. spelled: by its output, each rectifier of
    several nodes that lies on it."""

    nodes: Sequence[ir.Node]
    leads: Collection[ir.Value]
    spelled: Mapping[ir.Value, Spelled]

    @classmethod
    def between(cls, of: Iterable[ir.Value], wrt: Iterable[ir.Value]) -> Way:
        nodes, leads = path(of, wrt)
        return cls(nodes, leads, {s.y: s for s in all_spelled(nodes) if s.x in leads})


def _reads(node: ir.Node) -> Sequence[ir.Value | None]:
    """The inputs that a node's result is computed from, with what the graphs inside it (If, Loop)
    read from outside."""
    first = COMPUTED_FROM.get(node.op_type) if node.domain == "" else None
    outer = node.inputs if first is None else node.inputs[:first]
    inside = [*held_graphs(node)] if node.attributes else ()
    if not inside:
        return outer
    values = list(outer)
    for inner in inside:
        own = {id(v) for n in nodes_of(inner) for v in n.outputs}
        own |= {id(v) for v in (*inner.inputs, *inner.initializers.values())}
        values.extend(
            v for n in nodes_of(inner) for v in n.inputs if v is not None and id(v) not in own
        )
        values.extend(v for v in inner.outputs if id(v) not in own)
    return values


SETTLES = "--shape INPUT=1,3,224,224 settles one that asks for sizes"
FURTHER = "no gradient rule for its further outputs, only for the first"


def obstacle(node: ir.Node, rules: RuleMap, opset: int) -> str | None:
    """Why no rule covers this node, or None when one does."""
    integers = on_integers(node)
    if integers is not None:
        return integers
    if node.domain not in ("", "ai.onnx"):
        return f"operator of the domain '{node.domain}'"
    rule = rules.get(node.op_type)
    if rule is None:
        rest = f" while its condition isn't known ({SETTLES})" if node.op_type == "If" else ""
        return f"no gradient rule for this operator{rest}"
    version = operator_version(node.op_type, opset)
    if version not in rule.versions:
        return f"its version {version} (opset {opset}) is not covered"
    return None


@cache
def operator_version(op_type: str, opset: int) -> int:
    """The version (`since_version`) of a standard operator in force at an opset; 0 if none."""
    try:
        return int(onnx.defs.get_schema(op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def backward(
    e: Emitter,
    seeds: Sequence[tuple[ir.Value, ir.Value]],
    wrt: Sequence[ir.Value],
    rules: RuleMap,
    scaling: Scaling | None = None,
    way: Way | None = None,
) -> list[ir.Value | None]:
    """Emit the vector-Jacobian product: seeds are pairs (tensor, its cotangent).

    way: from the seeds' tensors to `wrt`, where it is known.
    scaling: keeps the cotangents within float16's range on the way.
    Returns the cotangent of each `wrt`, None where no gradient reaches it.
    Raises UnsupportedNode for a node on the way without a rule.
    """
    way = way or Way.between([tensor for tensor, _ in seeds], wrt)
    nodes, leads, spelled = way.nodes, way.leads, way.spelled
    apart = Apart(e.graph)
    pending: dict[ir.Value, list[ir.Value]] = {}
    for tensor, ct in seeds:
        pending.setdefault(tensor, []).append(ct)
    blocked = next((n for n in nodes if obstacle(n, rules, e.opset) is not None), None)
    if scaling is not None:
        scaling.begin(nodes, leads, [tensor for tensor, _ in seeds], wrt)
    for node in reversed(nodes):
        cts: Cotangents = tuple(_collect(e, pending, v) for v in node.outputs)
        if all(ct is None for ct in cts):
            continue
        why = None if blocked is None else obstacle(node, rules, e.opset)
        if why is not None:
            raise _unsupported(node, why)
        whole = spelled.get(node.outputs[0])
        if whole is None:
            op = Op(node, tuple(v is not None and v in leads for v in node.inputs))
            primals: Sequence[ir.Value | None] = node.inputs
        else:  # past the nodes inside
            op, primals, cts = whole.alike(e), (whole.x,), cts[:1]
        rule = rules[op.node.op_type]
        if rule.outputs == "first" and any(ct is not None for ct in cts[1:]):
            raise _unsupported(node, FURTHER)
        if scaling is not None:
            pairs = zip(node.outputs, cts, strict=True)
            cts = tuple(None if ct is None else scaling.at(v, ct) for v, ct in pairs)
            scaling.passed(node)
        # The walk too trusts shapes to fit each other.
        with e.scope(node.name or node.op_type), guarded(op):
            try:
                cotangents = rule(e, op, cts)
            except UnsupportedNode:
                if blocked is None:
                    raise
                # Behind an operator that nobody knows shapes are unknown too: name the cause.
                why = obstacle(blocked, rules, e.opset)
                raise _unsupported(blocked, why or "") from None
            for primal, found in zip(primals, cotangents, strict=False):
                if primal is None or found is None or primal not in leads:
                    continue
                if found.shape is None and all(v.shape is None for v in node.outputs):
                    found = _of_any_rank(e, found, primal)
                unsure = apart.axes(node, primal)
                pending.setdefault(primal, []).append(_fit(e, found, primal, unsure))
                if scaling is not None:
                    scaling.arrive(primal)
        if whole is not None:
            release(op)
    ends = [_collect(e, pending, v) for v in wrt]
    if scaling is None:
        return ends
    pairs = zip(wrt, ends, strict=True)
    return [None if ct is None else scaling.undone(v, ct) for v, ct in pairs]


def refuse_blocked(
    of: Sequence[ir.Value], wrt: Sequence[ir.Value], e: Emitter, rules: RuleMap
) -> None:
    """Raise UnsupportedNode for the first node on the way that no rule covers.

    The walk finds it too; but behind such a node shapes may be unknown, and a complaint about
    those would hide the cause.
    """
    for node in path(of, wrt)[0]:
        why = obstacle(node, rules, e.opset)
        if why is not None:
            raise _unsupported(node, why)


def _unsupported(node: ir.Node, why: str) -> UnsupportedNode:
    return UnsupportedNode(
        f"{node.op_type} '{node.name}': {why}; see 'backlight check', or take another --of or "
        "--wrt ('backlight occlude' and 'rise' take no gradient)"
    )


def _collect(
    e: Emitter, pending: dict[ir.Value, list[ir.Value]], primal: ir.Value
) -> ir.Value | None:
    """The sum of what has arrived for a primal; kept, since `wrt` may lie on the way."""
    parts = pending.get(primal)
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = e.Add(total, part, _shape=primal.shape)
    pending[primal] = [total]
    return total


def _fit(e: Emitter, ct: ir.Value, primal: ir.Value, unsure: Collection[int] = ()) -> ir.Value:
    """Un-broadcast a cotangent to its primal, and give it the primal's shape and dtype.

    The shape as value_info keeps ONNX Runtime's blocked layout: it needs to see that the two
    operands of a Mul or an Add are of equal shape.
    """
    if ct.shape is not None and primal.shape is not None:
        ct = unbroadcast(e, ct, primal, unsure)
    elif ct.shape is None:
        ct.shape = primal.shape
    if ct.dtype is None and primal.dtype is not None:
        ct.dtype = primal.dtype
    return ct


def _of_any_rank(e: Emitter, ct: ir.Value, primal: ir.Value) -> ir.Value:
    """A cotangent of unknown rank, behind which its primal may have been broadcast: summed over
    the leading axes that the primal lacks, in the run."""
    if primal.shape is None:
        return ct
    rank = len(primal.shape)
    if rank == 0:
        return e.ReduceSum(ct, keepdims=0, _shape=[])
    tail = e.Shape(ct, start=-rank)
    lined = e.Reshape(ct, vector(e, [-1, tail]), _shape=[None] * (rank + 1))
    return e.ReduceSum(lined, [0], keepdims=0, _shape=[None] * rank)


def unbroadcast(
    e: Emitter, ct: ir.Value, primal: ir.Value, unsure: Collection[int] = ()
) -> ir.Value:
    """Sum a cotangent over the axes along which its primal was broadcast. unsure: axes of the
    primal of which nothing is known, and that needn't be as long as the cotangent's; others of
    which nothing is known are taken to be."""
    assert ct.shape is not None
    assert primal.shape is not None
    if not unsure and ct.shape == primal.shape:
        return ct
    extra = len(ct.shape) - len(primal.shape)
    leading = list(range(extra))
    kept: list[int] = []
    doubtful: list[int] = []
    for axis in range(len(primal.shape)):
        want, have = dim_of(primal.shape, axis), dim_of(ct.shape, axis + extra)
        if want == have and want is not None:
            continue
        if want == 1:
            kept.append(axis + extra)
        elif not isinstance(want, int) and (ct.shape != primal.shape or axis in unsure):
            doubtful.append(axis)
    if kept:
        ct = e.ReduceSum(ct, kept, keepdims=1)
    if leading:
        ct = e.ReduceSum(ct, leading, keepdims=0)
    if doubtful and (unsure or _may_broadcast(ct, primal)):
        ct = _folded(e, ct, primal, doubtful)
    if ct.shape is None:
        ct.shape = primal.shape
    return ct


def _folded(e: Emitter, ct: ir.Value, primal: ir.Value, axes: Sequence[int]) -> ir.Value:
    """Sum over those of the axes along which the run finds the primal to be 1.

    n becomes [n - m + 1, m] for a primal of m, and the first of the two is summed over: m is n,
    or it is 1. Axes that only the run knows are nothing that TensorRT could sum over.
    """
    assert primal.shape is not None
    sizes: list[Amount] = []
    over: list[int] = []
    for axis in range(len(primal.shape)):
        want = size_of(e, primal, axis)
        if axis in axes:
            over.append(len(sizes))
            have = e.Shape(ct, start=axis, end=axis + 1)
            sizes.append(minus(e, minus(e, have, want), -1))
        sizes.append(want)
    return e.ReduceSum(e.Reshape(ct, vector(e, sizes)), over, keepdims=0, _shape=primal.shape)


def _may_broadcast(ct: ir.Value, primal: ir.Value) -> bool:
    """Whether a named dimension of the primal could be 1 where the cotangent's is not."""
    if ct.shape is None:
        return True
    assert primal.shape is not None
    joint = broadcast_shape([ct.shape, primal.shape])
    return joint is None or any(
        not isinstance(want := dim_of(primal.shape, i), int) and want != dim_of(ct.shape, i)
        for i in range(min(len(ct.shape), len(primal.shape)))
    )
