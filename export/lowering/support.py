"""What a runtime would refuse of a graph, or hand back to the CPU: found by tables, without it.

The tables are in `operators.py`; here is what they can't say: attributes, constants, ranks. What
it says in words comes from the documents that the tables come from, and from
onnx-tensorrt's builtin_op_static_checkers.cpp (Einsum's letters, the rank of DepthToSpace), and
ONNX Runtime's cuda_execution_provider.cc (ConvTranspose's pads, ArgMax's last index).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from ..backward import operator_version
from ..emit import dim_of
from ..graph import opset_of
from ..inference import infer_shapes
from ..rules import Op, guarded
from .operators import CUDA, EXPANDED, NOT_OPENVINO, RELEASES, TENSORRT, TYPES, Kernels

__all__ = ["TARGETS", "Refusal", "unsupported"]

TARGETS = ("cuda", "tensorrt", "openvino")
# What the emitter's names begin with: the nodes that are not the model's own.
OURS = "backlight/"
OPSETS = range(9, 25)
RANKS = 8

Why = tuple[str, str]
Test = Callable[[Op], "Why | None"]


@dataclass(frozen=True)
class Refusal:
    """A node that a target won't run, and what it would. ours: it is no node of the model's."""

    node: str
    operator: str
    reason: str
    accepted: str
    ours: bool

    def line(self) -> str:
        """As one line."""
        where = f"{self.operator} '{self.node}': " if self.operator else ""
        return f"{where}{self.reason}; accepted: {self.accepted}"


def unsupported(model: ir.Model, target: str) -> tuple[Refusal, ...]:
    """The nodes of a whole graph, forward and backward, that a target would not take.

    cuda: what ONNX Runtime's CUDA provider hands back to the CPU. Arithmetic on shapes is not
    among it: shapes live on the host, and so do those nodes. tensorrt: what its ONNX parser
    rejects. openvino: what its frontend has no conversion for. Nothing for other targets. Shapes
    and types that ONNX can infer are written into the model.
    """
    if target not in TARGETS:
        return ()
    infer_shapes(model)
    opset = opset_of(model)
    found = []
    if target == "tensorrt" and opset not in OPSETS:
        bounds = f"opset {OPSETS[0]} to {OPSETS[-1]}"
        found.append(Refusal("", "", f"opset {opset} is not read", bounds, False))
    skipped = _off_the_device(model.graph)
    for node in model.graph:
        if target == "cuda" and node in skipped:
            continue
        why = _refused(node, target, opset)
        if why is not None:
            name = node.name or node.outputs[0].name or ""
            found.append(Refusal(name, node.op_type, *why, ours=name.startswith(OURS)))
    return tuple(found)


def _off_the_device(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that compute constants, folded on loading, and those that compute on shapes."""
    found: set[ir.Node] = set()
    fixed: set[ir.Value] = set(graph.initializers.values())
    shapes: set[ir.Value] = set()
    for node in graph:
        reads = [v for v in node.inputs if v is not None]
        if node.op_type == "Constant" or (reads and all(v in fixed for v in reads)):
            found.add(node)
            fixed.update(node.outputs)
        elif node.op_type == "Shape":
            # Its own kernel is the device's; what it gives lies on the host.
            shapes.update(node.outputs)
        # Expand and ConstantOfShape make tensors of a shape: those are the device's.
        elif node.op_type not in ("Expand", "ConstantOfShape") and (
            any(v in shapes for v in reads) and all(v in shapes or v in fixed for v in reads)
        ):
            found.add(node)
            shapes.update(node.outputs)
    return found


def _refused(node: ir.Node, target: str, opset: int) -> Why | None:
    who = RELEASES[target]
    if node.domain not in ("", "ai.onnx"):
        return f"operator of the domain '{node.domain}'", "standard ai.onnx operators"
    if target == "openvino":
        if node.op_type in NOT_OPENVINO:
            return f"{who} has no conversion for it", "operators that it has"
        return None
    version = operator_version(node.op_type, opset)
    if target == "cuda":
        if node.op_type in EXPANDED:
            return None
        types = _of_version(CUDA, node.op_type, version)
        if node.op_type not in CUDA:
            return f"{who} has no kernel for it: it runs on the CPU", "operators that it has"
        if types is None:
            known = ", ".join(map(str, sorted(CUDA[node.op_type])))
            return (
                f"{who} has no kernel for version {version} (opset {opset}): it runs on the CPU",
                f"version {known}, by a model of a lower opset, or a newer ONNX Runtime",
            )
        tests = _CUDA_TESTS
    else:
        types = TENSORRT.get(node.op_type, {}).get(0)
        if types is None:
            return f"{who} has no such operator", "operators that it has"
        if any(v.shape is not None and len(v.shape) > RANKS for v in node.outputs):
            return "its result has more than 8 dimensions", "8 dimensions at most"
        tests = _TENSORRT_TESTS
    why = _typed(node, types, who)
    test = tests.get(node.op_type)
    if why is not None or test is None:
        return why
    op = Op(node, ())
    with guarded(op):
        return test(op)


def _of_version(kernels: Kernels, op_type: str, version: int) -> str | None:
    return kernels.get(op_type, {}).get(version)


def _typed(node: ir.Node, letters: str, who: str) -> Why | None:
    """Whether the node's data are of a type that is taken; unknown types are."""
    if not node.inputs:
        return None
    place = 1 if node.op_type in ("Where", "OneHot") and letters != "il" else 0
    value = node.inputs[place] if place < len(node.inputs) else None
    known = frozenset().union(*(TYPES[letter] for letter in letters))
    if value is None or value.dtype is None or value.dtype in known:
        return None
    names = ", ".join(sorted(t.name.lower() for t in known))
    return f"{who} has it not for {value.dtype.name.lower()}", names


def _asymmetric(op: Op) -> Why | None:
    """CUDA's ConvTranspose."""
    if op.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"auto_pad = {op.attr('auto_pad')}: it runs on the CPU", "pads"
    pads = op.attr("pads", ())
    if pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
        return "asymmetric pads: it runs on the CPU", "symmetric pads with output_padding"
    return None


def _last_index(op: Op) -> Why | None:
    if op.attr("select_last_index", 0):
        return "select_last_index = 1: it runs on the CPU", "select_last_index = 0"
    return None


def _wrapped(op: Op) -> Why | None:
    if op.attr("mode", "constant") == "wrap":
        return "mode = wrap: it runs on the CPU", "constant, reflect, edge"
    return None


_CUDA_TESTS: dict[str, Test] = {
    "ArgMax": _last_index,
    "ArgMin": _last_index,
    "ConvTranspose": _asymmetric,
    "Pad": _wrapped,
}


def _constant(index: int, name: str) -> Test:
    def test(op: Op) -> Why | None:
        if op.input(index) is None or op.const(index) is not None:
            return None
        return f"{name} computed in the run", f"{name} as an initializer"

    return test


def _no_dilations(op: Op) -> Why | None:
    if any(d != 1 for d in op.attr("dilations", ())):
        return f"dilations = {list(op.attr('dilations'))}", "dilations of 1"
    return None


def _window(op: Op) -> Why | None:
    if op.x.shape is not None and len(op.x.shape) not in (4, 5):
        return f"a pool over {len(op.x.shape) - 2} axes", "2 or 3 axes"
    return _no_dilations(op)


def _max_pool(op: Op) -> Why | None:
    # The parser counts outputs, used or not.
    if len(op.node.outputs) > 1:
        return "it has an output for Indices", "its first output alone"
    return _window(op)


def _scatter_nd(op: Op) -> Why | None:
    kind = op.attr("reduction", "none")
    return None if kind == "none" else (f"reduction = {kind}", "reduction = none")


def _first_output(op: Op) -> Why | None:
    if any(v.uses() or v.is_graph_output() for v in op.node.outputs[1:]):
        return "more than its first output is used", "its first output alone"
    return None


_COORDINATES = frozenset(
    "half_pixel pytorch_half_pixel tf_half_pixel_for_nn asymmetric align_corners".split()
)


def _resize(op: Op) -> Why | None:
    how = op.attr("coordinate_transformation_mode", "half_pixel")
    if op.attr("mode", "nearest") not in ("nearest", "linear"):
        return f"mode = {op.attr('mode')}", "nearest, linear"
    if how not in _COORDINATES:
        return f"coordinate_transformation_mode = {how}", ", ".join(sorted(_COORDINATES))
    if op.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        policy = op.attr("keep_aspect_ratio_policy")
        return f"keep_aspect_ratio_policy = {policy}", "stretch"
    if op.attr("antialias", 0):
        return "antialias = 1", "antialias = 0"
    axes, rank = op.attr("axes", None), None if op.x.shape is None else len(op.x.shape)
    if op.input(2) is not None and axes is not None and list(axes) != list(range(rank or -1)):
        return f"scales for axes = {list(axes)}", "scales for all axes, in order"
    return None


def _attention(op: Op) -> Why | None:
    ranks = [len(v.shape) for v in op.node.inputs[:4] if v is not None and v.shape is not None]
    if any(rank != 4 for rank in ranks):
        return f"inputs of {min(ranks)} dimensions", "Q, K, V and a mask of 4 dimensions"
    if any(op.input(index) is not None for index in (4, 5, 6)):
        return "past keys, values or their lengths", "Q, K, V and a mask"
    for name in ("softcap", "qk_matmul_output_mode"):
        if op.attr(name, 0):
            return f"{name} = {op.attr(name)}", f"{name} = 0"
    return _first_output(op)


def _lstm(op: Op) -> Why | None:
    for name in ("input_forget", "layout"):
        if op.attr(name, 0):
            return f"{name} = {op.attr(name)}", f"{name} = 0"
    return None


def _einsum(op: Op) -> Why | None:
    equation = str(op.attr("equation"))
    if any(c.isupper() for c in equation):
        return f"equation = {equation}", "lower-case letters"
    return None


def _four(op: Op) -> Why | None:
    if op.x.shape is not None and len(op.x.shape) != 4:
        return f"an input of {len(op.x.shape)} dimensions", "4 dimensions"
    return None


def _top_k(op: Op) -> Why | None:
    if not op.attr("sorted", 1):
        return "sorted = 0", "sorted = 1"
    k = op.const(1)
    if k is not None and int(k.reshape(())) >= 3840:
        return f"K = {int(k.reshape(()))}", "K below 3840"
    return None


def _zero_point(op: Op) -> Why | None:
    zero = op.const(2) if op.input(2) is not None else None
    return (
        ("a zero point other than 0", "zero point 0") if zero is not None and zero.any() else None
    )


def _training(op: Op) -> Why | None:
    mode = op.const(2) if op.input(2) is not None else None
    return None if mode is None or not mode.any() else ("training mode", "training_mode = false")


def _static(op: Op) -> Why | None:
    shape = op.x.shape
    if shape is not None and all(isinstance(dim_of(shape, i), int) for i in range(len(shape))):
        return None
    return "an input of dynamic size", "fixed sizes"


_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()
_TENSORRT_TESTS: dict[str, Test] = {
    **{f"Reduce{name}": _constant(1, "axes") for name in _REDUCTIONS},
    "Attention": _attention,
    "AveragePool": _window,
    "CumSum": _constant(1, "axis"),
    "DepthToSpace": _four,
    "Dropout": _training,
    "Einsum": _einsum,
    "EyeLike": _static,
    "GridSample": _four,
    "LSTM": _lstm,
    "LayerNormalization": _first_output,
    "LpPool": _no_dilations,
    "MaxPool": _max_pool,
    "OneHot": _constant(1, "depth"),
    "DequantizeLinear": _zero_point,
    "QuantizeLinear": _zero_point,
    "Resize": _resize,
    "ScatterND": _scatter_nd,
    "SpaceToDepth": _four,
    "Squeeze": _constant(1, "axes"),
    "TopK": _top_k,
    "Unsqueeze": _constant(1, "axes"),
}
