"""Models of one image, without a batch dimension, read as models of a batch of one.

`load` gives such a model's image input a batch of 1, so that nobody behind it has to know;
`without_batch` gives an exported graph its own input back.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from . import traits
from .emit import all_dims, dim_of
from .methods import METHODS
from .named import constant_called
from .rules.op import constant

__all__ = ["is_lone", "with_batch", "with_rows", "without_batch"]

# The mark of an image tensor, in its `meta`, that had no batch in the file.
LONE = "backlight.lone"
_SQUEEZE = "backlight/lone"
# Operators that do the same whatever dimensions of size 1 come in front.
_FEW = (1, 2, 3, 4)

Axes = list[int | None]


def is_lone(value: ir.Value) -> bool:
    """Whether an image tensor had no batch in the file, and was given one."""
    return LONE in value.meta


def with_batch(model: ir.Model) -> bool:
    """Give the image input of a model without a batch dimension a batch of 1, in place; whether it
    was such a model. Its outputs stay as they are, but for saliency in the input's shape.

    [3, H, W] and [H, W, 3] are such, unless scores have as many rows; whatever an Unsqueeze or
    the like puts a batch before; not what it puts channels into, [N, H, W].
    """
    graph = model.graph
    image = _found(graph)
    made = None if image is None else _batched(graph, image)
    if image is None or image.shape is None or made is None:
        return False
    _sink(graph, made)
    reduce, rank = model.metadata_props.get("backlight.reduce", ""), len(image.shape) - 1
    for at, output in enumerate(graph.outputs):
        row = METHODS.get((output.name or "").removeprefix("saliency_"))
        have = None if output.shape is None else len(output.shape)
        if reduce and row is not None and row.shaped_as_image(reduce) and have == rank:
            graph.outputs[at] = _unsqueezed(graph, output)
    return True


def with_rows(model: ir.Model, image: str, rank: int) -> bool:
    """Give a model of one image, such as [3, H, W] or [1, 3, H, W], a row for it in front of its
    input and of each output, in place, where there is none; whether one was missing. rank: of the
    image with its batch."""
    graph = model.graph
    changed = False
    for value in graph.inputs:
        if value.name == image and value.shape is not None and len(value.shape) == rank - 1:
            changed |= _batched(graph, value) is not None
    for at, output in enumerate(graph.outputs):
        first = 1 if output.shape is None else 0 if not len(output.shape) else output.shape[0]
        if isinstance(first, int) and first != 1:
            graph.outputs[at] = _unsqueezed(graph, output)
            changed = True
    return changed


def _batched(graph: ir.Graph, image: ir.Value) -> ir.Node | None:
    """Put a batch of 1 in front of an input, and a Squeeze behind it for what takes it; None where
    nothing is there to do so for."""
    first = next(iter(graph), None)
    if image.shape is None or first is None:
        return None
    own = list(image.shape)
    made = ir.node("Squeeze", [image, _axes(graph)], name=_SQUEEZE)
    inner = made.outputs[0]
    inner.name, inner.type, inner.shape = f"{image.name}/own", image.type, ir.Shape(own)
    ir.convenience.replace_all_uses_with(image, inner)
    made.replace_input_with(0, image)
    graph.insert_before(first, made)
    _widen(image)
    return made


def without_batch(graph: ir.Graph) -> None:
    """Give the image input back the shape that it has in the file, in place."""
    for at, wide in enumerate(graph.inputs):
        if not is_lone(wide) or wide.shape is None:
            continue
        own = ir.Value(name=wide.name, type=wide.type, shape=ir.Shape(list(wide.shape)[1:]))
        wide.name = f"{wide.name}/batch"
        graph.inputs[at] = own
        for use in list(wide.uses()):
            if use.node.name == _SQUEEZE:
                ir.convenience.replace_all_uses_with(
                    use.node.outputs[0], own, replace_graph_outputs=True
                )
                graph.remove(use.node, safe=True)
        node = ir.Node("", "Unsqueeze", [own, _axes(graph)], outputs=[wide], name="backlight/batch")
        first = next(iter(graph), None)
        if first is None:
            graph.append(node)
        else:
            graph.insert_before(first, node)


def unbatched(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A tensor [1, ...] behind the graph, as [...]."""
    node = ir.node("Squeeze", [value, _axes(graph)], name=f"{value.name}/own")
    made = node.outputs[0]
    made.name, made.type = f"{value.name}/own", value.type
    made.shape = None if value.shape is None else ir.Shape(list(value.shape)[1:])
    graph.append(node)
    return made


def _unsqueezed(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A tensor [...] as [1, ...], under its name."""
    node = ir.node("Unsqueeze", [value, _axes(graph)], name=f"{value.name}/batch")
    made = node.outputs[0]
    made.name, value.name = value.name, f"{value.name}/own"
    made.type = value.type
    made.shape = None if value.shape is None else ir.Shape([1, *value.shape])
    graph.append(node)
    return made


def _axes(graph: ir.Graph) -> ir.Value:
    """The constant [0]."""
    return constant_called(graph, "backlight/first_axis", np.array([0], np.int64))


def _widen(value: ir.Value) -> None:
    assert value.shape is not None
    value.shape = ir.Shape([1, *value.shape])
    value.meta[LONE] = True


def _found(graph: ir.Graph) -> ir.Value | None:
    """The image input without a batch; None where there is a batch, or no image."""
    inputs = [v for v in graph.inputs if not v.is_initializer() and v.shape is not None]
    ranked = {rank: [v for v in inputs if len(v.shape or ()) == rank] for rank in (2, 3, 4, 5)}
    if ranked[4] or ranked[5]:
        return None
    for value in ranked[3] or ranked[2]:
        told = _opened(value)
        if told is None and len(ranked[3]) and _looks_lone(graph, value):
            return value
        if told:
            return value
        if len(ranked[3]):  # the first of rank 3 is the image
            return None
    return None


def _looks_lone(graph: ir.Graph, value: ir.Value) -> bool:
    """By the sizes alone: three channels before or behind, and no scores with as many rows."""
    assert value.shape is not None
    first, second, last = (dim_of(value.shape, i) for i in range(3))
    before = first == 3 and second not in _FEW and last not in _FEW
    behind = last in (1, 3, 4) and first not in _FEW and second not in _FEW
    if not (before or behind):
        return False
    shapes = [v.shape for v in graph.outputs if v.shape is not None and len(v.shape) > 1]
    return all(dim_of(shape, 0) != first for shape in shapes)


def _opened(value: ir.Value) -> bool | None:
    """Whether the model puts a batch before an image, on its way to four dimensions; None where it
    never has four, or that can't be told."""
    assert value.shape is not None
    waiting: list[tuple[ir.Value, Axes]] = [(value, list(range(len(value.shape))))]
    seen = {value}
    while waiting:
        at, axes = waiting.pop(0)
        if len(axes) == 4:
            return axes[0] is None
        for use in at.uses():
            made = use.node.outputs[0] if use.node.outputs else None
            after = None if made is None or made in seen else _after(use.node, use.idx, axes)
            if made is not None and after is not None and len(after) <= 4:
                seen.add(made)
                waiting.append((made, after))
    return None


def _after(node: ir.Node, index: int, axes: Axes) -> Axes | None:
    """Where an image's axes are behind a node: None for one that is new, in all where it is no node
    that keeps them."""
    rank, shape = len(axes), node.outputs[0].shape
    if node.domain != "":
        return None
    if node.op_type == "Transpose" and index == 0:
        perm = node.attributes.get_ints("perm", tuple(range(rank))[::-1])
        return [axes[p] for p in perm]
    if node.op_type == "Unsqueeze" and index == 0:
        new = _constant(node, 1)
        if new is None:
            return None
        wide = rank + new.size
        places = {int(n) % wide for n in new.reshape(-1)}
        rest = iter(axes)
        return [None if i in places else next(rest) for i in range(wide)]
    if shape is None:
        return None
    if node.op_type in traits.ELEMENTWISE:
        return [*[None] * (len(shape) - rank), *axes]
    if node.op_type in ("Reshape", "Expand") and index == 0:
        source = node.inputs[0]
        own = None if source is None else source.shape
        if own is not None and all_dims(shape) == [*[1] * (len(shape) - rank), *all_dims(own)]:
            return [*[None] * (len(shape) - rank), *axes]
    if node.op_type == "Resize" and index == 0 and len(shape) == rank:
        return axes
    return None


def _sink(graph: ir.Graph, squeeze: ir.Node) -> None:
    """Move a Squeeze behind what does the same with a batch in front, until an Unsqueeze that it
    cancels: what is left has a batch of 1 as any other model has."""
    waiting = [squeeze]
    while waiting:
        node = waiting.pop()
        wide, narrow = node.inputs[0], node.outputs[0]
        assert wide is not None
        for use in list(narrow.uses()):
            user = use.node
            if not user.outputs or user.graph is not graph:
                continue
            made = user.outputs[0]
            if _cancels(user, narrow):
                if not made.is_graph_output():
                    ir.convenience.replace_all_uses_with(made, wide)
                    graph.remove(user, safe=True)
                continue
            if _broadcasts(user, narrow):  # it has the batch already
                user.replace_input_with(use.idx, wide)
            elif _moves(user, narrow) and not made.is_graph_output() and len(user.outputs) == 1:
                user.replace_input_with(use.idx, wide)
                if user.op_type == "Transpose":
                    rank = len(narrow.shape or ())
                    perm = user.attributes.get_ints("perm", tuple(range(rank))[::-1])
                    user.attributes["perm"] = ir.AttrInt64s("perm", [0, *(p + 1 for p in perm)])
                waiting.append(_squeezed_behind(graph, user, made))
        if not narrow.uses() and not narrow.is_graph_output():
            graph.remove(node, safe=True)


def _squeezed_behind(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Node:
    again = ir.node("Squeeze", [value, _axes(graph)], name=f"{_SQUEEZE}/{value.name}")
    after = again.outputs[0]
    after.name, after.type = f"{value.name}/own", value.type
    after.shape = None if value.shape is None else ir.Shape(list(value.shape))
    ir.convenience.replace_all_uses_with(value, after)
    again.replace_input_with(0, value)
    graph.insert_after(node, again)
    if value.shape is not None:
        _widen(value)
    return again


def _cancels(node: ir.Node, narrow: ir.Value) -> bool:
    if node.domain != "" or node.inputs[0] is not narrow:
        return False
    if node.op_type == "Unsqueeze":
        axes = _constant(node, 1)
        wide = len(narrow.shape or ()) + 1
        return axes is not None and axes.size == 1 and int(axes.reshape(-1)[0]) % wide == 0
    shape = node.outputs[0].shape
    return (
        node.op_type == "Reshape"
        and shape is not None
        and narrow.shape is not None
        and narrow.shape.is_static()
        and all_dims(shape) == [1, *all_dims(narrow.shape)]
    )


def _others(node: ir.Node, narrow: ir.Value) -> list[ir.Value] | None:
    """The further inputs of an elementwise node, where they are constants of known shape."""
    if node.domain != "" or node.op_type not in traits.ELEMENTWISE:
        return None
    others = [v for v in node.inputs if v is not None and v is not narrow]
    known = all(constant(v) is not None and v.shape is not None for v in others)
    return others if known else None


def _broadcasts(node: ir.Node, narrow: ir.Value) -> bool:
    """Whether a constant brings the batch in: [3, H, W] less [1, 3, 1, 1]."""
    others, rank = _others(node, narrow), len(narrow.shape or ())
    if not others:
        return False
    shapes = [all_dims(v.shape) for v in others if v.shape is not None]
    return max(len(s) for s in shapes) == rank + 1 and all(
        s[0] == 1 for s in shapes if len(s) == rank + 1
    )


def _moves(node: ir.Node, narrow: ir.Value) -> bool:
    if node.domain == "" and node.op_type == "Transpose":
        return True
    others = _others(node, narrow)
    rank = len(narrow.shape or ())
    return others is not None and all(len(v.shape or ()) <= rank for v in others)


def _constant(node: ir.Node, index: int) -> NDArray[np.int64] | None:
    found = constant(node.inputs[index]) if len(node.inputs) > index else None
    return None if found is None else np.asarray(found, np.int64)
