"""Folds constant subgraphs: shape arithmetic and other small values, within a budget."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from . import traits
from .arithmetic import evaluate, extent, work
from .emit import all_dims
from .named import constant_called
from .rules.op import constant

# Elements. Shapes, axes and masks are small; weights stay as they are (the runtime folds them),
# so that the file does not grow.
LIMIT = 4096
# What one node may do, and all nodes of a model together; what is over it stays a node.
WORK, TOTAL = 2**18, 2**24


class Budget:
    """What is left of the elements that a model may have folded."""

    def __init__(self, left: int = TOTAL) -> None:
        self.left = left

    def take(self, elements: int) -> bool:
        """Whether a node's work is within it; if so, it is taken off."""
        if elements > min(WORK, self.left):
            return False
        self.left -= elements
        return True


def fold_constants(
    model: ir.Model, keep: Collection[str] = (), budget: Budget | None = None
) -> bool:
    """Replace nodes whose outputs can be computed now by initializers. True if any was.

    Only operators of `arithmetic.py` are computed. budget: shared by the calls for one model.
    keep: tensors that somebody will name: neither they nor what is computed from them is folded.
    """
    changed = False
    budget = budget or Budget()
    graph = model.graph
    outputs = {id(v) for v in graph.outputs}
    taken: set[str] | None = None  # the names, from the first branch on
    for node in list(graph):
        if node.op_type == "If":
            taken = _names(graph) if taken is None else taken
            changed |= _take_branch(graph, node, taken)
            continue
        if node.op_type == "Reshape":
            changed |= _settle_reshape(graph, node, keep)
        if node.domain != "" or any(id(v) in outputs for v in node.outputs):
            continue
        named = node.outputs if node.op_type in traits.ASKS_SIZE else (*node.inputs, *node.outputs)
        if any(v is not None and v.name in keep for v in named):
            continue
        results = _evaluate(model, node, budget)
        if results is None:
            continue
        for value, array in zip(node.outputs, results, strict=False):
            fixed = constant_called(graph, f"{value.name}/folded", array)
            if taken is not None:
                taken.add(str(fixed.name))
            ir.convenience.replace_all_uses_with(value, fixed)
        graph.remove(node, safe=True)
        changed = True
    return changed


def take_branches(model: ir.Model) -> None:
    """Put the branch of each If whose condition is a constant in its place: before ONNX's inference
    sees the model, which takes all names around an If anew for each of its branches."""
    taken: set[str] | None = None
    for node in list(model.graph):
        if node.op_type == "If":
            taken = _names(model.graph) if taken is None else taken
            _take_branch(model.graph, node, taken)


def _evaluate(model: ir.Model, node: ir.Node, budget: Budget) -> list[NDArray[Any]] | None:
    if node.op_type in traits.ASKS_SIZE:
        return _shape(node)
    picked = _picked(node)
    if picked is not None:
        return [picked]
    arrays: list[NDArray[Any] | None] = []
    for value in node.inputs:
        if value is None:
            arrays.append(None)
            continue
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or tensor.dtype == ir.DataType.STRING:
            return None
        if extent(tensor.shape.numpy()) > LIMIT:
            return None
        arrays.append(constant(value))
    if not arrays or _declared(node) > LIMIT:
        return None
    elements = work(node, arrays)
    if elements is None or not budget.take(elements):
        return None
    try:
        made = evaluate(node, arrays, model.graph.opset_imports.get("", 18))
    except ValueError:  # the reference lacks this form of it: leave the node
        return None
    return None if any(extent(a.shape) > LIMIT for a in made) else made


def _declared(node: ir.Node) -> int:
    """Elements of the largest output, as far as shapes are known."""
    known = [v.shape for v in node.outputs if v.shape is not None]
    dims = [all_dims(s) for s in known]
    return max((extent([d for d in ds if isinstance(d, int)]) for ds in dims), default=0)


def _shape(node: ir.Node) -> list[NDArray[Any]] | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    dims = all_dims(value.shape)
    if node.op_type == "Shape":
        start = node.attributes.get_int("start", 0)
        end = node.attributes.get_int("end", len(dims))
        dims = dims[start:end]
    known = [d for d in dims if isinstance(d, int)]
    if len(known) < len(dims):
        return None
    if node.op_type == "Size":
        known = [math.prod(known)]
    if any(abs(d) >= 2**63 for d in known):
        return None
    return [np.array(known[0] if node.op_type == "Size" else known, np.int64)]


# A size that is known, or an open one: that of an axis of a tensor.
_Size = int | tuple[ir.Value, int]


def _sizes(value: ir.Value | None, depth: int = 8) -> list[_Size] | None:
    """What a tensor of sizes holds, one by one; None where anything else is in it."""
    if value is None or depth == 0:
        return None
    known = constant(value)
    if known is not None:
        few = known.dtype.kind in "iu" and known.ndim < 2 and known.size <= 64
        return [int(n) for n in known.reshape(-1)] if few else None
    node = value.producer()
    if node is None or node.domain or not node.inputs or node.inputs[0] is None:
        return None
    source = node.inputs[0]
    if node.op_type == "Shape":
        if source.shape is None:
            return None
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end")
        dims: list[_Size] = [
            d if isinstance(d, int) else (source, axis)
            for axis, d in enumerate(all_dims(source.shape))
        ]
        return dims[start:end]
    if node.op_type == "Concat":
        parts = [_sizes(v, depth - 1) for v in node.inputs]
        return None if None in parts else [size for part in parts for size in part or ()]
    if node.op_type in ("Identity", "Squeeze", "Unsqueeze"):
        return _sizes(source, depth - 1)
    return _few_of(node, _sizes(source, depth - 1)) if node.op_type in _PICKS else None


# With the inputs that they have at least.
_PICKS = {"Gather": 2, "Slice": 3}


def _few_of(node: ir.Node, sizes: list[_Size] | None) -> list[_Size] | None:
    """What a Gather or Slice takes of sizes."""
    if sizes is None or len(node.inputs) < _PICKS[node.op_type]:
        return None
    at = [None if v is None else constant(v) for v in node.inputs[1:]]
    if node.op_type == "Gather":
        places = [] if at[0] is None else [int(n) for n in at[0].reshape(-1)]
        inside = at[0] is not None and all(-len(sizes) <= n < len(sizes) for n in places)
        return [sizes[n] for n in places] if inside else None
    bounds = (at[0], at[1], at[3] if len(at) > 3 else np.array([1]))
    numbers = [int(a.item()) for a in bounds if a is not None and a.size == 1]
    return sizes[slice(*numbers)] if len(numbers) == 3 and numbers[2] > 0 else None


def _picked(node: ir.Node) -> NDArray[Any] | None:
    """Sizes that are known, picked out of a shape that isn't whole: a batch's is mostly open."""
    sizes = _sizes(node.outputs[0]) if node.op_type in _PICKS else None
    if sizes is None or not all(isinstance(d, int) and abs(d) < 2**63 for d in sizes):
        return None
    found = np.array(sizes, np.int64)
    places = constant(node.inputs[1]) if node.op_type == "Gather" else None
    return found if places is None else found.reshape(places.shape)


def _settle_reshape(graph: ir.Graph, node: ir.Node, keep: Collection[str]) -> bool:
    """Say 0, "as it was", in place of the open sizes that a Reshape asks of what it reads: the
    size of -1 is known then, if all but those are."""
    if node.domain or len(node.inputs) < 2 or node.attributes.get_int("allowzero"):
        return False
    source, target = node.inputs[0], node.inputs[1]
    if source is None or target is None or constant(target) is not None or target.name in keep:
        return False
    sizes = _sizes(target)
    if sizes is None or 0 in sizes or not any(isinstance(size, tuple) for size in sizes):
        return False
    settled = [
        size if isinstance(size, int) else 0 if size == (source, axis) else None
        for axis, size in enumerate(sizes)
    ]
    if None in settled:
        return False
    name = f"{node.outputs[0].name}/sizes"
    node.replace_input_with(1, constant_called(graph, name, np.array(settled, np.int64)))
    return True


def _take_branch(graph: ir.Graph, node: ir.Node, taken: set[str]) -> bool:
    """Put the branch of an If with a constant condition in its place; what is nested in it, too,
    where that is decided as well. taken: the graph's names, kept up."""
    condition = constant(node.inputs[0])
    if condition is None:
        return False
    name = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
    branch = node.attributes[name].as_graph()
    _hand_out(branch)
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        branch.initializers.pop(value.name or "")
        tensor = value.const_value
        if isinstance(tensor, ir.TensorProtoTensor):
            # A new name would be written into the message that the model was given as.
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype)
        value.name = _unused(f"{node.name}/{value.name}", taken)
        graph.register_initializer(value)
    nested = []
    for inner in list(branch):
        branch.remove(inner)
        inner.name = f"{node.name}/{inner.name}"
        for value in inner.outputs:
            if value.name:
                value.name = _unused(f"{node.name}/{value.name}", taken)
        graph.insert_before(node, inner)
        nested += [inner] if inner.op_type == "If" else []
    for old, new in zip(node.outputs, results, strict=True):
        for index, value in enumerate(graph.outputs):
            if value is old:
                graph.outputs[index] = new
        if old.name:  # what people and files know the tensor by
            name_kept = old.name
            old.name, new.name = f"{name_kept}/if", name_kept
        ir.convenience.replace_all_uses_with(old, new)
    graph.remove(node, safe=True)
    for inner in nested:
        _take_branch(graph, inner, taken)
    return True


def _hand_out(branch: ir.Graph) -> None:
    """Have a node make each output of a branch: one may be an initializer, or given out twice."""
    made: set[int] = set()
    own = {id(v) for inner in branch for v in inner.outputs}
    for index, value in enumerate(branch.outputs):
        if id(value) in own and id(value) not in made:
            made.add(id(value))
            continue
        copy = ir.Node("", "Identity", [value], name=f"{value.name}/out{index}")
        copy.outputs[0].name = f"{value.name}/out{index}"
        copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
        branch.append(copy)
        branch.outputs[index] = copy.outputs[0]


def _names(graph: ir.Graph) -> set[str]:
    values = (*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs))
    return {v.name for v in values if v.name}


def _unused(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken; it is from then on."""
    found, count = name, 0
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found
