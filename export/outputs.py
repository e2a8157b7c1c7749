"""The outputs that an export adds: a map in its own shape and dtype, under the contract's name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..errors import ModelError, UsageError
from . import choose, seed
from .emit import HALVES, Emitter, all_dims
from .explaining import Explaining, Seed
from .finish import Walked
from .methods import Method
from .variations import GAP, RISE

__all__ = ["add_output", "by_image", "reserve_names"]


# The names that methods which vary the image add to the graph.
VARIED_NAMES: Mapping[str, Sequence[str]] = {
    "": (),
    "noise": ("noise",),
    "path": ("alphas", "weights", "baseline", GAP, RISE),
}


def by_image(x: Explaining, row: Method, start: Seed, at: int, reduce: str) -> ir.Value:
    """A method's map by the image, or by one of the tensors that --wrt names."""
    walked = Walked(x, start, row.rules, at)
    if row.varies:
        return _reduced(x.e, row.finish(walked), x.wrt[at], reduce, x.narrowed)
    # Before the finish: no scale of its own may be between the two.
    x.walk(row.rules, start, x.wrt)
    # At its true size a map may be below float16's range.
    with x.e.in_float32():
        return _reduced(x.e, row.finish(walked), x.wrt[at], reduce, x.narrowed)


def reserve_names(graph: ir.Graph, rows: Sequence[Method], contrast: str | int | None) -> None:
    """Free the contract's names inside the model; refuse a model whose own ends have them."""
    values = ir.convenience.create_value_mapping(graph)
    reserved = ["target", "cotangent", *(row.output for row in rows)]
    if contrast is not None or any(row.seed is seed.CONTRAST for row in rows):
        reserved.append("contrast")
    for row in rows:
        reserved += VARIED_NAMES[row.varies]
    # With several tensors the names are numbered: cotangent_0, saliency_guided_1.
    ours = {n for n in values if re.fullmatch(rf"({'|'.join(reserved)})(_[0-9]+)?", n)}
    ends = {v.name for v in (*graph.inputs, *graph.outputs)}
    clash = sorted(ours & {name for name in ends if name})
    if clash:
        raise ModelError(
            f"the model has an input or output '{clash[0]}' of its own (is it an exported one?); "
            f"expected a model without {', '.join(dict.fromkeys(reserved))}"
        )
    for name in sorted(ours):
        values[name].name = f"{name}/own"


def _reduced(e: Emitter, ct: ir.Value, wrt: ir.Value, reduce: str, narrowed: bool) -> ir.Value:
    """The map of a cotangent, in the dtype of `wrt`: in float32 where that is half and nobody
    asked for halves. A gradient is often below what float16 can tell from 0."""
    dtype = wrt.dtype
    if not narrowed and dtype in HALVES:
        dtype = ir.DataType.FLOAT
    if reduce == "none":
        ct.shape = wrt.shape
        return ct if dtype is None else e.cast(ct, dtype)
    axis = choose.channel_axis(wrt)
    shape = wrt.shape
    if shape is None or len(shape) < 3:
        raise UsageError(f"reduce 'maxabs' needs an image-like tensor; '{wrt.name}' is not")
    left = [d for i, d in enumerate(all_dims(shape)) if i != axis]
    if ct.dtype is ir.DataType.BFLOAT16:
        ct = e.cast(ct, ir.DataType.FLOAT)  # ONNX Runtime's CPU has no Abs of bfloat16
    reduced = e.ReduceMax(e.Abs(ct), [axis], keepdims=0, _shape=left)
    return reduced if dtype is None else e.cast(reduced, dtype)


def add_output(e: Emitter, value: ir.Value, name: str, own: set[int]) -> None:
    """Make a value a graph output under its name; another node where it is one already."""
    taken = value.producer() is None or value.is_graph_output() or id(value) in own
    output = e.op("Identity", [value], _shape=value.shape)[0] if taken else value
    while output.is_graph_output():  # rules that agree: the memo gives the same Identity
        output = e.op("Identity", [output], _shape=value.shape)[0]
    output.name = name
    e.graph.outputs.append(output)
