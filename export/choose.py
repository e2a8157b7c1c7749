"""Finds what to explain by what: the image input, tensors by name. Class scores: see scores.py."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import ModelError, UsageError
from . import traits
from .backward import FLOATS
from .emit import all_dims, dim_of
from .rules.op import first_input

# So far behind labels their scores are looked for.
_STEPS = 48


@dataclass(frozen=True)
class Image:
    """The image input, the float tensor its gradient is taken at, and the channel axis there."""

    input: ir.Value
    wrt: ir.Value
    channel_axis: int
    notes: tuple[str, ...] = ()


def tensor(graph: ir.Graph, name: str, *, weights: bool = True) -> ir.Value:
    """A tensor of the graph by its name, or by the name of the node that makes it: what --of, --wrt
    and --layer go through. weights: whether one of the model's weights will do.

    Raises UsageError with the nearest names.
    """
    tensors = {v.name: v for v in graph.inputs if v.name}
    nodes: dict[str, ir.Value] = {}
    for node in graph:
        tensors |= {v.name: v for v in node.outputs if v.name}
        if node.name:
            nodes.setdefault(node.name, node.outputs[0])
    if name in tensors:
        return tensors[name]
    if name in graph.initializers:
        if weights:
            return graph.initializers[name]
        users = [u.node.outputs[0].name for u in graph.initializers[name].uses()]
        hint = f"; the tensor made with it: {users[0]}" if users else ""
        raise UsageError(f"'{name}' is a weight of the model, not a tensor it computes{hint}")
    if name in nodes:
        return nodes[name]
    known = [*tensors, *nodes]
    lower = {k.lower(): k for k in reversed(known)}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    # Part of a long name is what people type.
    near += [k for k in tensors if name.lower() in k.lower() and k not in near]
    some = near[:3] or list(tensors)[:: max(len(tensors) // 4, 1)][1:5]
    raise UsageError(
        f"no tensor '{name}' in the model; {'nearest' if near else 'for instance'}: "
        f"{', '.join(some)} ('backlight activations --list' shows every layer)"
    )


def image_input(graph: ir.Graph) -> Image:
    """The first input that looks like images: rank 4, else 5, else 3. Raises ModelError."""
    inputs = [v for v in graph.inputs if not v.is_initializer()]
    for rank in (4, 5, 3):
        for value in inputs:
            if value.shape is not None and len(value.shape) == rank and _numeric(value):
                return _image(value)
    found = ", ".join(f"'{v.name}' {shown(v)}" for v in inputs) or "none"
    open_ = next((v.name for v in inputs if v.shape is None), None)
    if open_ is not None:
        raise ModelError(
            f"no input is known to be an image (inputs: {found}); --shape says what shape one has: "
            f"--shape {open_}=1,3,224,224"
        )
    raise ModelError(
        f"no image-like input (inputs: {found}); expected one of rank 4 such as [N,3,H,W] "
        "(export and check take another tensor with --wrt)"
    )


def _numeric(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype in FLOATS or value.dtype.is_integer()


def _image(value: ir.Value) -> Image:
    wrt: ir.Value = value
    notes: tuple[str, ...] = ()
    if value.dtype is not None and value.dtype not in FLOATS:
        wrt = first_float(value)
        notes = (
            f"input '{value.name}' is {value.dtype.name.lower()}: the gradient is taken at "
            f"'{wrt.name}', the first float tensor",
        )
    return Image(value, wrt, channel_axis(wrt), notes)


def first_float(value: ir.Value) -> ir.Value:
    """The first float tensor that is computed from an integer input."""
    found: list[ir.Value] = []
    seen = {value}
    waiting = [value]
    while waiting:
        for use in waiting.pop(0).uses():
            if use.node.op_type in traits.ASKS_SIZE:
                continue
            for made in use.node.outputs:
                if made in seen:
                    continue
                seen.add(made)
                (found if made.dtype in FLOATS else waiting).append(made)
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"'{v.name}'" for v in found) or "none"
    raise ModelError(
        f"input '{value.name}' becomes float in {len(found)} places ({names}); "
        "name one tensor with --wrt"
    )


def channel_axis(value: ir.Value) -> int:
    """Where the channels of an image tensor are: last for NHWC, else 1."""
    if value.shape is None or len(value.shape) < 3:
        return 1
    rank = len(value.shape)
    first, last = dim_of(value.shape, 1), dim_of(value.shape, rank - 1)
    channels = (1, 2, 3, 4)
    if first in channels and isinstance(last, int) and last not in channels:
        return 1  # whatever it is turned for: rows or columns as a sequence
    for use in value.uses():
        perm = use.node.attributes.get_ints("perm", ()) if use.node.op_type == "Transpose" else ()
        if len(perm) == rank and perm[1] == rank - 1:
            return rank - 1
    return rank - 1 if last in channels and first not in channels else 1


def culprit(value: ir.Value) -> str:
    """The node that keeps a value's shape from being known, for a message."""
    seen = {value}
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            continue
        behind = [v for v in node.inputs if v is not None and v.shape is None]
        if not behind:
            return f": no shape follows from what {node.op_type} '{node.name}' reads"
        waiting += [v for v in behind if v not in seen]
        seen.update(behind)
    return ""


def shown(value: ir.Value) -> str:
    """A tensor's shape, for people."""
    if value.shape is None:
        return "of unknown shape"
    dims = all_dims(value.shape)
    return "[" + ",".join("?" if d is None else str(d) for d in dims) + "]"


def is_sorted(value: ir.Value) -> bool:
    """Whether a tensor holds the largest of others, in order: its columns are ranks, no classes."""
    for _ in range(_STEPS):
        node = value.producer()
        source = None if node is None or node.domain not in ("", "ai.onnx") else first_input(node)
        if node is None or source is None:
            return False
        if node.op_type == "TopK":
            return True
        if node.op_type not in traits.SAME | traits.RESHAPES:
            return False
        value = source
    return False


def behind_labels(graph: ir.Graph) -> ir.Value | None:
    """Of a model that gives labels alone, the numbers that they are the largest of."""
    for value in graph.outputs:
        for _ in range(_STEPS):
            node = value.producer()
            source = None if node is None else first_input(node)
            if source is None:
                break
            value = source
            made = value.producer() is not None and not is_sorted(value)
            if value.dtype in FLOATS and made:
                return value
    return None


def unreached(name: str, ofs: Sequence[ir.Value], so: str) -> UsageError:
    """Of a tensor that the scores don't depend on. so: what follows from that."""
    return UsageError(
        f"{name} has no way to the score '{ofs[0].name}': {so}; expected a tensor that the score "
        "is computed from"
    )


def exported(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The methods of a file that `backlight export` wrote, by its metadata; None for any other."""
    held = metadata.get("backlight.methods", metadata.get("backlight.rules"))
    return None if held is None else tuple(name for name in held.split(",") if name)
