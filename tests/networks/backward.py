"""What a runtime decides in its forward pass, and what it makes of that: told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from backlight.engine.runtime.session import Session

ADDED = "backlight/"  # the nodes of the backward pass


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """Norm of the difference over the norm of what is wanted, in float64."""
    want = want.astype(np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def each(got: np.ndarray, want: np.ndarray) -> list[float]:
    """Per image."""
    return [relative(one, other) for one, other in zip(got, want, strict=True)]


def backward_alone(file: str, feeds: dict[str, np.ndarray], provider: str) -> float:
    """A provider's maps against ONNX Runtime's backward pass over that provider's forward pass: the
    worst norm-relative error of an image and map.

    In the forward pass alone anything is decided: gates, and which of a window is its largest. Of
    the same tensors of it both backward passes must make the same maps, to rounding.
    """
    model = onnx.load(file)
    walk = [node for node in model.graph.node if node.name.startswith(ADDED)]
    kept = {tensor.name for tensor in model.graph.initializer}
    made = {name for node in model.graph.node if node not in walk for name in node.output}
    read = {name for node in walk for name in node.input} & made
    maps = [out.name for out in model.graph.output if out.name.startswith("saliency_")]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in [*maps, *sorted(read)])
    found = Session(_beside(file, model), provider, 2).run(feeds)

    given = {**feeds, **{name: found[name] for name in read}}
    needed = {name for node in walk for name in node.input}
    del model.graph.node[:], model.graph.output[:], model.graph.input[:]
    model.graph.node.extend(walk)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in maps)
    given = {name: values for name, values in given.items() if name in needed - kept}
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(values.dtype), [None] * values.ndim
        )
        for name, values in given.items()
    )
    again = Session(_beside(file, model), "cpu", 2).run(given)
    return max(max(each(found[name], again[name])) for name in maps)


def _beside(file: str, model: onnx.ModelProto) -> str:
    path = Path(file).with_name("cut.onnx")
    onnx.save(model, path)
    return str(path)
