"""Dense occlusion and the incremental graphs on ONNX Runtime, and networks small enough to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from backlight.export.graph import load
from backlight.export.incremental import IncrementalPlan

Floats = NDArray[np.float32]


def session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(compiled: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    wanted = {i.name: feeds[i.name] for i in compiled.get_inputs()}
    names = [o.name for o in compiled.get_outputs()]
    return dict(zip(names, compiled.run(None, wanted), strict=True))


def incremental_scores(
    plan: IncrementalPlan, image: NDArray[Any], baseline: NDArray[Any]
) -> dict[str, Floats]:
    """The plan's outputs for all variants, [n, ...] each."""
    sessions = {n: session(m) for n, m in (("clean", plan.clean), ("patch", plan.patch))}
    sessions["tail"] = session(plan.tail)
    found: dict[str, Floats] = {}
    seen = np.zeros(len(plan), int)
    for variants, made in plan.stream(lambda n, feeds: run(sessions[n], feeds), image, baseline):
        seen[variants] += 1
        for name, values in made.items():
            into = found.setdefault(name, np.full((len(plan), *values.shape[1:]), np.nan, "f4"))
            into[variants] = values
    assert (seen == 1).all(), "every variant is computed once"
    return found


def dense_scores(
    model: onnx.ModelProto,
    name: str,
    image: NDArray[Any],
    baseline: NDArray[Any],
    boxes: NDArray[np.int32],
    *,
    channels_last: bool = False,
    batch: int = 16,
) -> Floats:
    """A tensor of the model for all variants, each computed whole: [n, ...]."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    if name not in [o.name for o in proto.graph.output]:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    compiled = session(proto)
    source = compiled.get_inputs()[0]
    batch = source.shape[0] if isinstance(source.shape[0], int) else batch
    behind = np.broadcast_to(np.asarray(baseline, image.dtype), image.shape)
    found = []
    for start in range(0, len(boxes), batch):
        some = boxes[start : start + batch]
        variants = np.repeat(image[None], len(some), axis=0)
        for variant, (c0, c1, y0, y1, x0, x1) in zip(variants, some, strict=True):
            at = np.s_[y0:y1, x0:x1, c0:c1] if channels_last else np.s_[c0:c1, y0:y1, x0:x1]
            variant[at] = behind[at]
        found.append(compiled.run([name], {source.name: variants})[0])
    return np.concatenate(found)


def network(text: str, seed: int = 0, opset: int = 18) -> onnx.ModelProto:
    """A model from ONNX's text form; inputs after the first become weights, He-normal.

    Names that start with `var` or `count` are made positive.
    """
    random = np.random.default_rng(seed)
    graph = parser.parse_graph(text)
    for value in list(graph.input)[1:]:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        fan = int(np.prod(dims[1:])) if len(dims) > 1 else 1
        array = random.normal(0, (2 / fan) ** 0.5 if len(dims) > 1 else 0.5, dims)
        if value.name.startswith("var"):
            array = np.abs(array) + 0.5
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), value.name))
        graph.input.remove(value)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
    )
    load(model)  # a fixture that isn't ONNX fails here, not in what is tested
    return model
