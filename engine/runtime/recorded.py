"""CUDA graphs: a run recorded once and replayed, on device buffers that stay where they are.

ONNX Runtime records one of the first runs and replays it from then on: one launch instead of one
for each node, which at small batches is where the time goes. It asks for fixed shapes, buffers that
stay, and every node on CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import ModelError, RunError, UsageError
from ...export.emit import all_dims
from ...export.inference import infer_shapes
from . import arrays
from .interface import dims_of, numpy_dtype, one_line
from .session import Session

__all__ = ["CUDA_GRAPH", "Recorded", "with_fixed_batch"]

# What ONNX Runtime's CUDA provider is told.
CUDA_GRAPH = {"CUDAExecutionProvider": {"enable_cuda_graph": "1"}}


def with_fixed_batch(model: ir.Model, batch: int | None) -> ir.Model:
    """The model with the batch of every input fixed, in place. batch: None where the model fixes
    it. Raises UsageError where a size is still open, or the model fixes another batch."""
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue  # weights that old files list among the inputs
        if value.shape is None:
            raise UsageError(f"CUDA graphs need fixed shapes; input '{value.name}' has none")
        dims: list[Any] = all_dims(value.shape)
        if dims and not isinstance(dims[0], int) and batch is not None:
            dims[0] = batch
        still = [d for d in dims if not isinstance(d, int) or d < 1]
        if still:
            shown = ",".join("?" if d is None else str(d) for d in dims)
            raise UsageError(
                f"CUDA graphs need fixed shapes; input '{value.name}' is [{shown}]: give batch, "
                "and export the model at a fixed size"
            )
        if batch is not None and dims and dims[0] != batch:
            raise UsageError(
                f"input '{value.name}' has a batch of {dims[0]}, not {batch}; accepted: {dims[0]}"
            )
        value.shape = ir.Shape(dims)
    # What was inferred of an open batch would contradict the fixed one.
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    infer_shapes(model)
    return model


class Recorded:
    """A session on buffers of its own, which are filled before and copied after each run.

    session: opened with CUDA_GRAPH, of a model with fixed shapes. outputs: those that are wanted.
    Raises ModelError for an output whose size the runtime doesn't know beforehand.
    """

    def __init__(self, session: Session, outputs: Sequence[str]) -> None:
        cp = arrays.cupy()
        self._inner, self._cp = session.inner, cp
        device = int(cp.cuda.runtime.getDevice())
        self._binding = session.inner.io_binding()
        self._in = {i.name: _buffer(cp, i) for i in session.inputs}
        declared = {o.name: o for o in session.inner.get_outputs()}
        # All outputs are bound: the runtime would place the others anew for each run.
        self._out = {name: _buffer(cp, declared[name]) for name in session.outputs}
        self._wanted = list(outputs)
        for name, x in self._in.items():
            self._binding.bind_input(name, "cuda", device, x.dtype, x.shape, x.data.ptr)
        for name, y in self._out.items():
            self._binding.bind_output(name, "cuda", device, y.dtype, y.shape, y.data.ptr)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run on NumPy or CuPy arrays of the fixed shapes; CuPy arrays come back. Raises
        RunError."""
        for name, buffer in self._in.items():
            value = feeds[name]
            if arrays.is_cuda(value):
                buffer[...] = value
            else:
                buffer.set(np.ascontiguousarray(value, buffer.dtype))
        # The runtime has a stream of its own: what it reads must be there.
        self._cp.cuda.get_current_stream().synchronize()
        try:
            self._inner.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
        except Exception as err:  # the runtime's own exceptions share no documented base
            raise RunError(f"onnxruntime failed: {one_line(err)}") from err
        # The next run writes over the buffers.
        return {name: self._out[name].copy() for name in self._wanted}


def _buffer(cp: Any, declared: Any) -> Any:
    """A device buffer for an input or output as the runtime declares it."""
    shape = dims_of(declared.shape)
    if any(d is None for d in shape):
        raise ModelError(
            f"CUDA graphs need fixed shapes; the size of '{declared.name}' depends on the run"
        )
    return cp.empty(shape, numpy_dtype(declared.type))
