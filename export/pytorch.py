"""A PyTorch module as an ONNX model. Needs the extra `torch`."""

from __future__ import annotations

import importlib
from typing import Any

import onnx

from ..errors import ModelError, UsageError

__all__ = ["from_pytorch"]


def from_pytorch(module: Any, example: Any, *, dynamic_batch: bool = True) -> onnx.ModelProto:
    """Trace a `torch.nn.Module` in evaluation mode.

    example: one input tensor of the module, [N, C, H, W]; with `dynamic_batch` its first dimension
    may be anything later on. The input is named `input`, the output `output`. The module's mode is
    put back. Raises UsageError without PyTorch, ModelError for what PyTorch can't export.
    """
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("onnxscript")
    except ImportError as err:
        raise UsageError("PyTorch is not installed; pip install 'backlight[torch]'") from err
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"expected a torch.nn.Module, not a {type(module).__name__}")
    training = module.training
    # A batch of 1 would be taken for a constant.
    if dynamic_batch and example.shape[0] == 1:
        example = torch.cat([example, example])
    shapes = {0: torch.export.Dim("batch")} if dynamic_batch else None
    try:
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=None if shapes is None else (shapes,),
            dynamo=True,
            verbose=False,
        )
    except Exception as err:  # the exporter raises many kinds
        text = " ".join(str(err).split())
        raise ModelError(f"PyTorch can't export {type(module).__name__}: {text[:200]}") from err
    finally:
        module.train(training)
    proto: onnx.ModelProto = program.model_proto
    return proto
